"""Joins the security declarations of the classes that a model is made of.

What restricts adds up: no class takes away what a base says. What grants is the nearest class's, which
says all of it, unless two bases contradict each other. Extensions add to both.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import cast

from earnorm import ConfigurationError
from earnorm.plugin import Declared, ModelView


def added_up(view: ModelView, attribute: str, *, without: Collection[type] = ()) -> object:
    """Return the items of all classes that a model is made of, the furthest base's first.

    An item that a class repeats (``_rules = [*Base._rules, ...]``) is there once.

    Args:
        view: The model.
        attribute: A class attribute that is a list.
        without: Classes that are left out, because their items hold in another way.

    Returns:
        The list, or None if no class says anything. A value that is no list is returned as it is; its
        reader refuses it.
    """
    said = [each for each in view.declarations(attribute) if each.cls not in without]
    joined: list[object] = []
    for each in said:
        if not isinstance(each.value, list | tuple):
            return each.value
        items = cast("Sequence[object]", each.value)
        before = [*joined]
        joined += [item for item in items if item not in before]
    return joined if said else None


def nearest_said(view: ModelView, attribute: str) -> object:
    """Return what the nearest class says, the model's own body before its bases; None if none does.

    Raises:
        ConfigurationError: Two bases say different things, and neither is a base of the other: which
            one is nearer is only a matter of their order.
    """
    said = [each for each in view.declarations(attribute) if not each.is_added]
    near = [
        one
        for one in said
        if not any(one.cls is not other.cls and issubclass(other.cls, one.cls) for other in said)
    ]
    _refuse_different(view, attribute, near, "the model says which one holds, or joins them")
    return near[-1].value if near else None


def with_extensions(view: ModelView, attribute: str) -> object:
    """Return what the nearest class says, and what extensions add to it."""
    joined = nearest_said(view, attribute)
    for each in view.declarations(attribute):
        if not each.is_added or not isinstance(joined, list | tuple | None):
            continue
        if not isinstance(each.value, list | tuple):
            return each.value
        own = cast("Sequence[object]", joined or ())
        joined = [*own, *cast("Sequence[object]", each.value)]
    return joined


def same_of_all(view: ModelView, attribute: str) -> None:
    """Refuse a model of which the classes that it is made of say different things.

    Raises:
        ConfigurationError: One says something else than another one, or takes it back with None.
    """
    said = view.declarations(attribute)
    _refuse_different(view, attribute, said, "a class keeps what its bases say")
    if said and view.attribute(attribute) != said[0].value:
        raise ConfigurationError(
            f"{view.name}.{attribute} is {view.attribute(attribute)!r}, and {said[0].cls.__name__} says "
            f"{said[0].value!r}: a class keeps what its bases say"
        )


def _refuse_different(view: ModelView, attribute: str, said: Sequence[Declared], so: str) -> None:
    for one in said:
        if one.value != said[0].value:
            raise ConfigurationError(
                f"model {view.name!r}: {attribute} of {said[0].cls.__name__} and of {one.cls.__name__} "
                f"differ: {so}"
            )
