"""Finds documents by many ids, in as few searches as the size of a filter allows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from earnorm.domain import condition
from earnorm.domain.long_lists import chunks
from earnorm.kernel import pauses
from earnorm.kernel.environment import current_env
from earnorm.kernel.notes import NO_NOTES, Note
from earnorm.kernel.operations import Operation, Options
from earnorm.kernel.pauses import pause

if TYPE_CHECKING:
    from earnorm.backends.base import Document
    from earnorm.kernel.binding import BoundModel
    from earnorm.kernel.environment import Env


async def by_ids(
    bound: BoundModel,
    path: str,
    pks: Sequence[Any],
    *,
    env: Env | None = None,
    order: tuple[tuple[str, int], ...] = (),
    fields: frozenset[str] | None = None,
    notes: Mapping[Note[Any], Any] = NO_NOTES,
) -> list[Document]:
    """Return the documents whose value at the path is one of the ids.

    Args:
        bound: Their model.
        path: ``"_id"``, or a field that holds ids.
        pks: The ids, each once.
        env: The Env of the searches; the default is the current one.
        order: Stored paths with 1 or -1; it holds within each search, not across them.
        fields: Names of the fields to fetch; None means all.
        notes: The notes of the searches, e.g. ``made_by("model", op)``.
    """
    if len(pks) > pauses.EVERY:
        await pause()
    env = env or current_env()
    options = Options(order=order, fields=fields)
    documents: list[Document] = []
    for chunk in chunks(pks):
        domain = condition(path, "in", chunk)
        op = Operation("search", bound.model, env, domain, None, options, notes)
        documents += await env.app.execute(op)
    return documents
