"""Refuses a class attribute that is nearly one with a meaning, as ``_acess`` is nearly ``_access``.

Without this a misspelt attribute says nothing, and a model without its access rules looks the same.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Iterator, Sequence
from functools import lru_cache
from types import MappingProxyType, UnionType
from typing import TYPE_CHECKING, Any, Final

from earnorm.exceptions import ConfigurationError
from earnorm.kernel.contract.attribute_values import HOUSE_ATTRIBUTES, is_of

if TYPE_CHECKING:
    from earnorm.kernel.contract.attributes import BroughtAttribute
    from earnorm.model.base import BaseModel

_LIKENESS: Final = 0.8
"""The likeness (difflib's ratio) from which a name is taken for a slip.

One wrong, missing, additional or exchanged letter leaves 0.83 of a name of six letters and more of a
longer one. The 0.6 of :func:`earnorm.exceptions.nearest`, which words a hint in an error that there
is anyhow, would refuse ``_levels`` for ``_rules``.
"""

_MAPPING: Final = dict | MappingProxyType
CORE_ATTRIBUTES: Final[MappingProxyType[str, type | UnionType]] = MappingProxyType(
    {
        "_name": str,
        "_collection": str,
        "_indexes": list | tuple,
        "_validation": str,
        "_options": object,
        "_versioned": bool,
        "_order": str | list | tuple,
        "_parent_name": str,
        "_parent_store": bool,
        "_bookkeeping": str,
        "_read_concern": object,
        "_write_concern": object,
        "_read_preference": object,
        "_soft_delete": bool,
        "_discriminator": str,
        "_kind": str,
        "_inherits": _MAPPING,
        "_abstract": bool,
        "_inherit": str,
    }
)
"""The class attributes with which a model declares something, and the types of their values."""


def refuse_misspelt(model: type[BaseModel], brought: Sequence[BroughtAttribute]) -> None:
    """Refuse a model with a class attribute that is probably a misspelt one.

    The attribute is probably misspelt if its name is much like a known one and its value could be a
    value of that one. Methods, properties and fields are none, and neither is a constant that is
    annotated with ``Final``.

    Args:
        model: The model, or one App's class of it.
        brought: The attributes that the App's plugins bring.

    Raises:
        ConfigurationError: It has such an attribute.
    """
    known: dict[str, type | UnionType] = {**HOUSE_ATTRIBUTES, **CORE_ATTRIBUTES}
    known.update((each.attribute.name, each.attribute.type) for each in brought)
    for cls, name, value in _own_data(model):
        if name in known:
            continue
        near = _near(name, tuple(known))
        meant = next((other for other in near if is_of(value, known[other])), None)
        if meant is None or _is_final(cls, name):
            continue
        owner = next((f" of plugin {b.plugin!r}" for b in brought if b.attribute.name == meant), "")
        raise ConfigurationError(
            f"{cls.__name__}.{name} means nothing; did you mean {meant!r}{owner}? A constant of the "
            f"class's own has another name, or says so: {name}: Final = ..."
        ).coded("misspelt_attribute")


@lru_cache(maxsize=256)
def _near(name: str, known: tuple[str, ...]) -> list[str]:
    """Return the known names that a name is much like; many models have the same attributes."""
    return difflib.get_close_matches(name, known, n=3, cutoff=_LIKENESS)


def _own_data(model: type[BaseModel]) -> Iterator[tuple[type, str, Any]]:
    """Yield the underscored class attributes with data that class bodies define, and their class."""
    base = next(cls for cls in reversed(model.__mro__) if "_name" in vars(cls))  # BaseModel itself
    for cls in model.__mro__:
        if issubclass(base, cls):
            continue  # what BaseModel and its own bases have is known
        private = f"_{cls.__name__.lstrip('_')}__"
        for name, value in tuple(vars(cls).items()):
            if (
                name.startswith("_")
                and not name.startswith(("__", private))
                and value is not None
                and not hasattr(base, name)
                and not hasattr(value, "__get__")
                and not callable(value)
            ):
                yield cls, name, value


def _is_final(cls: type, name: str) -> bool:
    try:
        annotation = inspect.get_annotations(cls).get(name)
    except NameError:  # Python 3.14 evaluates them now, and another's is not defined
        return False
    return "Final" in str(annotation)
