"""The values of class attributes with which models declare something for plugins."""

from __future__ import annotations

from collections.abc import Mapping
from types import UnionType
from typing import TYPE_CHECKING, Any, Final, get_args

from earnorm.exceptions import ConfigurationError

if TYPE_CHECKING:
    from earnorm.kernel.contract.attributes import Attribute
    from earnorm.model.base import BaseModel

HOUSE_ATTRIBUTES: Final[Mapping[str, type | UnionType]] = {
    "_access": list | tuple,
    "_field_rights": list | tuple,
    "_audit": bool,
    "_audit_hidden": list | tuple | set | frozenset,
    "_cache": bool,
    "_rules": list | tuple,
    "_tenant_field": str,
    "_tenant_shared": bool,
    "_across_tenants": list | tuple,
}
"""The class attributes that EarnORM's own plugins look at, and the types of their values: a model that
misspells one is refused also where the plugin is not installed."""


def is_of(value: object, kind: type | UnionType) -> bool:
    """Return whether a value is of a type; True and False are no numbers."""
    kinds = get_args(kind) or (kind,)
    return isinstance(value, tuple(k for k in kinds if k is not int or type(value) is not bool))


def value_of(attribute: Attribute, model: type[BaseModel]) -> Any:
    """Return the value of an attribute on a model.

    Raises:
        ConfigurationError: It is of another type.
    """
    value, kind = getattr(model, attribute.name, attribute.default), attribute.type
    if value is not attribute.default and not is_of(value, kind):
        wanted = " | ".join(getattr(k, "__name__", str(k)) for k in get_args(kind) or (kind,))
        raise ConfigurationError(
            f"{model.__name__}.{attribute.name} is of the type {wanted}, which {value!r} is not"
        ).coded("attribute_value")
    return value
