"""The parts of a model (fields, indexes, rules and declarations), with the package of each.

This needs no database, so that the effect of installing or removing a plugin is known before.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from earnorm.features.indexes.declarations import (
    declared_indexes,
    declared_search_indexes,
    entry_name,
)
from earnorm.features.provenance.declared import options_of, targets_of
from earnorm.kernel.contract.left_out import need_feature
from earnorm.model.extension import owners
from earnorm.model.validation.constraints import declared_rules

if TYPE_CHECKING:
    from earnorm.kernel.app import App
    from earnorm.kernel.catalog import Origins
    from earnorm.model.base import BaseModel

Kind = Literal["field", "index", "rule", "declaration"]


@dataclass(frozen=True, slots=True)
class Part:
    """One part of a model.

    Attributes:
        model: The model's name.
        kind: ``field``, ``index``, ``rule`` (a method under ``@constrains`` or ``@validates``), or
            ``declaration`` (a class attribute that a plugin reads, such as ``_rules``).
        name: The part's name.
        detail: A description, e.g. the class of a field.
        targets: The names of the models to which a relation leads; empty for one to any model.
        options: The options of a field as they are declared, each as text: ``min_length=3``.
        origin: The package of the part; of an overridden field, the one that wins.
        overrides: The packages whose parts it replaces.
    """

    model: str
    kind: Kind
    name: str
    detail: str
    origin: str
    overrides: tuple[str, ...] = ()
    targets: tuple[str, ...] = ()
    options: tuple[str, ...] = ()

    def __str__(self) -> str:
        over = f", in the place of {' and '.join(self.overrides)}" if self.overrides else ""
        to = f" to {' or '.join(self.targets)}" if self.targets else ""
        detail = ", ".join((f"{self.detail}{to}", *self.options))
        return f"{self.model}: {self.kind} {self.name} ({detail}), of {self.origin}{over}"


@dataclass(frozen=True, slots=True)
class Contributions:
    """The difference between two selections of plugins.

    Attributes:
        added: Parts that only the second one has.
        removed: Parts that only the first one has.
    """

    added: tuple[Part, ...]
    removed: tuple[Part, ...]


def parts_of(app: App, model: type[BaseModel]) -> list[Part]:
    """Return the parts of a model.

    Args:
        app: The App with the model.
        model: The model's class in this App (``app.model(name)``).
    """
    need_feature("provenance", "parts()", app)
    origins = app.origins
    return [
        *_fields(model, origins),
        *_indexes(model, origins),
        *_rules(model, origins),
        *_declarations(model, origins),
    ]


def difference(before: list[Part], after: list[Part]) -> Contributions:
    """Return the parts that are added and removed between two lists of parts."""
    return Contributions(
        tuple(part for part in after if part not in before),
        tuple(part for part in before if part not in after),
    )


def _part(
    model: type[BaseModel],
    kind: Kind,
    name: str,
    detail: str,
    classes: list[type],
    origins: Origins,
) -> Part:
    packages = list(dict.fromkeys(map(origins.of, classes)))
    return Part(model._name, kind, name, detail, packages[0], tuple(packages[1:]))


def _fields(model: type[BaseModel], origins: Origins) -> Iterator[Part]:
    for name, field in model._schema.fields.items():
        classes = list(owners(model, name))
        part = _part(model, "field", name, type(field).__name__, classes, origins)
        yield replace(part, targets=targets_of(field), options=options_of(field))


def _indexes(model: type[BaseModel], origins: Origins) -> Iterator[Part]:
    declared_in: dict[str, type] = {}
    for cls in reversed(model.__mro__):
        for entry in vars(cls).get("_indexes", ()):
            declared_in.setdefault(entry_name(model, entry), cls)
    fields = {field.db_name: field.name for field in model._schema.stored}
    for spec in declared_indexes(model):
        cls = declared_in.get(spec.name) or next(  # the scopes come before the field's own key
            owners(model, fields[spec.keys[-1][0].partition(".")[0]])
        )
        detail = "unique" if spec.options.get("unique") else "index"
        yield _part(model, "index", spec.name, detail, [cls], origins)
    for search in declared_search_indexes(model):
        yield _part(model, "index", search.name, search.kind, [declared_in[search.name]], origins)


def _rules(model: type[BaseModel], origins: Origins) -> Iterator[Part]:
    for name, rule in declared_rules(model).items():
        classes = list(owners(model, name))
        yield _part(model, "rule", name, f"{rule.kind} {', '.join(rule.fields)}", classes, origins)


def _declarations(model: type[BaseModel], origins: Origins) -> Iterator[Part]:
    own = frozenset(dir(_base_model(model)))
    for cls in model.__mro__:
        for name, value in vars(cls).items():
            if name.startswith("_") and name not in own and isinstance(value, list | tuple):
                yield from (
                    _part(model, "declaration", name, _label(item), [cls], origins)
                    for item in value
                )


def _base_model(model: type[BaseModel]) -> type[Any]:
    return next(c for c in reversed(model.__mro__) if vars(c).get("_abstract") and "_id" in vars(c))


def _label(item: object) -> str:
    label = getattr(item, "name", None) or getattr(item, "role", None)
    return f"{type(item).__name__} {label}" if isinstance(label, str) else type(item).__name__
