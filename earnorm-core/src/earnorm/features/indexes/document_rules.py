"""``_validation``: the server also checks a collection's documents against the model's fields.

So it checks the writes of other programs as well. It checks types, required values, bounds and
choices, but not patterns and the model's own validators.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from earnorm.exceptions import NotSupported
from earnorm.features.indexes.declaring import ACTIONS

if TYPE_CHECKING:
    from earnorm.backends.base import Collection
    from earnorm.model.base import BaseModel

log = logging.getLogger("earnorm.validation")


def document_rules(model: type[BaseModel]) -> dict[str, Any]:
    """Make the validator of a model's collection: a query with MongoDB's ``$jsonSchema``.

    It allows keys that the model doesn't declare: another version of the program may have them.
    """
    return {"$jsonSchema": model._schema.stored_schema()}


async def keep_rules(model: type[BaseModel], collection: Collection) -> None:
    """Set the collection's validator for the model's ``_validation``; do nothing if it is None.

    Raises:
        ConfigurationError: The server refuses the validator.
    """
    strictness = model._validation
    if strictness is None:
        return
    try:
        changed = await collection.set_validator(document_rules(model), ACTIONS[strictness])
    except NotSupported as error:
        log.warning("%s: documents are validated by the program only: %s", model.__name__, error)
        return
    if changed:
        log.info(
            "the validator of the collection %s is that of %s", collection.name, model.__name__
        )
