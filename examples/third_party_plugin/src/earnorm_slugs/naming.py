"""The choice of a slug that is free: ``blue-lamp``, else ``blue-lamp-2``, ``blue-lamp-3`` …"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from itertools import count
from typing import TYPE_CHECKING, Any

from earnorm import Domain
from earnorm.plugin import ModelView, Operation, Options, made_by, name_of

if TYPE_CHECKING:
    from earnorm import Env
    from earnorm.models import BaseModel

    from earnorm_slugs.fields import AutoSlug


def first_free(base: str, taken: Collection[str], longest: int) -> str:
    """Return the first slug with this base that nobody has.

    Args:
        base: The slug of the text alone.
        taken: The slugs that others have, and words that are reserved.
        longest: The most characters.
    """
    for number in count(1):
        end = "" if number == 1 else f"-{number}"
        slug = base[: longest - len(end)].rstrip("-") + end
        if slug not in taken:
            return slug
    raise AssertionError("numbers do not end")


async def taken_slugs(
    env: Env,
    model: type[BaseModel],
    field: AutoSlug[Any],
    bases: Iterable[str],
    longest: int,
    parent: Operation | None = None,
) -> set[str]:
    """Return the slugs with these bases that a record has or had, also those that rules hide.

    Args:
        env: The Env that asks.
        model: The model.
        field: The field with the slugs.
        bases: Slugs without a number.
        longest: The most characters of a slug.
        parent: The operation that it is asked for.
    """
    starts = {base[: longest - _END].rstrip("-") for base in bases}
    as_system = env.replace(system=True, reason="slugs: which ones are taken")
    former = Domain([("model", "=", name_of(model)), ("field", "=", field.name)])
    places: list[tuple[type[BaseModel], str, Domain]] = [
        (model, field.name, Domain.TRUE),
        (env.app.model("slugs.former"), "slug", former),
    ]
    taken: set[str] = set()
    for place, name, also in places:
        options = Options(fields=frozenset({name}))
        domain = also & _starting(name, starts)
        notes = made_by("slugs", parent)
        search = Operation("search", place, as_system, domain, None, options, notes)
        key = ModelView(place).fields[name].db_name
        taken.update(document[key] for document in await env.app.execute(search))
    return taken


_END = 6
"""The most characters of a number with its hyphen."""


def _starting(name: str, starts: Collection[str]) -> Domain:
    condition = Domain.FALSE
    for start in starts:
        pattern = start.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
        condition |= Domain([(name, "=like", f"{pattern}%")])
    return condition
