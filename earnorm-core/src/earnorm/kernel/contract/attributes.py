"""Class attributes with which models declare something for plugins."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from types import UnionType
from typing import TYPE_CHECKING, Any, NamedTuple

from earnorm.exceptions import PluginError
from earnorm.kernel.contract.attribute_values import is_of
from earnorm.kernel.contract.named_functions import is_plain

if TYPE_CHECKING:
    from earnorm.kernel.plugins.loading import LoadedPlugins
    from earnorm.model.declaring import Declaration


@dataclass(frozen=True, slots=True)
class Attribute:
    """A class attribute that models may have for a plugin.

    Attributes:
        name: Its name, which begins with one underscore, e.g. ``"_stamped"``.
        type: The class of its values, or a union of classes. ``bool`` is none of ``int``.
        default: The value of a model that doesn't have it.
        declare: A function for each model that has another value. It gets the declaration of the
            class, may add fields and indexes, and may refuse the model. It sees one App's class of
            the model, so other Apps don't have these fields.
    """

    name: str
    type: type | UnionType
    default: Any = None
    declare: Callable[[Declaration], None] | None = None


class BroughtAttribute(NamedTuple):
    """An attribute with the name of its plugin."""

    plugin: str
    attribute: Attribute


def brought_attributes(
    loaded: LoadedPlugins, built_in: Collection[str]
) -> tuple[BroughtAttribute, ...]:
    """Return the attributes of an App's plugins.

    Args:
        loaded: The plugins.
        built_in: Names that plugins may not use.

    Raises:
        PluginError: A result is no Attribute, or a name is malformed or taken.
    """
    brought: dict[str, BroughtAttribute] = {}
    for plugin, given in loaded.collect("model_attributes"):
        if given is None:
            continue
        for attribute in given if isinstance(given, Iterable) else [given]:
            if not isinstance(attribute, Attribute) or not isinstance(attribute.name, str):
                raise PluginError(
                    f"plugin {plugin!r}: model_attributes() gives Attributes, not {attribute!r}"
                ).coded("not_an_attribute")
            if not attribute.name.startswith("_") or attribute.name.startswith("__"):
                raise PluginError(
                    f"plugin {plugin!r}: the name of a model's attribute begins with one underscore, "
                    f"since others are for its fields: {attribute.name!r}"
                ).coded("not_an_attribute")
            _check_parts(plugin, attribute)
            owner = brought[attribute.name].plugin if attribute.name in brought else "earnorm"
            if attribute.name in brought or attribute.name in built_in:
                raise PluginError(
                    f"plugins {owner!r} and {plugin!r} both bring the attribute {attribute.name!r} of models"
                ).coded("name_taken")
            brought[attribute.name] = BroughtAttribute(plugin, attribute)
    return tuple(brought.values())


def _check_parts(plugin: str, attribute: Attribute) -> None:
    """Refuse an attribute with a type that no value can be of, or a ``declare`` that cannot be called.

    Raises:
        PluginError: It has one.
    """
    part, expected = "", ""
    declare: object = attribute.declare
    if declare is not None and not is_plain(declare, 1):
        part, expected = "declare", "a plain function of (declaration), or None"
    try:
        is_of(None, attribute.type)
    except TypeError:
        part, expected = "type", "a class, or a union of classes"
    if part:
        raise PluginError(
            f"plugin {plugin!r}: the attribute {attribute.name!r} has {part}="
            f"{getattr(attribute, part)!r}; expected {expected}"
        ).coded("not_an_attribute")
