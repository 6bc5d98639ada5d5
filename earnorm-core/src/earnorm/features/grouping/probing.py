"""Probes whether the server keeps a stage behind the barrier away from other documents.

``joining`` relies on that. It is no promise of the server's manual, so each App asks its server once,
with the first pipeline that needs it.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from earnorm.exceptions import NotSupported, ValidationError
from earnorm.features.grouping.joining import BARRIER

if TYPE_CHECKING:
    from earnorm.kernel.app import App
    from earnorm.kernel.binding import BoundModel

_known: Final[weakref.WeakKeyDictionary[App, bool]] = weakref.WeakKeyDictionary()
_KEY: Final = "__earnorm_probe"


async def refuse_risk(bound: BoundModel) -> None:
    """Refuse a pipeline that may fail if the server evaluates it on documents of others.

    Raises:
        NotSupported: It does.
    """
    app = bound.app
    if "explain" not in app.capabilities:
        return  # no server: mongomock runs one stage after the other
    holds = _known.get(app)
    if holds is None:
        holds = await barrier_holds(bound)
        if holds is None:
            return  # the collection is empty, so there is nothing to evaluate anything on
        _known[app] = holds
    if not holds:
        raise NotSupported(
            f"{bound.model._name}: this server evaluates stages of a pipeline on records that they "
            f"must not see, so only system may use expressions that can fail; see docs/security.md"
        )


async def barrier_holds(
    bound: BoundModel, barrier: Mapping[str, Any] | None = BARRIER
) -> bool | None:
    """Return whether a stage behind the barrier sees nothing of a document that is not selected.

    Args:
        bound: The model whose collection is asked; one document of it is read.
        barrier: The barrier; None asks without any.

    Returns:
        None if the collection has no document to ask with.
    """
    collection = bound._collection
    documents = await collection.find({}, projection={"_id": 1}, limit=1, timeout=bound.timeout)
    if not documents:
        return None
    # The document is found by its id and not selected; the expression fails for it.
    fails = {"$toInt": {"$concat": ["x", {"$toString": {"$type": "$_id"}}]}}
    stages = [
        {"$match": {"$and": [{"_id": documents[0]["_id"]}, {_KEY: 1}]}},
        *([] if barrier is None else [barrier]),
        {"$match": {"$or": [{"$expr": {"$eq": [fails, 1]}}, {_KEY: 2}]}},
    ]
    try:
        return not await collection.aggregate(stages, timeout=bound.timeout)
    except ValidationError:
        return False
