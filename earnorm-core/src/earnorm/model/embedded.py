"""EmbeddedModel: a document inside a document."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Final, Self

import pydantic
from pydantic_core import PydanticCustomError, core_schema

from earnorm.fields.base import MISSING
from earnorm.fields.json_forms import json_text
from earnorm.fields.option_rules import check_field_inside, check_options
from earnorm.model.base import BaseModel, Declared
from earnorm.model.reading import serializing
from earnorm.model.reading.fetch import Part, part_of
from earnorm.model.reading.parts import are_equal, has_parts, parts_in
from earnorm.model.schema import Schema
from earnorm.model.slots import set_fetch, set_state
from earnorm.model.structures import declared_fields, reserved_names
from earnorm.model.validation.constraints import check_embedded, rules_of
from earnorm.model.writing.incomplete import refusal
from earnorm.model.writing.pending import changed_fields, unvalidated, unwritten_defaults
from earnorm.model.writing.restoring import duplicate


class EmbeddedModel(Declared):
    """A document inside a document: declare its fields, and use it with ``Embedded``.

    Class attributes:
        _kind: The text that tells the class from others in ``Embedded(…, discriminator=…)`` (default:
            the class name in snake case).
    """

    # The stored keys in their order, where some are not declared: each of these with its value, a
    # declared one with MISSING.
    __slots__ = ("_undeclared",)

    _schema: ClassVar[Schema]
    _kind: ClassVar[str] = ""
    _is_embedded: ClassVar[bool] = True
    _undeclared: dict[str, Any]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        fields = declared_fields(cls, _EMBEDDED_NAMES)
        for name in _OF_MODELS:
            if name not in fields and hasattr(cls, name):
                raise TypeError(
                    f"{cls.__name__}.{name}: the option belongs to a model, not to an embedded one, "
                    f"which has no collection; give it to the model that holds the objects"
                )
        for field in fields.values():
            check_field_inside(cls.__name__, field)
        check_options(cls.__name__, fields.values())
        cls._schema = Schema(cls.__name__, fields)
        cls._schema.rules = rules_of(cls)
        cls._fields = cls._schema.fields

    def __init__(self, /, **values: Any) -> None:
        super().__init__(**values)
        rules = type(self)._schema.rules
        if rules is not None:
            check_embedded(self, rules)

    @classmethod
    def _adopt(cls, document: dict[str, Any]) -> Self:
        """Return an object with a stored document as its state; undeclared keys lie beside it."""
        embedded: Self = cls._adopter()(document)
        return embedded

    @classmethod
    def _adopter(cls) -> Callable[[dict[str, Any]], Any]:
        """Return ``_adopt`` with all lookups done: fields read thousands of embedded objects."""
        schema, is_known, new = cls._schema, cls._schema.is_known, object.__new__
        known, renamed = schema.projection, schema.renamed

        def adopt(document: dict[str, Any]) -> EmbeddedModel:
            embedded = new(cls)
            if not is_known(document):
                keys = {k: MISSING if k in known else v for k, v in document.items()}
                object.__setattr__(embedded, "_undeclared", keys)
                document = {key: value for key, value in document.items() if key in known}
            set_state(embedded, schema.state(document) if renamed else document)
            return embedded

        return adopt

    @classmethod
    def __get_pydantic_core_schema__(
        cls, source: object, handler: pydantic.GetCoreSchemaHandler
    ) -> core_schema.CoreSchema:
        return core_schema.no_info_plain_validator_function(cls._taken)

    @classmethod
    def _taken(cls, value: Any) -> Self:
        """Return an own, valid object of a given object or mapping.

        Raises:
            ValueError: It is neither, or an object of a subclass.
        """
        if type(value) is dict and cls.__init__ is EmbeddedModel.__init__:
            return cls._made(value)
        if type(value) is cls:
            part = part_of(value)
            if part is None or part.kept is not None:
                return cls._checked(value, part)
            raise PydanticCustomError("partly_loaded", "{refusal}", {"refusal": refusal(part)})
        if isinstance(value, cls):
            raise ValueError(
                f"a {type(value).__name__} would be cut to the fields of {cls.__name__}: "
                f"Embedded({cls.__name__}, discriminator=...) takes its subclasses"
            )
        if isinstance(value, Mapping):
            if not all(isinstance(key, str) for key in value):
                raise ValueError("the keys are names of fields, and texts")
            return cls(**value)
        raise ValueError(f"not a {cls.__name__}, nor a mapping of its fields")

    @classmethod
    def _made(cls, values: dict[str, Any]) -> Self:
        """Return what the constructor makes, without a call of it."""
        schema, made = cls._schema, object.__new__(cls)
        set_state(made, schema.validate(values))
        if schema.derived is not None:
            schema.derived.settle_new(made)
        if schema.rules is not None:
            check_embedded(made, schema.rules)
        return made

    @classmethod
    def _checked(cls, value: Self, part: Part | None = None) -> Self:
        """Return an own, valid copy of an object that is handed in.

        What its constructor or an assignment has validated is not validated again.

        Args:
            value: The object.
            part: Its loading state, if a save sends changed fields only of an object of which some
                were not fetched: nothing is required or filled in of these.
        """
        schema, state = cls._schema, value.__dict__
        names = changed_fields(value)
        if part is not None:
            return cls._checked_part(value, part, names)
        if any(state.get(f.name) is None for f in schema.required):
            known = [f.name for f in schema.stored if f.name in state]
            own = cls(**{name: getattr(value, name) for name in known})
            own._take_undeclared(value)
            return own
        pending = {name: getattr(value, name) for name in unvalidated(value, names)}
        checked = schema.validate_partial(pending, "create") if pending else {}
        unwritten = unwritten_defaults(value)
        own = object.__new__(cls)
        fields = schema.fields
        # The keys keep their order, because comparing a read and a stored object needs it.
        copied = {
            name: checked[name] if name in checked else fields[name].own(held)
            for name, held in state.items()
            if name not in unwritten
        }
        set_state(own, copied)
        own._take_undeclared(value)
        if names and schema.rules is not None:
            check_embedded(own, schema.rules)
        return own

    @classmethod
    def _checked_part(cls, value: Self, part: Part, names: Sequence[str]) -> Self:
        schema, state, fields = cls._schema, value.__dict__, cls._schema.fields
        unset = [f.name for f in schema.required if f.name in state and state[f.name] is None]
        pending = {n: getattr(value, n) for n in {*unvalidated(value, names), *unset}}
        checked = schema.validate_partial(pending, "create") if pending else {}
        unwritten = unwritten_defaults(value)

        def own_of(name: str, held: Any) -> Any:
            if name in checked:
                return checked[name]
            if name not in part.parts:
                return fields[name].own(held)
            below = part_of(held)
            if below is None or below.kept is None:
                return duplicate(held)
            return type(held)._checked(held, below)

        own = object.__new__(cls)
        set_state(own, {n: own_of(n, held) for n, held in state.items() if n not in unwritten})
        set_fetch(own, part.kept)
        if names and schema.rules is not None:
            check_embedded(own, schema.rules)
        return own

    def _take_undeclared(self, other: EmbeddedModel) -> None:
        """Take the undeclared keys of another object."""
        keys: dict[str, Any] | None = getattr(other, "_undeclared", None)
        if keys is not None:
            object.__setattr__(self, "_undeclared", keys)
        elif hasattr(self, "_undeclared"):
            object.__delattr__(self, "_undeclared")

    def _with_undeclared(self, document: dict[str, Any]) -> dict[str, Any]:
        keys: dict[str, Any] | None = getattr(self, "_undeclared", None)
        if keys is None:
            return document
        ordered = {
            k: document[k] if v is MISSING else v
            for k, v in keys.items()
            if v is not MISSING or k in document
        }
        return {**ordered, **document}

    def _refuse_part(self) -> None:
        """Refuse to take the object for the whole where some of its fields were not fetched.

        Raises:
            FieldNotLoaded: They were not.
        """
        for part in parts_in(self):
            raise part.incomplete()

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as Python values, with embedded objects as dicts."""
        return serializing.embedded_dict(self)

    def to_json(self) -> str:
        """Return the fields as JSON text; see ``to_dict``."""
        return json_text(self._json_form())

    def _json_form(self) -> dict[str, Any]:
        return serializing.embedded_json(self)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, EmbeddedModel) or type(self) is not type(other):
            return False
        if has_parts(self) or has_parts(other):
            return self is other or are_equal(self, other)
        return self._stored() == other._stored()

    __hash__ = None  # type: ignore[assignment] # it can change in place

    def __repr__(self) -> str:
        values = ", ".join(f"{k}={v!r}" for k, v in self.to_dict().items() if v is not None)
        return f"{type(self).__name__}({values})"


_EMBEDDED_NAMES = reserved_names(EmbeddedModel)

_OF_MODELS: Final = sorted(
    name
    for name in BaseModel.__annotations__.keys() - {"_root", "_base", "_identity", "_overridden"}
    if not hasattr(EmbeddedModel, name)
)
"""The class attributes with which a program declares a model, and no embedded object."""
