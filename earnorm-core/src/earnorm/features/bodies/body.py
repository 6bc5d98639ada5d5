"""Body: request and response bodies that are types, declared with a class made of a model."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Unpack, get_origin, get_type_hints

import pydantic
from pydantic.fields import FieldInfo
from pydantic_core import CoreSchema

from earnorm.exceptions import ValidationError, nearest
from earnorm.features.bodies.named_types import (
    OtherType,
    joined,
    nested_body,
    shown,
    split_info,
    split_optional,
)
from earnorm.features.bodies.pydantic_fields import (
    annotation_of,
    chosen_names,
    default_of,
    described,
    guarded,
    id_field,
    is_read_only,
    optional_names,
    unknown_keys,
    values_of,
)
from earnorm.fields.relational import is_record
from earnorm.kernel.contract.left_out import need_feature
from earnorm.kernel.naming import nearest_field

if TYPE_CHECKING:
    from earnorm.fields.base import Field
    from earnorm.model.base import BaseModel
    from earnorm.model.embedded import EmbeddedModel
    from earnorm.model.structures import Structure

_OPTIONS = ("of", "include", "exclude", "partial")
_TOLD = (  # what a pydantic.Field() of a class body may say beside its default and its bounds
    "alias",
    "alias_priority",
    "deprecated",
    "description",
    "examples",
    "exclude",
    "frozen",
    "json_schema_extra",
    "repr",
    "serialization_alias",
    "title",
    "validation_alias",
)

_SAID_BY_NOBODY = {"repr": True}


class RecordBody(pydantic.BaseModel):
    """The base class of every body. It also takes a record: ``Out.model_validate(record)``."""

    model_config = pydantic.ConfigDict(from_attributes=True, protected_namespaces=())

    _model: ClassVar[type[Structure] | None] = None
    _nested: ClassVar[frozenset[str]] = frozenset()

    @pydantic.model_validator(mode="before")
    @classmethod
    def _of_record(cls, value: Any) -> Any:
        # pydantic must not read the attributes itself: FieldNotLoaded is an AttributeError, which
        # pydantic would take for a missing value and replace by the default.
        if not is_record(value):
            return value
        fields = cls.model_fields
        return {
            _key(fields[name], name): given for name, given in values_of(value, fields, cls._nested)
        }


def _key(info: FieldInfo, name: str) -> str:
    """Return the key under which pydantic looks for a value."""
    return info.validation_alias if isinstance(info.validation_alias, str) else name


class Body(RecordBody):
    """A request or response body that is a type, made of a model or an embedded model::

        class TicketIn(Body, of=Ticket, exclude={"id", "state"}):
            title: str
            tags: list[str]

    The fields that the class body names have their type for checkers. Each type is compared with the model when the
    class is made, and may be narrower. All other fields of the model are there as well, as in
    :meth:`~earnorm.BaseModel.pydantic_model`; checkers read them as Any. The bounds, the default, the title and
    the description of a field are those of the model where the class body says nothing else.

    - A field without None in its type has to be given, unless the model has a default. In a partial body, where
      it may be left out, that is an error: reading it would give None, which its type does not say.
    - A name that the model does not have needs a value (``password: str = pydantic.Field()``).
    - A relation is an id; with a body of the other model in its place, its records are nested.
    - Naming a computed field makes it part of the body.

    Args:
        of: The model.
        include: The fields to have (default: all that can be written, and the id), among them those that the class
            body names. A list gives the order.
        exclude: The fields to leave out, none of which the class body names.
        partial: True for a body of which everything may be left out, for PATCH; or the names of the fields that may.
            Such a field is named as ``title: str | None = None``. None cannot be sent for a required field.
            Subclasses have the same setting.
        **config: Settings of pydantic, e.g. ``extra="forbid"``, which holds for embedded objects, too.

    Raises:
        TypeError: The class body contradicts the model.
        ValidationError: An option names a field that the model does not have.
    """

    _own_defaults: ClassVar[frozenset[str]] = frozenset()
    _left_out: ClassVar[frozenset[str]] = frozenset()
    _partial: ClassVar[frozenset[str] | bool] = False

    def __init_subclass__(
        cls,
        *,
        of: type[BaseModel] | type[EmbeddedModel] | None = None,
        include: Iterable[str] | None = None,
        exclude: Iterable[str] | None = None,
        partial: Iterable[str] | bool = False,
        **config: Unpack[pydantic.ConfigDict],
    ) -> None:
        if config:  # pydantic has taken its own
            unknown = min(config)
            raise TypeError(
                f"{cls.__name__}: unknown option {unknown!r}{nearest(unknown, _OPTIONS)}"
            )
        super().__init_subclass__()
        has_options = include is not None or exclude is not None or partial is not False
        if of is None:
            if has_options:
                raise TypeError(f"{cls.__name__}: include=, exclude= and partial= go with of=")
            if cls._model is not None:
                _Declaration(cls, cls._model, cls._partial).name_more()
            return
        if cls._model is not None:
            raise TypeError(
                f"{cls.__name__}: a body with of= inherits from no other that has it; name its fields, or derive "
                f"both from one without of="
            )
        if not (isinstance(of, type) and hasattr(of, "_schema")):
            raise TypeError(f"{cls.__name__}: of= takes a model, not {of!r}")
        need_feature("bodies", "Body")
        cls._model = of
        _Declaration(cls, of, partial).fill(include, exclude)

    if TYPE_CHECKING:
        # Of a body that pydantic_model() made; a class that is declared has a constructor of its own fields.
        def __init__(self, /, **values: Any) -> None: ...
        def __getattr__(self, name: str) -> Any: ...

    @classmethod
    def __get_pydantic_json_schema__(
        cls, schema: CoreSchema, handler: pydantic.GetJsonSchemaHandler
    ) -> dict[str, Any]:
        shown = handler(schema)
        properties = handler.resolve_ref_schema(shown).get("properties", {})
        for name in cls._left_out:  # what is left out of a partial body has no value
            info = cls.model_fields[name]
            for key in (name, info.validation_alias, info.serialization_alias):
                if isinstance(key, str) and key in properties:
                    properties[key].pop("default", None)
        return shown

    def to_values(self) -> dict[str, Any]:
        """Return the values that were given, for ``create()`` and ``write()``.

        What was not given is left to the model's defaults, or as it is. Fields that nobody writes (the id, a time that
        the clock fills in) and those that only the body has are left out.
        """
        need_feature("bodies", "Body.to_values()")
        model = type(self)._model
        if model is None:
            raise TypeError(f"{type(self).__name__} is made of no model: declare it with of=")
        given = self.model_fields_set | type(self)._own_defaults
        fields = model._schema.fields
        return {
            name: _plain(getattr(self, name))
            for name in type(self).model_fields
            if name in given and name in fields and not is_read_only(fields[name])
        }


def _plain(value: Any) -> Any:
    """Return a value with the nested bodies as dicts."""
    if isinstance(value, Body):
        return value.to_values()
    if isinstance(value, pydantic.BaseModel):
        return value.model_dump(exclude_unset=True)
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return {key: _plain(item) for key, item in value.items()} if isinstance(value, dict) else value


class _Declaration:
    """The fields of one body while its class is made: pydantic reads them from the class afterwards."""

    def __init__(
        self, cls: type[Body], model: type[Structure], partial: Iterable[str] | bool = False
    ) -> None:
        self._cls, self._model = cls, model
        self._schema = model._schema
        self._extra: Any = cls.model_config.get("extra")
        self._nested, self._defaults = set(cls._nested), set(cls._own_defaults)
        self._optional = set(cls._left_out)
        if not isinstance(partial, bool):
            partial = optional_names(
                model, [partial] if isinstance(partial, str) else partial, "partial"
            )
        self._partial = cls._partial = partial

    def fill(self, include: Iterable[str] | None, exclude: Iterable[str] | None) -> None:
        """Declare the fields that the class names, and those that it leaves to the model."""
        include = [include] if isinstance(include, str) else include
        exclude = (
            {exclude} if isinstance(exclude, str) else None if exclude is None else set(exclude)
        )
        named = dict(self._named())
        inherited = self._inherited()
        contradiction = sorted(named.keys() & (exclude or set()))
        if contradiction:
            raise self._error(contradiction[0], "it is named and excluded")
        chosen = dict.fromkeys(chosen_names(self._model, include, exclude))
        contradiction = [] if include is None else [name for name in named if name not in chosen]
        if contradiction:
            raise self._error(contradiction[0], "it is named, and include= is without it")
        ordered = (
            [*chosen] if include is not None and not isinstance(include, set | frozenset) else []
        )
        ordered += ["id", *self._schema.fields]
        annotations: dict[str, Any] = {}
        for name in dict.fromkeys(ordered):
            if name in named or (name in inherited and name in chosen):
                given = named[name] if name in named else inherited[name]
                annotations[name] = self._name(name, *given)
            elif name in chosen:
                annotations[name] = self._leave(name)
        self._declare(annotations)

    def name_more(self) -> None:
        """Declare the fields that a subclass names beside those that it inherits."""
        named = self._named()
        self._declare({name: self._name(name, *given) for name, given in named})

    def _declare(self, annotations: Mapping[str, Any]) -> None:
        own = {n: a for n, a in inspect.get_annotations(self._cls).items() if n not in annotations}
        self._cls.__annotations__ = {**annotations, **own}
        self._cls._nested = frozenset(self._nested)
        self._cls._own_defaults = frozenset(self._defaults)
        self._cls._left_out = frozenset(self._optional)

    def _named(self) -> Iterator[tuple[str, tuple[Any, Any]]]:
        """Yield the model's fields that the class body names, each with its type and its value (or ``...``)."""
        body = vars(self._cls)
        for name, annotation in inspect.get_annotations(self._cls).items():
            if name.startswith("_"):
                continue
            if self._field(name) is None:
                if name not in body and get_origin(self._type(name, annotation)) is not ClassVar:
                    known = [n for n in self._schema.fields if not n.startswith("_")]
                    raise self._error(
                        name,
                        f"{self._model.__name__} has no such field{nearest_field(self._schema, name, known)}; a "
                        f"field of the body alone needs a value, e.g. pydantic.Field()",
                    )
                continue
            yield name, (self._type(name, annotation), body.get(name, ...))

    def _inherited(self) -> dict[str, tuple[Any, Any]]:
        """Return the fields of the base classes, which are of no model; each with its type and its value."""
        found: dict[str, tuple[Any, Any]] = {}
        for base in reversed(self._cls.__mro__[1:]):
            if issubclass(base, pydantic.BaseModel):
                for name, info in base.model_fields.items():
                    found[name] = info.annotation, info
        return found

    def _field(self, name: str) -> Field[Any, Any] | None:
        fields = self._schema.fields
        return fields.get("_id") if name == "id" else fields.get(name)

    def _type(self, name: str, annotation: Any) -> Any:
        """Return a type that the class body names, read where the class statement stands."""
        module = self._cls.__module__
        frame = inspect.currentframe()
        while frame is not None and frame.f_globals.get("__name__") != module:
            frame = frame.f_back
        globals_ = vars(sys.modules[module]) if frame is None else frame.f_globals
        locals_ = {} if frame is None else frame.f_locals
        stub = type("Named", (), {"__annotations__": {name: annotation}})
        try:
            own = {self._cls.__name__: self._cls}
            return get_type_hints(stub, globals_, {**own, **locals_}, include_extras=True)[name]
        except NameError as error:
            raise self._error(name, f"{error}; define it before the body") from None

    def _leave(self, name: str) -> Any:
        """Declare a field as the model has it; return its annotation."""
        field = self._field(name)
        assert field is not None
        if name == "id":
            annotation, info = id_field(field)
        else:
            annotation, info = self._of_model(field)
        setattr(self._cls, name, info)
        return annotation

    def _of_model(self, field: Field[Any, Any]) -> tuple[Any, FieldInfo]:
        with unknown_keys(self._extra):
            annotation = annotation_of(field)
        told = described(field)
        may_be_none = not field.required or is_read_only(field)
        if self._may_be_left_out(field.name):
            self._optional.add(field.name)
            default: dict[str, Any] = {"default": None}
        else:
            default = {"default": None} if is_read_only(field) else default_of(field)
        annotation = guarded(field, annotation | None if may_be_none else annotation)
        return annotation, pydantic.Field(**default, **told)

    def _may_be_left_out(self, name: str) -> bool:
        return self._partial if isinstance(self._partial, bool) else name in self._partial

    def _name(self, name: str, named: Any, value: Any) -> Any:
        """Declare a field with the type that the class body names; return its annotation."""
        field = self._field(name)
        assert field is not None
        own = value if isinstance(value, FieldInfo) else None
        named, described_by = split_info(named)
        kind, has_none = split_optional(named)
        bounds = () if own is None else tuple(own.metadata)
        if bounds:
            kind = Annotated[(kind, *bounds)]
        is_optional = self._may_be_left_out(name)
        may_be_none = name == "id" or not field.required or is_read_only(field)
        if has_none and not (may_be_none or is_optional):
            raise self._error(
                name, f"{self._where(field)} is required, and so its type is without None"
            )
        annotation = self._joined(name, field, kind)
        if has_none and may_be_none:
            annotation = annotation | None
        annotation = guarded(field, annotation) if name != "id" else annotation
        told = described(field)
        for info in (described_by, own):
            told |= {} if info is None else _told(info)
        default = self._default(name, field, has_none, value)
        if is_optional and not default:
            written = f"{name}: {shown(kind)} | None = None"
            raise self._error(
                name,
                f"it may be left out of a partial body, and has no value then: write '{written}', or name the fields "
                f"that may be left out, as in partial={{...}}",
            )
        if is_optional and default.get("default", ...) is None:
            self._optional.add(name)
        elif "default" in default and value is not ... and nested_body(kind) is None:
            self._check_default(name, annotation, default["default"])
        setattr(self._cls, name, pydantic.Field(**default, **told))
        return annotation

    def _default(
        self, name: str, field: Field[Any, Any], has_none: bool, value: Any
    ) -> dict[str, Any]:
        """Return the default of a named field, as arguments of ``pydantic.Field``."""
        may_be_left_out = self._may_be_left_out(name)
        info = value if isinstance(value, FieldInfo) else None
        if value is not ... and not (info is not None and info.is_required()):
            if not may_be_left_out:
                self._defaults.add(name)
            if info is not None and info.default_factory is not None:
                return {"default_factory": info.default_factory}
            return {"default": value if info is None else info.default}
        if name == "id" or may_be_left_out or is_read_only(field):
            return {"default": None} if has_none else {}
        default = default_of(field)
        return {} if default == {"default": None} and not has_none else default

    def _check_default(self, name: str, annotation: Any, default: Any) -> None:
        try:
            pydantic.TypeAdapter(annotation).validate_python(default)
        except (pydantic.ValidationError, ValidationError):
            raise self._error(name, f"the default {default!r} is not valid") from None

    def _joined(self, name: str, field: Field[Any, Any], kind: Any) -> Any:
        if name == "id":
            if kind is not str:
                raise self._error(
                    name, f"{shown(kind)} does not fit {self._where(field)}: it is str"
                )
            return str
        if nested_body(kind) is not None:
            self._nested.add(name)
        with unknown_keys(self._extra):
            annotation = annotation_of(field)
        try:
            return joined(field, annotation, kind)
        except OtherType as error:
            said = f"{shown(kind)} does not fit {self._where(field)}: {error}"
            raise self._error(name, said) from None

    def _where(self, field: Field[Any, Any]) -> str:
        return f"{self._model.__name__}.{'id' if field.name == '_id' else field.name}"

    def _error(self, name: str, problem: str) -> TypeError:
        return TypeError(f"{self._cls.__name__}.{name}: {problem}")


def _told(info: FieldInfo) -> dict[str, Any]:
    """Return what a class body says of a field, as arguments of ``pydantic.Field``."""
    said = {name: getattr(info, name) for name in _TOLD}
    return {
        name: value
        for name, value in said.items()
        if value is not None and value is not _SAID_BY_NOBODY.get(name)
    }
