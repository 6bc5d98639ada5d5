"""Archiving and restoring several records at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from earnorm.exceptions import ConfigurationError
from earnorm.kernel.contract.left_out import need_feature

if TYPE_CHECKING:
    from earnorm.model.recordset import RecordSet


async def set_active(records: RecordSet[Any], active: bool) -> int:
    """Set the ``active`` field of records, and return the number of records that were written.

    Raises:
        ConfigurationError: The model does not inherit from ``mixins.SoftDelete``.
    """
    if not records._model._soft_delete:
        raise ConfigurationError(f"{records._model._name} cannot archive: mixins.SoftDelete can")
    need_feature("archive", "archive() or unarchive()")
    return await records.write({"active": active})
