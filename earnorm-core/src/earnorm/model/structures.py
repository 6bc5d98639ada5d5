"""What records and embedded objects share: fields, assignment, change tracking; and EmbeddedModel.

A structure adopts the decoded document as its ``__dict__``: reading a plain field is a plain attribute.
Everything else that it knows lies in slots: which fetch it came from, what was changed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self, cast

import pydantic
from pydantic_core import core_schema

from earnorm.exceptions import (
    FieldNotLoaded,
    nearest,
)
from earnorm.features.files.stored import StoredFile
from earnorm.fields.base import MISSING, Field
from earnorm.fields.files import File
from earnorm.fields.json_forms import json_text
from earnorm.fields.relational import Relation, ToMany
from earnorm.model.reading import serializing
from earnorm.model.reading.fetch import Fetch
from earnorm.model.recordset import RecordSet
from earnorm.model.relations.ghosts import ghost_of, ghosts_of, note_inside
from earnorm.model.schema import Schema, State
from earnorm.model.validation.constraints import check_embedded, rules_of
from earnorm.model.writing.tracking import embedded_objects

if TYPE_CHECKING:
    from earnorm.model.base import BaseModel


class Structure:
    """What records and embedded objects share: fields, assignment, change tracking."""

    __slots__ = ("__dict__", "__weakref__", "_changes", "_fetch", "_originals")

    _schema: ClassVar[Schema]
    _fields: ClassVar[Mapping[str, Field[Any, Any]]]

    # Values before the first change, and stored copies of mutable values as they were read.
    _changes: dict[str, Any]
    _originals: dict[str, Any]
    _fetch: Fetch

    # Without the slash Python compares each keyword with "self": 0.13 µs for ten of them.
    def __init__(self, /, **values: Any) -> None:
        schema = type(self)._schema
        set_state(self, schema.validate(values))
        if schema.formulas is not None:
            schema.formulas.settle_new(self)

    def __setattr__(self, name: str, value: Any) -> None:
        cls = type(self)
        field = cls._schema.fields.get(name)
        if field is None:
            if name in SLOTS:
                object.__setattr__(self, name, value)
                return
            if isinstance(getattr(cls, name, None), property):
                raise AttributeError(f"{cls.__name__}.{name} cannot be assigned")
            raise AttributeError(
                f"{cls.__name__} has no field {name!r}{nearest(name, cls._schema.fields)}"
            )
        self._assign(field, value)

    def _assign(self, field: Field[Any, Any], value: Any) -> None:
        state, name = self.__dict__, field.name
        changes = self._changes_or_new()
        if name not in changes:
            changes[name] = state.get(name, MISSING)
        state[name] = value
        formulas = type(self)._schema.formulas
        if formulas is not None:
            formulas.changed(self, name)

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"a field cannot be deleted; assign None to {name!r}")

    def _changes_or_new(self) -> dict[str, Any]:
        try:
            return self._changes
        except AttributeError:
            found: dict[str, Any] = {}
            object.__setattr__(self, "_changes", found)
            return found

    def _originals_or_new(self) -> dict[str, Any]:
        try:
            return self._originals
        except AttributeError:
            found: dict[str, Any] = {}
            object.__setattr__(self, "_originals", found)
            return found

    def _absent(self, field: Field[Any, Any]) -> Any:
        """The value of a field that the state lacks: not fetched, or its default."""
        formulas = type(self)._schema.formulas
        if formulas is not None and field.computed is not None:
            return formulas.read(self, field)
        fetch: Fetch | None = getattr(self, "_fetch", None)
        if fetch is not None and not fetch.has(field.name):
            raise FieldNotLoaded(fetch.how_to_load(type(self), field.name))
        default = field.default_value()
        if field.mutable and default is not None:
            # The caller may change it in place, and save() has to notice.
            self._originals_or_new()[field.name] = MISSING
            self.__dict__[field.name] = default
        return default

    def _ghost(self, field: Relation[Any, Any], pk: Any) -> BaseModel:
        return ghost_of(self, field, pk)

    def _ghosts(self, field: ToMany[Any], value: Any) -> RecordSet[Any]:
        return ghosts_of(self, field, value)

    def _file(self, field: File) -> StoredFile:
        return StoredFile(cast("BaseModel", self), field)

    def _inside(self, field: Field[Any, Any], value: Any) -> None:
        note_inside(self, field, value)

    def _stored(self) -> State:
        """The stored form."""
        schema, state = type(self)._schema, self.__dict__
        originals: dict[str, Any] = getattr(self, "_originals", {})
        unwritten = {
            name
            for name, original in originals.items()
            if original is MISSING and state[name] == schema.fields[name].default_value()
        }
        if unwritten:  # a default that was only read is no change
            state = {name: value for name, value in state.items() if name not in unwritten}
        return dict(schema.document(state))

    @classmethod
    def pydantic_model(
        cls,
        *,
        include: Iterable[str] | None = None,
        exclude: Iterable[str] | None = None,
        optional: Iterable[str] | bool = False,
        name: str | None = None,
    ) -> type[pydantic.BaseModel]:
        """A pydantic model of the fields, for request and response bodies; made once per arguments.

        It takes records (``Out.model_validate(record)``): ids as text, relations as ids, embedded
        objects nested. A field that cannot be written is part of it only where ``include`` names it.

        Args:
            include: Only these fields.
            exclude: Not these, e.g. ``{"id"}`` for what a client sends.
            optional: Fields that need not be given, or True for all: the body of a partial update.
            name: The class's name, which an OpenAPI page shows.

        Raises:
            ValidationError: A name is unknown.
        """
        from earnorm.features.bodies.pydantic_models import body_model  # loads the rest of pydantic

        return body_model(cls, include, exclude, optional, name)

    @classmethod
    def json_schema(
        cls, *, mode: Literal["validation", "serialization"] = "validation"
    ) -> dict[str, Any]:
        """The JSON Schema of :meth:`pydantic_model`.

        Args:
            mode: Of what is taken in (``validation``), or of what is given out.
        """
        return cls.pydantic_model().model_json_schema(mode=mode)

    def _restorer(self) -> Callable[[], None]:
        state = dict(self.__dict__)
        slots = {
            name: getattr(self, name, MISSING) for name in ("_changes", "_originals", "_fetch")
        }
        slots = {name: dict(v) if type(v) is dict else v for name, v in slots.items()}
        inner = [embedded._restorer() for embedded in embedded_objects(self)]

        def restore() -> None:
            for restore_embedded in inner:
                restore_embedded()
            set_state(self, state)
            for name, value in slots.items():
                if value is not MISSING:
                    object.__setattr__(self, name, value)
                elif hasattr(self, name):
                    object.__delattr__(self, name)

        return restore


SLOTS = frozenset(Structure.__slots__)
set_state: Callable[[Any, State], None] = Structure.__dict__["__dict__"].__set__


def declared_fields(cls: type, reserved: frozenset[str]) -> dict[str, Field[Any, Any]]:
    """The fields of a class and its bases, by name.

    Raises:
        TypeError: A name is reserved, or something else hides a field of a base class.
    """
    found: dict[str, Field[Any, Any]] = {}
    for ancestor in reversed(cls.__mro__):
        for name, value in vars(ancestor).items():
            if isinstance(value, Field):
                if name in reserved:
                    raise TypeError(
                        f"{cls.__name__}.{name}: the name is taken by a method or property; choose "
                        f'another and keep the stored key with db_name="{name}"'
                    )
                found[name] = value
            elif name in found:
                raise TypeError(
                    f"{cls.__name__}.{name} is a field of a base class, and hidden here"
                )
    return found


class EmbeddedModel(Structure):
    """A document inside a document: declare its fields, and use it with ``Embedded``."""

    __slots__ = ()

    _schema: ClassVar[Schema]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        fields = declared_fields(cls, _EMBEDDED_NAMES)
        misplaced = [f"{name} ({type(f).__name__})" for name, f in fields.items() if f.of_records]
        if misplaced:
            raise TypeError(
                f"{cls.__name__}.{misplaced[0]}: a record's own write sets it, so it belongs in a "
                f"model, not in an embedded one"
            )
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
        """An object with a stored document as its state; keys that are not declared stay out."""
        found: Self = cls._adopter()(document)
        return found

    @classmethod
    def _adopter(cls) -> Callable[[dict[str, Any]], Any]:
        """``_adopt`` with everything looked up before: fields read thousands of embedded objects."""
        schema, is_known, new = cls._schema, cls._schema.is_known, object.__new__
        known, renamed = schema.projection, schema.renamed

        def adopt(document: dict[str, Any]) -> EmbeddedModel:
            if not is_known(document):
                document = {key: value for key, value in document.items() if key in known}
            found = new(cls)
            set_state(found, schema.state(document) if renamed else document)
            return found

        return adopt

    @classmethod
    def __get_pydantic_core_schema__(
        cls, source: object, handler: pydantic.GetCoreSchemaHandler
    ) -> core_schema.CoreSchema:
        def build(value: Any) -> Any:
            if isinstance(value, cls):
                # What was read lazily is converted first, then everything is checked again.
                return cls._checked(value)
            if isinstance(value, Mapping):
                return cls(**value)
            raise ValueError(f"not a {cls.__name__}, nor a mapping of its fields")

        return core_schema.no_info_plain_validator_function(build)

    @classmethod
    def _checked(cls, value: Self) -> Self:
        names = [f.name for f in cls._schema.stored if f.name in value.__dict__]
        return cls(**{name: getattr(value, name) for name in names})

    def to_dict(self) -> dict[str, Any]:
        """The fields as Python values, embedded objects as dicts."""
        return serializing.embedded_dict(self)

    def to_json(self) -> str:
        """As ``to_dict``, as JSON text."""
        return json_text(self._json_form())

    def _json_form(self) -> dict[str, Any]:
        return serializing.embedded_json(self)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, EmbeddedModel) or type(self) is not type(other):
            return False
        return self._stored() == other._stored()

    __hash__ = None  # type: ignore[assignment] # it can change in place

    def __repr__(self) -> str:
        values = ", ".join(f"{k}={v!r}" for k, v in self.to_dict().items() if v is not None)
        return f"{type(self).__name__}({values})"


_EMBEDDED_NAMES = frozenset(n for n in dir(EmbeddedModel) if not n.startswith("__"))
