"""Creates a model's collection and indexes before its first operation.

Nothing is dropped or changed here. Several processes may run this at once: the server creates an
index or a collection once, and the second process finds it.
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
) -> bool:
    """Create what is declared and missing, and log what exists and differs from its declaration.

    Returns:
        True if the collection exists now for certain.

    Raises:
        ConfigurationError: A declaration is malformed, or an existing index prevents a declared
            one.
    """
    await _prepare_collection(model, collection)
    await keep_rules(model, collection)
    indexes = declared_indexes(model, operators)
    if indexes:
        await _prepare_indexes(collection, indexes)
    await _prepare_search_indexes(model, collection)
    return bool(indexes)


async def _prepare_collection(model: type[BaseModel], collection: Collection) -> None:
    if model._options is None:
        return
    # Few models have options, and few databases have an index that differs, so the code for them is
    # imported only when it is needed.
    from earnorm.features.indexes.collection_options import (
        create_options,
        declared_options,
        differences,
    )

    options = declared_options(model)
    assert options is not None
    wanted = create_options(model, options)
    description = await collection.describe()
    if description is None:
        try:
            if await collection.create(wanted):
                return
        except NotSupported as error:
            log.warning("%s; the collection is a plain one", error)
            return
        description = await collection.describe()  # another process has created it
    different = differences(wanted, description or {})
    if different:
        log.warning(
            "the collection %s exists and is not as %s declares it: %s",
            collection.name,
            model.__name__,
            "; ".join(different),
        )


async def _prepare_indexes(collection: Collection, indexes: Sequence[IndexSpec]) -> None:
    try:
        # This usually takes one round trip, for existing and for missing indexes.
        await collection.create_indexes(indexes)
    except ConfigurationError as refusal:
        from earnorm.features.indexes.comparison import compare

        comparison = compare(indexes, await collection.list_indexes())
        serious = [difference for difference in comparison.different if not difference.is_harmless]
        if serious or not comparison.different:
            raise _explanation(collection.name, serious, refusal) from refusal.__cause__
        for difference in comparison.different:
            log.warning("%s: index %s; %s", collection.name, difference, HINT)
        await collection.create_indexes(comparison.missing)


def _explanation(
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
        existing: set[Any] = {index["name"] for index in await collection.list_search_indexes()}
        missing = [index for index in wanted if index.name not in existing]
        if missing:
            await collection.create_search_indexes(missing)
    except NotSupported as error:
        log.warning(
            "%s: the vector-search index %s was not created: %s",
            model.__name__,
            ", ".join(repr(index.name) for index in wanted),
            error,
        )
