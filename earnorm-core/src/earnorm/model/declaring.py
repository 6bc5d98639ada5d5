"""What the attributes of a class body declare beside its fields: each by a function of the feature that it is for.

The built-in features' functions run with the class body; which there are, the face says in a table of names, so
that a feature is imported by the first class that uses it. Those of plugins run on one App's class of a model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any, NoReturn

from earnorm.exceptions import ConfigurationError, EarnORMError, PluginError
from earnorm.kernel.attributes import value_of

if TYPE_CHECKING:
    from earnorm.fields.base import Field
    from earnorm.kernel.attributes import Attribute, BroughtAttribute
    from earnorm.model.base import BaseModel

_attributes: dict[str, str] = {}
_options: dict[str, str] = {}


def built_in(attributes: Mapping[str, str], options: Mapping[str, str]) -> None:
    """Say which function declares what, as ``"module:function"`` each.

    Args:
        attributes: By class attribute: called with the :class:`Declaration` of each class in which it has
            another value than in ``BaseModel``, in this order.
        options: By attribute of a field: called with the class, once its schema is made, where a field has
            another value there than None.
    """
    _attributes.update(attributes)
    _options.update(options)


@cache
def _imported(place: str) -> Callable[[Any], None]:
    module, _, name = place.partition(":")
    found: Callable[[Any], None] = getattr(import_module(module), name)
    return found


class _Refused(TypeError):
    """A class body declares what cannot be."""


class Declaration:
    """What a class body declares, while the class is being made.

    Args:
        model: The class.
        body: The attributes of its own that the class body gave.
        fields: The fields so far, by name.
        reserved: Names that no field may have.

    Attributes:
        attribute: The name of the attribute that is being declared.
    """

    def __init__(
        self,
        model: type[BaseModel],
        body: Mapping[str, Any],
        fields: dict[str, Field[Any, Any]],
        reserved: frozenset[str],
    ) -> None:
        self.model, self.body, self.fields = model, body, fields
        self.attribute = ""
        self.added = frozenset[str]().union(*(c._schema.added for c in _declared_bases(model)))
        """The fields that no class body has, but a feature or a plugin added."""
        self._reserved = reserved

    @property
    def value(self) -> Any:
        """The value of the attribute that is being declared."""
        return getattr(self.model, self.attribute)

    @property
    def base(self) -> type[BaseModel] | None:
        """The definition, where the class is one App's class of a model; else None."""
        return self.model._base

    @property
    def is_model(self) -> bool:
        """Whether the class is a model of its own: no abstract base, no extension, no App's class of one."""
        return self.base is None and not self.model._abstract and self.model._inherit is None

    def add_field(self, name: str, field: Field[Any, Any]) -> None:
        """Give the class a field; one of this name takes the place of what it has.

        Raises:
            TypeError: The name, or the key that it is stored under, is taken.
        """
        known = self.fields.get(name)
        is_new = known is None and self.base is not None
        if name in self._reserved or (is_new and hasattr(self.model, name)):
            self.refuse(f"a field {name!r}, whose name is taken by a method or an attribute")
        field.__set_name__(self.model, name)
        others = (other for other in self.fields.values() if other is not known and other.stored)
        taken = next((o.name for o in others if field.stored and o.db_name == field.db_name), None)
        if taken is not None:
            self.refuse(
                f"a field {name!r}, which is stored as {field.db_name!r}, where {taken!r} is"
            )
        type.__setattr__(self.model, name, field)
        self.fields[name] = field
        if known is None:
            self.added |= {name}

    def add_index(self, index: Any) -> None:
        """Give the class an index, as an entry of ``_indexes``, unless it has the same."""
        if index not in self.model._indexes:
            self.model._indexes = (*self.model._indexes, index)

    def refuse(self, text: str) -> NoReturn:
        """Refuse the class.

        Args:
            text: What is wrong, and what to do; the message begins with the class and the attribute.
        """
        raise _Refused(f"{self.model.__name__}.{self.attribute}: {text}")

    # -- who declares -------------------------------------------------------------------------

    def run(self, defaults: type[BaseModel], brought: Sequence[BroughtAttribute]) -> None:
        """Let everybody declare whose attribute has another value here.

        Args:
            defaults: The class that has the values which mean nothing.
            brought: What plugins bring, for an App's class.
        """
        for name, place in _attributes.items():
            if _differs(getattr(self.model, name), getattr(defaults, name)):
                self.attribute = name
                _imported(place)(self)
        for each in brought:
            if declares(each.attribute, self.model):
                self._run_brought(each)

    def _run_brought(self, brought: BroughtAttribute) -> None:
        plugin, attribute = brought.plugin, brought.attribute
        assert attribute.declare is not None
        self.attribute = attribute.name
        try:
            attribute.declare(self)
        except _Refused as error:
            raise ConfigurationError(f"plugin {plugin!r}: {error}") from None
        except EarnORMError:
            raise
        except Exception as error:
            raise PluginError(
                f"plugin {plugin!r} failed to declare {attribute.name} of {self.model._name!r}: "
                f"{type(error).__name__}: {error}"
            ) from error


def declare_options(model: type[BaseModel]) -> None:
    """Let everybody look at a class whose fields have an option that is for them."""
    fields = model._schema.fields.values()
    for option, place in _options.items():
        if any(getattr(field, option) is not None for field in fields):
            _imported(place)(model)


def declares(attribute: Attribute, model: type[BaseModel]) -> bool:
    """Whether the attribute of a plugin has something to declare for a model.

    Raises:
        ConfigurationError: Its value is of another type.
    """
    value = value_of(attribute, model)
    return attribute.declare is not None and _differs(value, attribute.default)


def _differs(value: object, default: object) -> bool:
    return value is not default and value != default


def _declared_bases(model: type[BaseModel]) -> list[type[BaseModel]]:
    return [base for base in model.__mro__[1:] if "_schema" in vars(base)]
