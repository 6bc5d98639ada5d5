"""Archive several records, and bring them back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from earnorm.exceptions import ConfigurationError

if TYPE_CHECKING:
    from earnorm.model.recordset import RecordSet


async def set_active(records: RecordSet[Any], active: bool) -> int:
    """Write whether the records are active; how many were written.

    Raises:
        ConfigurationError: The model is no ``mixins.SoftDelete``.
    """
    if not records._model._soft_delete:
        raise ConfigurationError(f"{records._model._name} cannot archive: mixins.SoftDelete can")
    return await records.write({"active": active})
