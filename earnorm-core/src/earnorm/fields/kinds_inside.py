"""The kinds of embedded objects that one field holds, told apart by a stored discriminator."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any

import pydantic
from pydantic_core import PydanticCustomError

from earnorm.exceptions import nearest
from earnorm.fields.base import Field
from earnorm.fields.relational import Relation
from earnorm.fields.text import String

if TYPE_CHECKING:
    from earnorm.model.embedded import EmbeddedModel

_SNAKE = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")


def kind_of(cls: type[Any]) -> str:
    """Return the value of the discriminator for a class: its own ``_kind``, or its name."""
    own = vars(cls).get("_kind")
    return own if isinstance(own, str) and own else _SNAKE.sub("_", cls.__name__).lower()


class KindsInside:
    """A base class of embedded objects with its subclasses, each with its kind.

    Args:
        base: The base class, which declares the discriminator.
        name: The name of the discriminator.

    Raises:
        TypeError: The base class has no such field, or it is no text.
    """

    def __init__(self, base: type[EmbeddedModel], name: str) -> None:
        self.base, self.name = base, name
        field = base._schema.fields.get(name)
        if not isinstance(field, String):
            raise TypeError(
                f"Embedded({base.__name__}, discriminator={name!r}): {base.__name__} needs a String "
                f"named {name!r}{nearest(name, base._schema.fields)}"
            )
        self.key = field.db_name
        self._classes: dict[str, type[EmbeddedModel]] = {}
        self._adopters: dict[str, Callable[[dict[str, Any]], Any]] = {}
        self._fields: dict[str, Field[Any, Any]] = {}
        self._counted = -1

    def classes(self) -> Mapping[str, type[EmbeddedModel]]:
        """Return each class by its kind; a class may be defined after the field.

        Raises:
            TypeError: Two classes have one kind, or a class has a field that must be in the base.
        """
        subclasses = list(dict.fromkeys(_with_subclasses(self.base)))
        if len(subclasses) != self._counted:
            classes: dict[str, type[EmbeddedModel]] = {}
            fields = dict(self.base._schema.fields)
            for cls in subclasses:
                known = classes.setdefault(kind_of(cls), cls)
                if known is not cls:
                    raise TypeError(
                        f"{known.__name__} and {cls.__name__} are both of the kind {kind_of(cls)!r}; "
                        f"give one of them a _kind of its own"
                    )
                self._add(fields, cls)
            self._classes, self._fields = classes, fields
            self._adopters = {kind: cls._adopter() for kind, cls in classes.items()}
            self._counted = len(subclasses)
        return self._classes

    def _add(self, fields: dict[str, Field[Any, Any]], cls: type[EmbeddedModel]) -> None:
        for name, field in cls._schema.fields.items():
            known = fields.setdefault(name, field)
            if known is not field and (
                type(known) is not type(field) or known.db_name != field.db_name
            ):
                raise TypeError(
                    f"{cls.__name__}.{name} and {known.model_name}.{name} lie in one field of a "
                    f"model, and are of two kinds or stored under two keys"
                )
            if name in self.base._schema.fields:
                continue
            options = [option for option in ("unique", "index", "sparse") if getattr(field, option)]
            below = None if field.structure is None else field.structure._schema
            if options or isinstance(field, Relation) or (below is not None and below.relations):
                what = options[0] if options else "a relation"
                raise TypeError(
                    f"{cls.__name__}.{name}: {what} goes with a field of {self.base.__name__}, which "
                    f"every kind has"
                )

    def fields(self) -> Mapping[str, Field[Any, Any]]:
        """Return the fields of all kinds, by name, for paths."""
        self.classes()
        return self._fields

    def kinds_with(self, name: str) -> list[str] | None:
        """Return the kinds that have a field, or None if all of them have it."""
        classes = self.classes()
        if name in self.base._schema.fields:
            return None
        return [kind for kind, cls in classes.items() if name in cls._schema.fields]

    def adopt(self, document: dict[str, Any]) -> Any:
        """Return an object of the stored document's kind; of the base where the kind is unknown."""
        self.classes()
        kind = document.get(self.key)
        adopter = self._adopters.get(kind) if isinstance(kind, str) else None
        return (adopter or self._adopters[kind_of(self.base)])(document)

    def checked(self, value: Any) -> Any:
        """Return an own, valid object of the kind of a given object or mapping.

        Raises:
            PydanticCustomError: The kind is unknown, or it is another than the object's.
        """
        classes = self.classes()
        if isinstance(value, self.base):
            cls: type[EmbeddedModel] = type(value)
        elif isinstance(value, Mapping):
            given: Any = value.get(self.name)
            kind = kind_of(self.base) if given is None else given
            known = classes.get(kind) if isinstance(kind, str) else None
            if known is None:
                message = "{name} is {kind}; one of {kinds} is allowed"
                shown = {"name": self.name, "kind": repr(kind)[:60], "kinds": ", ".join(classes)}
                raise PydanticCustomError("kind", message, shown)
            cls = known
        else:
            message = "not a {name}, nor a mapping of its fields"
            raise PydanticCustomError("embedded", message, {"name": self.base.__name__})
        own = cls._taken(value)
        kind = kind_of(cls)
        given = own.__dict__.get(self.name)
        if given is not None and given != kind:
            message = "{name} is {given}, and a {cls} is of the kind {kind}"
            names = {
                "name": self.name,
                "given": repr(given)[:60],
                "cls": cls.__name__,
                "kind": kind,
            }
            raise PydanticCustomError("kind", message, names)
        own.__dict__[self.name] = kind
        return own

    def body(self) -> Any:
        """Return the type of the objects in a request or response body."""
        classes = self.classes()
        base, name = kind_of(self.base), self.name

        def tag(value: Any) -> str:
            if isinstance(value, self.base):
                return kind_of(type(value))
            given = value.get(name) if isinstance(value, Mapping) else getattr(value, name, None)
            return base if given is None else str(given)

        bodies: Any = None
        for kind, cls in classes.items():
            body: Any = cls.pydantic_model()
            body = Annotated[body, pydantic.Tag(kind)]
            bodies = body if bodies is None else bodies | body
        return Annotated[bodies, pydantic.Discriminator(tag)] if len(classes) > 1 else bodies

    def bson_schema(self) -> Mapping[str, Any]:
        """Describe the stored form of every kind."""
        options: list[dict[str, Any]] = []
        for kind, cls in self.classes().items():
            schema: dict[str, Any] = cls._schema.stored_schema()
            schema["properties"] = {**schema["properties"], self.key: {"enum": [kind]}}
            schema["required"] = [*{*schema.get("required", ()), self.key}]
            options.append(schema)
        return {"bsonType": "object", "anyOf": options}


def _with_subclasses(cls: type[Any]) -> Iterator[type[Any]]:
    yield cls
    for below in cls.__subclasses__():
        yield from _with_subclasses(below)
