"""Reads what an HTTP client or a language model asks of a query: bounded, and named from a list.

Each function returns what a query takes anyway, with a mark. A query with a marked part has the
rights of the acting principal, also inside of ``earnorm.system()``. Conditions are read by
:meth:`Domain.untrusted`.

What is refused is a ``ValidationError`` with the code ``untrusted`` (422), whose ``loc`` is the
place in the data. It lists nothing of what is offered, and repeats no name.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from earnorm.domain.client_text import ClientText, checked_names, read_names, read_order, refuse

if TYPE_CHECKING:
    from earnorm.features.grouping.client_groups import ClientGroup
    from earnorm.features.grouping.client_pipelines import ClientPipeline

__all__ = ["cursor", "fields", "group", "order", "pipeline"]


def order(data: object, *, fields: Collection[str], keys: int = 5, length: int = 1_000) -> str:
    """Read an order for ``order()``, ``search(order=)`` or ``prefetch(order=)``.

    Args:
        data: ``"-age,name"`` or ``["-age", "name"]``; an empty one means no order.
        fields: The paths that it may name.
        keys: The most keys.
        length: The most characters of a text.

    Raises:
        ValidationError: It is no order, too large, or names something else.
        TypeError: ``fields`` is no collection of names.
    """
    return read_order(data, checked_names("fields", fields), keys, length)


def fields(data: object, *, fields: Collection[str]) -> list[str]:
    """Read names of fields for ``only()``, or of relations for ``prefetch()``.

    Args:
        data: ``"name,age"`` or ``["name", "age"]``: at least one name, each once.
        fields: The paths that it may name.

    Raises:
        ValidationError: It is no list of names, empty, or names something else.
        TypeError: ``fields`` is no collection of names.
    """
    offered = checked_names("fields", fields)
    names = read_names("fields", data, offered, len(offered))
    if not names:
        # An empty list has nothing that could be marked.
        refuse("fields", (), "it is empty; give at least one name, or leave it out")
    return list(names)


def cursor(data: object) -> str:
    """Read a cursor for ``paginate(after=)`` or ``paginate(before=)``.

    Args:
        data: The text that ``paginate()`` gave; None or an empty text for the first page.

    Raises:
        ValidationError: It is no text of a cursor. ``paginate()`` refuses one of another query.
    """
    if data is None:
        return ClientText()
    if not isinstance(data, str) or len(data) > 4096 or not data.isascii():
        refuse("cursor", (), "hand in the text that paginate() gave")
    return ClientText(data)


def group(
    data: object,
    *,
    keys: Collection[str],
    aggregates: Collection[str] = ("count",),
    number: int = 10,
    rows: int = 1_000,
) -> ClientGroup:
    """Read what ``group()`` shall compute: ``await query.group(untrusted.group(data, …))``.

    Args:
        data: ``{"keys": ["status"], "aggregates": {"total": "hours:sum"}, "having": [["total", ">",
            9]], "order": "-total", "limit": 10}``; each part may be missing.
        keys: The keys that it may name, whole: ``"status"``, ``"created_at:month"``.
        aggregates: The aggregates that it may name, whole: ``"count"``, ``"hours:sum"``; the
            functions are ``avg``, ``count``, ``distinct``, ``max``, ``min`` and ``sum``.
        number: The most keys, and the most aggregates.
        rows: The most rows, and the limit where the client sends none.

    Raises:
        ValidationError: It is malformed, too large, or names something else.
        TypeError: What is offered is no collection of keys or aggregates.
    """
    from earnorm.features.grouping.client_groups import GroupOffer

    return GroupOffer(keys, aggregates, number, rows).read(data)


def pipeline(
    data: object,
    *,
    fields: Collection[str],
    stages: Collection[str] | None = None,
    operators: Collection[str] | None = None,
    number: int = 10,
    depth: int = 10,
    values: int = 500,
    length: int = 1_000,
    rows: int = 1_000,
) -> ClientPipeline:
    """Read a pipeline for ``aggregate()``, which sees nothing but the offered fields and the ids.

    Args:
        data: A list of MongoDB's stages. Each names what is offered, or what a stage before it has
            made.
        fields: The paths that it may name, by their stored names.
        stages: The stages that it may use, of ``$match``, ``$group``, ``$project``, ``$set``,
            ``$addFields``, ``$unset``, ``$sort``, ``$limit``, ``$skip``, ``$unwind``, ``$bucket``,
            ``$count`` and ``$sortByCount``; None means all of these.
        operators: The operators that it may use; None means comparisons, arithmetic, parts of dates
            and texts, and the accumulators that keep one value.
        number: The most stages.
        depth: The most levels in a stage.
        values: The most values in all stages, objects and lists included.
        length: The most characters of a text.
        rows: The most rows that it returns.

    Raises:
        ValidationError: It is malformed, too large, or names something else.
        TypeError: What is offered cannot be.
    """
    from earnorm.features.grouping.client_pipelines import Bounds, PipelineOffer

    bounds = Bounds(number, depth, values, length, rows)
    return PipelineOffer(fields, stages, operators, bounds).read(data)
