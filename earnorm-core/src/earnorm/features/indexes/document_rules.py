"""``_validation``: the server, too, holds a collection's documents to the model's fields.

It sees what other programs write as well. Types, required values, bounds and choices are checked there; patterns and
the model's own validators are not.
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
    """The validator of a model's collection: a query expression with MongoDB's ``$jsonSchema``.

    Keys that the model doesn't declare are let pass: another version of the program may have them.
    """
    return {"$jsonSchema": model._schema.stored_schema()}


async def keep_rules(model: type[BaseModel], collection: Collection) -> None:
    """Let the collection's validator be what the model asks for; nothing where it asks for none.

    Raises:
        ConfigurationError: The server refuses the validator.
    """
    asked = model._validation
    if asked is None:
        return
    try:
        changed = await collection.set_validator(document_rules(model), ACTIONS[asked])
    except NotSupported as error:
        log.warning("%s: documents are validated by the program only: %s", model.__name__, error)
        return
    if changed:
        log.info(
            "the validator of the collection %s is that of %s", collection.name, model.__name__
        )
