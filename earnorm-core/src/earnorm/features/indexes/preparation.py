"""What a model needs in the database before its first operation: its collection and its indexes.

Nothing is dropped or changed here. Everything may run in several processes at once: the server makes an
index or a collection once, and whoever comes second finds what is there.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from earnorm.backends.base import Collection, IndexSpec
from earnorm.exceptions import ConfigurationError, NotSupported
from earnorm.features.indexes.declarations import declared_indexes, declared_search_indexes
from earnorm.features.indexes.document_rules import keep_rules

if TYPE_CHECKING:
    from earnorm.domain import Operator
    from earnorm.features.indexes.comparison import IndexDifference
    from earnorm.model.base import BaseModel

log = logging.getLogger("earnorm.indexes")

HINT = "'earnorm indexes diff' shows it all"


async def prepare(
    model: type[BaseModel], collection: Collection, operators: Mapping[str, Operator]
) -> None:
    """Create what is declared and missing; say where something exists that is not as declared.

    Raises:
        ConfigurationError: A declaration is malformed, or an index stands in the way of a declared one.
    """
    await _prepare_collection(model, collection)
    await keep_rules(model, collection)
    indexes = declared_indexes(model, operators)
    if indexes:
        await _prepare_indexes(collection, indexes)
    await _prepare_search_indexes(model, collection)


async def _prepare_collection(model: type[BaseModel], collection: Collection) -> None:
    if model._options is None:
        return
    # Few models have options, and few databases an index that is not as declared: what is about them is
    # not loaded for the others.
    from earnorm.features.indexes.collection_options import (
        create_options,
        declared_options,
        differences,
    )

    options = declared_options(model)
    assert options is not None
    wanted = create_options(model, options)
    found = await collection.describe()
    if found is None:
        try:
            if await collection.create(wanted):
                return
        except NotSupported as error:
            log.warning("%s; the collection is a plain one", error)
            return
        found = await collection.describe()  # another process was first
    unlike = differences(wanted, found or {})
    if unlike:
        log.warning(
            "the collection %s exists and is not as %s declares it: %s",
            collection.name,
            model.__name__,
            "; ".join(unlike),
        )


async def _prepare_indexes(collection: Collection, indexes: Sequence[IndexSpec]) -> None:
    try:
        # In the common case one round trip, whether they exist or not.
        await collection.create_indexes(indexes)
    except ConfigurationError as refusal:
        from earnorm.features.indexes.comparison import compare

        found = compare(indexes, await collection.list_indexes())
        serious = [difference for difference in found.different if not difference.is_harmless]
        if serious or not found.different:
            raise _explained(collection.name, serious, refusal) from refusal.__cause__
        for difference in found.different:
            log.warning("%s: index %s; %s", collection.name, difference, HINT)
        await collection.create_indexes(found.missing)


def _explained(
    name: str, serious: Sequence[IndexDifference], refusal: ConfigurationError
) -> ConfigurationError:
    if not serious:
        return refusal
    listed = "; ".join(f"index {difference}" for difference in serious)
    return ConfigurationError(
        f"{name}: {listed}. Nothing was changed: {HINT}, and 'earnorm indexes sync --replace' "
        f"makes them as declared"
    )


async def _prepare_search_indexes(model: type[BaseModel], collection: Collection) -> None:
    wanted = declared_search_indexes(model)
    if not wanted:
        return
    try:
        existing: set[Any] = {each["name"] for each in await collection.list_search_indexes()}
        missing = [each for each in wanted if each.name not in existing]
        if missing:
            await collection.create_search_indexes(missing)
    except NotSupported as error:
        log.warning(
            "%s: the vector-search index %s was not created: %s",
            model.__name__,
            ", ".join(repr(each.name) for each in wanted),
            error,
        )
