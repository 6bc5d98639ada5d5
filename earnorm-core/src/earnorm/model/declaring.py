"""Runs the functions that features and plugins provide for class attributes and field options.

The functions of built-in features run with the class body. The public package names them in a
table, so that the first class that uses a feature imports it. Those of plugins run on one App's
class of a model.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any, NoReturn

from earnorm.exceptions import ConfigurationError, EarnORMError, PluginError
from earnorm.fields.scopes import scope_problem
from earnorm.kernel.contract.attribute_values import value_of
from earnorm.kernel.views import Scope

if TYPE_CHECKING:
    from earnorm.fields.base import Field
    from earnorm.kernel.contract.attributes import Attribute, BroughtAttribute
    from earnorm.model.base import BaseModel

_attributes: dict[str, str] = {}
_options: dict[str, str] = {}


def built_in(attributes: Mapping[str, str], options: Mapping[str, str]) -> None:
    """Register the functions of class attributes and field options, each as ``"module:function"``.

    Args:
        attributes: By class attribute, the function to call with the :class:`Declaration` of each
            class whose value differs from that of ``BaseModel``, in this order.
        options: By attribute of a field, the function to call with the class, once its schema is
            made, where a field's value is not None.
    """
    _attributes.update(attributes)
    _options.update(options)


@cache
def _imported(path: str) -> Callable[[Any], None]:
    module, _, name = path.partition(":")
    function: Callable[[Any], None] = getattr(import_module(module), name)
    return function


class _Refused(TypeError):
    """A class body declares something that is not possible."""


class Declaration:
    """A class body whose declarations run while the class is being made.

    Args:
        model: The class.
        body: The attributes that the class body itself defines.
        fields: The fields so far, by name.
        reserved: Names that no field may have.

    Attributes:
        attribute: The name of the attribute whose function runs.
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
        self._plugin = ""
        self._brought: dict[str, str] = {}  # by field, the plugin whose attribute added it
        self.added = frozenset[str]().union(*(c._schema.added for c in _declared_bases(model)))
        """The fields that a feature or a plugin added, and no class body has."""
        self._reserved = reserved

    @property
    def value(self) -> Any:
        """The value of the attribute whose function runs."""
        return getattr(self.model, self.attribute)

    @property
    def base(self) -> type[BaseModel] | None:
        """The model's definition, if the class is one App's class of a model; else None."""
        return self.model._base

    @property
    def is_model(self) -> bool:
        """True for a model itself: not an abstract base, an extension, or one App's class."""
        return self.base is None and not self.model._abstract and self.model._inherit is None

    def add_field(self, name: str, field: Field[Any, Any]) -> None:
        """Add a field to the class.

        A field of the same name is replaced, unless it is another's: a plugin cannot replace a
        field of the model, of an extension or of another plugin.

        Raises:
            TypeError: The name or the stored key is taken.
        """
        known = self.fields.get(name)
        if known is not None and self._plugin and self._brought.get(name) != self._plugin:
            self.refuse(
                f"a field {name!r} ({type(field).__name__}), which {self._owner(name)} has already "
                f"({type(known).__name__}); rename one, or look at declaration.fields first"
            )
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
            self._brought[name] = self._plugin

    def _owner(self, name: str) -> str:
        plugin = self._brought.get(name)
        if plugin:
            return f"plugin {plugin!r}"
        owner = next((c for c in self.model.__mro__[1:] if name in vars(c)), self.model)
        return f"{owner.__module__}.{owner.__qualname__}"

    def add_index(self, index: Any) -> None:
        """Add an index to the class, as an entry of ``_indexes``, unless it has the same one."""
        if index not in self.model._indexes:
            self.model._indexes = (*self.model._indexes, index)

    def scope(self, name: str, *, across: Collection[tuple[str, ...]] = ()) -> None:
        """Make unique values unique among the records with one value of a field only.

        Each unique index of the model begins with the field, and its sequences have a counter for each
        value.

        Args:
            name: The field's name.
            across: The unique indexes and sequences that stay as they are declared, each by the paths
                of its keys.

        Raises:
            TypeError: The field cannot be a scope, or the model has another one.
        """
        problem = scope_problem(self.fields.get(name))
        if problem:
            self.refuse(f"the field {name!r} {problem}")
        known = self.model._unique_scope
        if known is not None and known.field != name:
            self.refuse(f"the model is scoped by {known.field!r} already")
        self.model._unique_scope = Scope(name, frozenset(across))

    def refuse(self, text: str) -> NoReturn:
        """Refuse the class.

        Args:
            text: The problem and its solution; the message begins with the class and the attribute.
        """
        raise _Refused(f"{self.model.__name__}.{self.attribute}: {text}")

    # -- running the functions ----------------------------------------------------------------

    def run(self, defaults: type[BaseModel], brought: Sequence[BroughtAttribute]) -> None:
        """Run the function of each attribute whose value is not the default.

        Args:
            defaults: The class with the default values.
            brought: The attributes that plugins bring, for an App's class.
        """
        for name, place in _attributes.items():
            if _differs(getattr(self.model, name), getattr(defaults, name)):
                self.attribute = name
                _imported(place)(self)
        for brought_attribute in brought:
            if declares(brought_attribute.attribute, self.model):
                self._run_brought(brought_attribute)

    def _run_brought(self, brought: BroughtAttribute) -> None:
        plugin, attribute = brought.plugin, brought.attribute
        assert attribute.declare is not None
        self.attribute, self._plugin = attribute.name, plugin
        try:
            attribute.declare(self)
        except _Refused as error:
            raise ConfigurationError(f"plugin {plugin!r}: {error}").coded("declaration") from None
        except EarnORMError:
            raise
        except Exception as error:
            raise PluginError(
                f"plugin {plugin!r} failed to declare {attribute.name} of {self.model._name!r}: "
                f"{type(error).__name__}: {error}"
            ).coded("plugin_failed") from error


def declare_options(model: type[BaseModel]) -> None:
    """Run the function of each field option that a field of the class uses."""
    fields = model._schema.fields.values()
    for option, place in _options.items():
        if any(getattr(field, option) is not None for field in fields):
            _imported(place)(model)


def declares(attribute: Attribute, model: type[BaseModel]) -> bool:
    """Return whether a plugin's attribute has a function to run for a model.

    Raises:
        ConfigurationError: Its value is of the wrong type.
    """
    value = value_of(attribute, model)
    return attribute.declare is not None and _differs(value, attribute.default)


def _differs(value: object, default: object) -> bool:
    return value is not default and value != default


def _declared_bases(model: type[BaseModel]) -> list[type[BaseModel]]:
    return [base for base in model.__mro__[1:] if "_schema" in vars(base)]
