"""Class attributes that models declare something with, as plugins bring them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from types import UnionType
from typing import TYPE_CHECKING, Any

from earnorm.exceptions import ConfigurationError, PluginError

if TYPE_CHECKING:
    from earnorm.kernel.loading import LoadedPlugins
    from earnorm.model.base import BaseModel
    from earnorm.model.declaring import Declaration


@dataclass(frozen=True, slots=True)
class Attribute:
    """A class attribute that models may have for a plugin.

    Attributes:
        name: Its name, which begins with one underscore, e.g. ``"_stamped"``.
        type: The class of its values, or a union of classes.
        default: The value of a model that doesn't have it.
        declare: Called for each model that has another value, with what is known of its class: may add fields
            and indexes, and refuse it. It sees one App's class of the model, so that other Apps don't have
            them.
    """

    name: str
    type: type | UnionType
    default: Any = None
    declare: Callable[[Declaration], None] | None = None


@dataclass(frozen=True, slots=True)
class BroughtAttribute:
    """An attribute with the name of the plugin that brings it."""

    plugin: str
    attribute: Attribute


def brought_attributes(
    loaded: LoadedPlugins, built_in: Collection[str]
) -> tuple[BroughtAttribute, ...]:
    """The attributes that the plugins of an App bring.

    Args:
        loaded: The plugins.
        built_in: Names that nobody else may use.

    Raises:
        PluginError: Something is no Attribute, or a name is malformed or taken.
    """
    found: dict[str, BroughtAttribute] = {}
    for plugin, given in loaded.collect("model_attributes"):
        for each in given if isinstance(given, Iterable) else [given]:
            if each is None:
                continue
            if not isinstance(each, Attribute) or not isinstance(each.name, str):
                raise PluginError(
                    f"plugin {plugin!r}: model_attributes() gives Attributes, not {each!r}"
                )
            if not each.name.startswith("_") or each.name.startswith("__"):
                raise PluginError(
                    f"plugin {plugin!r}: the name of a model's attribute begins with one underscore, "
                    f"since others are for its fields: {each.name!r}"
                )
            other = found[each.name].plugin if each.name in found else "earnorm"
            if each.name in found or each.name in built_in:
                raise PluginError(
                    f"plugins {other!r} and {plugin!r} both bring the attribute {each.name!r} of models"
                )
            found[each.name] = BroughtAttribute(plugin, each)
    return tuple(found.values())


def value_of(attribute: Attribute, model: type[BaseModel]) -> Any:
    """What a model says in an attribute.

    Raises:
        ConfigurationError: It is of another type.
    """
    value, kind = getattr(model, attribute.name, attribute.default), attribute.type
    if value is not attribute.default and not isinstance(value, kind):
        wanted = kind.__name__ if isinstance(kind, type) else str(kind)
        raise ConfigurationError(
            f"{model.__name__}.{attribute.name} is of the type {wanted}, which {value!r} is not"
        )
    return value
