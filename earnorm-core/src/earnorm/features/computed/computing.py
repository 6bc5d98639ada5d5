"""Computed and related fields of one class: their dependencies, values in memory and inverses.

``dependencies`` and ``recomputing`` treat the changes of other models that a stored field depends
on.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from operator import methodcaller
from typing import TYPE_CHECKING, Any, Final, TypeVar

from earnorm.domain import Condition, Domain
from earnorm.exceptions import (
    DomainError,
    ErrorDetail,
    FieldNotLoaded,
    ValidationError,
    nearest,
)
from earnorm.fields.base import Field, is_async, not_written
from earnorm.fields.relational import Relation, is_recordset
from earnorm.model.reading.fetch import is_gone
from earnorm.model.slots import pending_of

if TYPE_CHECKING:
    from earnorm.model.base import BaseModel
    from earnorm.model.reading.fetch import Fetch
    from earnorm.model.schema import Schema

__all__ = ["Formula", "Formulas", "declare", "depends", "formulas_of"]

F = TypeVar("F", bound=Callable[..., Any])
Substitute = Callable[[str, str, object], Domain]
"""Makes a domain with the same meaning, from the rest of a path, an operator and a value."""
_MARK: Final = "_earnorm_depends"


def depends(*paths: str) -> Callable[[F], F]:
    """Declare the fields, and dotted paths across relations, that a ``compute=`` method reads.

    The method belongs to a record and returns the field's value; it changes nothing. A path that is
    not named here is not loaded for the method. An override adds its paths to those of the method
    that it overrides. For a field with ``store=True`` the method may be a coroutine function.

    Args:
        *paths: ``"price"``, ``"line_ids.qty"``, ``"partner_id.country_id.vat"``; none for a value that
            depends on nothing.
    """
    if not all(isinstance(path, str) and path for path in paths):
        raise TypeError('@depends takes paths of fields: @depends("price", "line_ids.qty")')

    def declare(method: F) -> F:
        if not callable(method):
            raise TypeError(f"@depends stands above a method, not above a {type(method).__name__}")
        setattr(method, _MARK, paths)
        return method

    return declare


# -- one field ------------------------------------------------------------------------------------


class Formula:
    """The computation of one field of a class.

    Attributes:
        field: The field.
        depends: The paths that the field depends on.
        paths: The same, each as its names.
        follows_links: True if the method may meet a record that is gone.
        is_async: True if the method is a coroutine function.
        value: Computes the value for a record in memory; a coroutine if ``is_async``.
    """

    __slots__ = (
        "_far",
        "_names",
        "depends",
        "field",
        "follows_links",
        "is_async",
        "method",
        "paths",
        "value",
    )

    def __init__(self, cls: type[BaseModel], field: Field[Any, Any]) -> None:
        computed = field.computed
        assert computed is not None
        self.field = field
        self.method = computed.compute
        self._names = tuple(computed.related.split(".")) if computed.related else ()
        self.depends: tuple[str, ...] = (computed.related,) if self._names else ()
        self.is_async = False
        self._far: tuple[tuple[str, ...], ...] = ()
        # A methodcaller is implemented in C, so that it costs no call of a Python function.
        self.value: Callable[[Any], Any] = (
            self._follow if self._names else methodcaller(self.method)
        )
        if not self._names:
            self.depends = _paths_of(cls, field, self.method)
            self._far = _far_paths(cls, self.depends)
            self.is_async = is_async(getattr(cls, self.method))
            if self.is_async and not field.stored:
                raise TypeError(
                    f"{cls.__name__}.{self.method}: reading a field cannot wait for a coroutine; "
                    f"write it without 'async', or give {field.name!r} store=True"
                )

        self.paths = tuple(tuple(path.split(".")) for path in self.depends)
        # A related field stops at a record that is gone by itself.
        self.follows_links = not self._names and (
            bool(self._far)
            or any(isinstance(cls._schema.fields.get(head), Relation) for head in self.heads)
        )

    @property
    def heads(self) -> tuple[str, ...]:
        """The fields of the record itself with which the paths begin."""
        return tuple(dict.fromkeys(path.partition(".")[0] for path in self.depends))

    def refuse_parts(self, record: Any) -> None:
        """Refuse to compute from a relation of which only a part is loaded.

        Raises:
            FieldNotLoaded: A path of ``depends`` leads through such a relation.
        """
        for names in self._far:
            places: list[Any] = [record]
            for name in names:
                values: list[Any] = [getattr(place, "__dict__", {}).get(name) for place in places]
                places = []
                for value in values:
                    if is_recordset(value):
                        value._refuse_part(f"compute {self.field.name!r}")
                        places += value._records or ()
                    elif value is not None:
                        places += value if isinstance(value, list) else [value]

    def _follow(self, record: Any) -> Any:
        for name in self._names:
            if record is None or is_gone(record):
                return None
            record = getattr(record, name)
        return record

    def __str__(self) -> str:
        return f"{self.field.model_name}.{self.field.name}"


def _paths_of(cls: type[Any], field: Field[Any, Any], method: str) -> tuple[str, ...]:
    if not callable(getattr(cls, method, None)):
        names = [name for name in dir(cls) if callable(getattr(cls, name, None))]
        raise TypeError(
            f"{cls.__name__}.{field.name}: compute={method!r} is no method{nearest(method, names)}"
        )
    all_paths: dict[str, None] = {}
    is_marked = False
    for ancestor in reversed(cls.__mro__):
        paths = getattr(vars(ancestor).get(method), _MARK, None)
        if paths is not None:
            is_marked = True
            all_paths.update(dict.fromkeys(paths))
    if not is_marked:
        raise TypeError(
            f"{cls.__name__}.{method} computes {field.name!r} and needs @depends(...) above it: what "
            f"it reads; @depends() where that is nothing"
        )
    return tuple(all_paths)


def _far_paths(cls: type[Any], paths: Iterable[str]) -> tuple[tuple[str, ...], ...]:
    """Return the paths that may lead through a to-many relation, by their names."""
    fields = cls._schema.fields
    return tuple(
        tuple(path.split("."))
        for path in paths
        if "." in path or getattr(fields.get(path), "to_many", False)
    )


# -- all of a class -------------------------------------------------------------------------------


class Formulas:
    """The computed fields of one class; a class without any has None instead.

    Attributes:
        by_name: The formula of each field, by the field's name.
        stored: The formulas of the fields that are stored in the document.
        stale: The stored fields that depend on a field of the record itself, by that field's name.
        inverses: The names of the fields that can be written.
    """

    def __init__(self, cls: type[BaseModel], fields: Sequence[Field[Any, Any]]) -> None:
        self._fields = cls._schema.fields
        self.by_name = {field.name: Formula(cls, field) for field in fields}
        self.stored = tuple(formula for formula in self.by_name.values() if formula.field.stored)
        self.stale: dict[str, tuple[str, ...]] = {}
        for formula in self.stored:
            for head in self._heads(formula, {}):
                self.stale[head] = (*self.stale.get(head, ()), formula.field.name)
        self.inverses = frozenset(
            field.name for field in fields if field.computed is not None and field.computed.inverse
        )
        self.late_inverses = frozenset(
            name for name in self.inverses if is_async(getattr(cls, _inverse(fields, name), None))
        )
        """The names of the fields whose inverse is a coroutine function."""
        self._in_order = sorted(  # the order of declaration, which sorted() keeps among equals
            (field.name for field in fields if field.name in self.inverses),
            key=self.late_inverses.__contains__,
        )
        self.elsewhere = frozenset(
            formula.field.name
            for formula in self.stored
            if any(
                getattr(cls._schema.fields.get(n), "to_many", False)
                for n in self._heads(formula, {})
            )
        )
        """The names of the stored fields that depend on records which point at this one."""
        self.has_along = any(
            isinstance(field, Relation) and field.copies_target and name in self.stale
            for name, field in cls._schema.fields.items()
        )
        """True if a stored field depends on a record that is written along with this one."""
        self.substitutes: dict[str, Substitute] = {}
        for field in fields:
            assert field.computed is not None
            for method in filter(None, (field.computed.search, field.computed.inverse)):
                if not callable(getattr(cls, method, None)):
                    raise TypeError(f"{cls.__name__}.{field.name}: {method!r} is no method")
            if field.stored:
                continue  # a search finds a stored value as it does that of any other field
            if field.computed.search:
                self.substitutes[field.name] = partial(_searched, cls, field)
            elif field.computed.related:
                self.substitutes[field.name] = partial(_related, field.computed.related)

    def _heads(self, formula: Formula, seen: dict[str, None]) -> Mapping[str, None]:
        for head in formula.heads:
            if head not in seen:
                seen[head] = None
                if head in self.by_name:
                    self._heads(self.by_name[head], seen)
        return seen

    # -- in memory ----------------------------------------------------------------------------

    def following(self, names: Iterable[str]) -> Collection[str]:
        """Return the names of the stored fields whose values depend on these fields."""
        return {stale_name for name in names for stale_name in self.stale.get(name, ())}

    def changed(self, record: Any, name: str) -> None:
        """Remove the values that depend on an assigned field; the next read computes them."""
        for stale_name in self.stale.get(name, ()):
            record.__dict__.pop(stale_name, None)

    def read(self, record: Any, field: Field[Any, Any]) -> Any:
        """Compute the value of a field that the record's state does not have.

        Raises:
            FieldNotLoaded: A field that it depends on was not fetched.
            ValidationError: The method of a required field gave None.
        """
        formula = self.by_name[field.name]
        if formula._far:
            formula.refuse_parts(record)
        fetch: Fetch | None = getattr(record, "_fetch", None)
        loaded = None if fetch is None else fetch.loaded
        if fetch is not None and loaded is not None and field.name not in loaded:
            refusal = fetch.withheld(record, field.name)
            if refusal is not None:
                raise refusal
        if not field.stored:
            value = _value(formula, record)
            if value is None and field.required and formula.method:
                raise _none(formula)
            return value
        if fetch is not None and not fetch.has(field.name) and not self._is_stale(record, field):
            raise fetch.unread(record, field.name)
        if formula.is_async:
            raise FieldNotLoaded(
                f"{formula} is computed by a coroutine: 'await record.save()' computes it"
            )
        return _value(formula, record)

    def can_read(self, record: Any, field: Field[Any, Any]) -> bool:
        """Return whether everything that a field's value is computed from was fetched."""
        formula = self.by_name[field.name]
        fetch: Fetch | None = getattr(record, "_fetch", None)
        loaded = None if fetch is None else fetch.loaded
        is_unread = fetch is not None and loaded is not None and field.name not in loaded
        if is_unread and fetch is not None and fetch.withheld(record, field.name) is not None:
            return False
        if field.stored:
            if (
                fetch is not None
                and not fetch.has(field.name)
                and not self._is_stale(record, field)
            ):
                return False
            if formula.is_async:
                return False
        from earnorm.features.computed.loaded_paths import is_loaded  # loaded with the first App

        return all(is_loaded(record, names) for names in formula.paths)

    def depends(self, name: str) -> Sequence[str]:
        """Return the paths that a field's value follows from."""
        return self.by_name[name].depends

    def sources(self, names: Iterable[str]) -> Collection[str]:
        """Return the record's stored fields that the values of those not stored follow from."""
        found: set[str] = set()
        for name in names:
            formula = self.by_name.get(name)
            if formula is not None and not formula.field.stored:
                heads = [head for head in formula.heads if head in self._fields]
                found |= {head for head in heads if self._fields[head].stored}
                found.update(self.sources(heads))
        return found

    def _is_stale(self, record: Any, field: Field[Any, Any]) -> bool:
        changes = pending_of(record).changes
        return any(field.name in self.stale.get(name, ()) for name in changes)

    # -- writing ------------------------------------------------------------------------------

    def assign(self, record: Any, field: Field[Any, Any], value: Any) -> None:
        """Call the field's inverse with an assigned value.

        Raises:
            ValidationError: The field has no inverse, or the inverse is a coroutine function.
        """
        if field.name not in self.inverses:
            raise ValidationError(type(record)._name, [not_written(field)])
        if hasattr(record, "_fetch") and record._fetch.is_ghost:
            _refuse_unknown_class(record, field)
        result = self.invert(record, field.name, value)
        if inspect.isawaitable(result):
            getattr(result, "close", lambda: None)()
            raise _not_assigned(record, field, "its inverse is a coroutine:")

    def invert(self, record: Any, name: str, value: Any) -> Any:
        """Call a field's inverse, and return an awaitable or None."""
        computed = self.by_name[name].field.computed
        assert computed is not None
        record.__dict__.pop(name, None)
        return getattr(record, computed.inverse)(value)

    def take(self, values: dict[str, Any]) -> dict[str, Any]:
        """Take the values for inverses out of others, in the order in which the inverses run.

        Methods come before coroutine functions, each in the order of declaration.
        """
        return {name: values.pop(name) for name in self._in_order if name in values}

    def settle_new(self, record: Any) -> None:
        """Take the values for inverses out of a new record's state, and call the inverses."""
        # All are taken out first: an inverse removes the stored values that depend on what it sets.
        for name, value in self.take(record.__dict__).items():
            self.assign(record, self.by_name[name].field, value)


def _value(formula: Formula, record: Any) -> Any:
    """Return a formula's value for a record in memory; it sees only records that exist."""
    if not formula.follows_links:
        return formula.value(record)
    from earnorm.features.computed.existing import value_without_gone  # loaded with the first App

    return value_without_gone(formula.value, record, formula.depends)


def _none(formula: Formula) -> ValidationError:
    """Return the error about a method that breaks the promise of ``required=True``."""
    message = f"{formula.method}() gave None, and a value is required"
    detail: ErrorDetail = {"loc": (formula.field.name,), "msg": message, "type": "compute"}
    return ValidationError(formula.field.model_name, [detail])


def _inverse(fields: Sequence[Field[Any, Any]], name: str) -> str:
    return next(f.computed.inverse for f in fields if f.computed is not None and f.name == name)


def declare(cls: type[BaseModel]) -> None:
    """Add the computed fields of a class, declared or inherited, to its schema.

    Raises:
        TypeError: A method is missing, or has no ``@depends``.
    """
    if cls._abstract or cls._inherit is not None:
        return  # the class that uses this one may have the method
    fields = [field for field in cls._schema.fields.values() if field.computed is not None]
    cls._schema.derived = Formulas(cls, fields)


def formulas_of(schema: Schema) -> Formulas | None:
    """Return the computed fields of a class by its schema; None if it has none."""
    derived = schema.derived
    return derived if isinstance(derived, Formulas) else None


# -- assignments ----------------------------------------------------------------------------------


def _refuse_unknown_class(record: Any, field: Field[Any, Any]) -> None:
    """Refuse an assignment to a record that may be of a subclass, whose inverse is another one."""
    bound = record._fetch.app.bind(type(record))
    if bound.classes is not None and bound.classes.below():
        raise _not_assigned(record, field, "its class is not known yet: refresh() it, or say")


def _not_assigned(record: Any, field: Field[Any, Any], reason: str) -> ValidationError:
    message = f"{reason} 'await record.write({{{field.name!r}: …}})'"
    return ValidationError(
        type(record)._name, [{"loc": (field.name,), "msg": message, "type": "compute"}]
    )


# -- domains --------------------------------------------------------------------------------------


def _related(path: str, rest: str, operator: str, value: object) -> Domain:
    return Condition(f"{path}.{rest}" if rest else path, operator, value)


def _searched(
    cls: type[BaseModel], field: Field[Any, Any], rest: str, operator: str, value: object
) -> Domain:
    assert field.computed is not None
    if rest:
        raise DomainError(
            f"{field.model_name}.{field.name}: {field.computed.search}() takes no path"
        )
    domain = getattr(cls, field.computed.search)(operator, value)
    if inspect.isawaitable(domain) or domain is NotImplemented or domain is None:
        getattr(domain, "close", lambda: None)()
        raise DomainError(
            f"{field.model_name}.{field.name}: {field.computed.search}({operator!r}, …) gives no domain"
        )
    return Domain(domain)
