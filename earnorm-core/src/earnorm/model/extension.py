"""Extension of a model by plugins: makes one App's class of it, and refuses clashes.

An extension is a class with ``_inherit`` that a plugin brings (``register_models``). The App's
class is a subclass of the extensions and of the model itself, so ``super()`` calls one after the
other.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from earnorm.exceptions import PluginError
from earnorm.fields.base import Field
from earnorm.fields.relational import Relation
from earnorm.kernel.environment import find_env
from earnorm.model.declaring import declares
from earnorm.model.misspelt import refuse_misspelt

if TYPE_CHECKING:
    from earnorm.kernel.catalog import Extension
    from earnorm.kernel.contract.attributes import BroughtAttribute
    from earnorm.model.base import BaseModel

# -- one App's class ------------------------------------------------------------------------------


def class_in_app(
    base: type[BaseModel],
    extensions: Sequence[Extension],
    attributes: Sequence[BroughtAttribute],
) -> type[BaseModel]:
    """Return one App's class of a model: the model itself, or a subclass with plugins' additions.

    Args:
        base: The model.
        extensions: The classes that extend it, which come before it in the order of methods.
        attributes: The class attributes that plugins bring.

    Raises:
        PluginError: Two extensions add the same field differently, or one changes a field's stored
            form.
        ConfigurationError: The model has a wrong value in one of the attributes, or misspells one.
    """
    for cls in (base, *(extension.model for extension in extensions)):
        refuse_misspelt(cls, attributes)
    declaring = [attribute for attribute in attributes if declares(attribute.attribute, base)]
    if not extensions and not declaring:
        return base
    if "__new__" not in vars(base):
        # It is set only here, so that the constructor of an unextended model pays nothing for it.
        type.__setattr__(base, "__new__", _new_in_app)
    _check_fields(base, extensions)
    members: dict[str, Any] = {
        "__slots__": (),
        "__module__": base.__module__,
        "__qualname__": base.__qualname__,
        "__doc__": base.__doc__,
        "_base": base,
        "_inherit": None,
        "_name": base._name,
        "_collection": base._collection,
    }
    classes = tuple(dict.fromkeys(e.model for e in reversed(extensions)))
    make: Any = type(base)
    try:
        app_class: type[BaseModel] = make(
            base.__name__, (*classes, base), members, brought_attributes=attributes
        )
    except TypeError as error:
        who = " and ".join(map(str, extensions))
        raise PluginError(f"model {base._name!r} cannot be extended by {who}: {error}") from error
    return app_class


def _new_in_app(cls: type[BaseModel], /, **values: Any) -> BaseModel:
    """Make a new record of the class that the current App has for the model."""
    env = find_env()
    if env is not None and env.app.is_started and cls._base is None:
        cls = env.app.bind(cls).model
    return object.__new__(cls)


def called_in_app(method: classmethod[Any, ..., Any]) -> classmethod[Any, ..., Any]:
    """Return a class method that is called on the current App's class, whichever was asked.

    Only there does ``super()`` go through the extensions and the model itself, each once.
    """
    function = method.__func__

    @functools.wraps(function)
    def call(cls: type[BaseModel], *args: Any, **kwargs: Any) -> Any:
        env = find_env()
        if env is not None and env.app.is_started:
            model = env.app.bind(cls).model
            if model is not cls:
                return getattr(model, function.__name__)(*args, **kwargs)
        return function(cls, *args, **kwargs)

    return classmethod(call)


# -- clashes --------------------------------------------------------------------------------------


def _check_fields(base: type[BaseModel], extensions: Sequence[Extension]) -> None:
    own = base._schema.fields
    brought: dict[str, tuple[Extension, Field[Any, Any]]] = {}
    stored = {f.db_name: (name, _place_of(base)) for name, f in own.items() if f.stored}
    for extension in extensions:
        # A feature adds the same field to the model and to the extension, so these cannot clash.
        given = {"_id"} | (base._schema.added & extension.model._schema.added)
        for name, field in extension.model._schema.fields.items():
            before = own.get(name)
            if field is before or name in given:
                continue
            if before is None and hasattr(base, name):
                raise PluginError(
                    f"{extension} brings a field {base._name}.{name}, and {_place_of(base)} has "
                    f"a method or attribute of this name"
                )
            if before is not None and form_of(field) != form_of(before):
                raise PluginError(
                    f"{extension} changes the field {base._name}.{name} of {_place_of(base)}: "
                    f"{_type_of(before)} became {_type_of(field)}, which is stored in another way; "
                    f"an override may change what a field demands, not what it stores"
                )
            other = brought.get(name)
            if other is not None and not _is_same(other[1], field):
                raise PluginError(
                    f"{other[0]} and {extension} both bring a field {base._name}.{name}, and not the "
                    f"same one ({_type_of(other[1])}, {_type_of(field)}); rename one, or disable a plugin"
                )
            brought[name] = (extension, field)
            if not field.stored:
                continue
            taken, where = stored.setdefault(field.db_name, (name, str(extension)))
            if taken != name:
                raise PluginError(
                    f"{extension} brings a field {base._name}.{name} that is stored as "
                    f"{field.db_name!r}, where {taken!r} of {where} is stored"
                )


def _type_of(field: Field[Any, Any]) -> str:
    kind = type(field).__name__
    return f"{kind} of {', '.join(field.names())}" if isinstance(field, Relation) else kind


def form_of(field: Field[Any, Any]) -> tuple[object, ...]:
    """Return the stored form and place of a field; fields of one form read the same values."""
    if isinstance(field, Relation):
        target = (type(field), *field.names(), getattr(field, "inverse", None))
        return (field.stored, field.db_name, target, getattr(field, "through", None))
    kind: Any = field.bson_schema().get("bsonType", type(field))
    kinds = frozenset([kind] if isinstance(kind, str | type) else kind)
    item = field.contents().items
    return (field.stored, field.db_name, kinds, field.structure, item and form_of(item)[2:])


def _is_same(one: object, other: object) -> bool:
    if not isinstance(one, Field) or not isinstance(other, Field):
        return bool(one == other)
    if one is other:
        return True
    mine, theirs = vars(one), vars(other)
    return (
        type(one) is type(other)
        and mine.keys() == theirs.keys()
        and all(_is_same(mine[key], theirs[key]) for key in mine if key != "model_name")
    )


# -- owners ---------------------------------------------------------------------------------------


def _place_of(cls: type[BaseModel]) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


def owners(model: type[BaseModel], name: str) -> Iterator[type]:
    """Yield the classes that define an attribute of a model, the one in effect first."""
    return (cls for cls in model.__mro__ if name in vars(cls))
