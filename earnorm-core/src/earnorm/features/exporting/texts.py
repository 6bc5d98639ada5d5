"""Queries as dicts and JSON: ``to_dict()`` and ``to_json()``, with pauses between parts."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from earnorm.domain.client_text import ClientText
from earnorm.kernel.contract.left_out import need_feature
from earnorm.kernel.operations import Extent
from earnorm.model.reading.in_parts import in_parts

if TYPE_CHECKING:
    from earnorm.model.query import Query

Names = Iterable[str] | None


async def dicts_of(
    query: Query[Any], depth: int, include: Names, exclude: Names
) -> list[dict[str, Any]]:
    """Load a query as dicts; see ``Query.to_dict``."""
    need_feature("exporting", "to_dict()")
    query = query._with(_extent=Extent(shown=depth)) if depth else query
    names = {"include": _listed(include), "exclude": _listed(exclude)}
    rows: list[dict[str, Any]] = []
    async for part in in_parts(await query._by_client(_are_clients(names.values()))):
        rows += part.to_dict(depth=depth, **names)
    return rows


async def json_of(query: Query[Any], depth: int, include: Names, exclude: Names) -> str:
    """Load a query as the text of a JSON array; see ``Query.to_json``."""
    need_feature("exporting", "to_json()")
    query = query._with(_extent=Extent(shown=depth)) if depth else query
    names = {"include": _listed(include), "exclude": _listed(exclude)}
    texts: list[str] = []
    async for part in in_parts(await query._by_client(_are_clients(names.values()))):
        if part:
            texts.append(part.to_json(depth=depth, **names)[1:-1])  # without its brackets
    return f"[{','.join(texts)}]"


def _are_clients(names: Iterable[Names]) -> bool:
    """Return whether a client has sent a name."""
    return any(ClientText in (type(listed), *map(type, listed or ())) for listed in names)


def _listed(names: Names) -> Names:
    """Return names that can be iterated once for each part."""
    return names if names is None or isinstance(names, str) else list(names)
