"""``load``: a relation of records that may be unset or not loaded, as a value that checkers know."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from earnorm.exceptions import DomainError, NotFound
from earnorm.fields.expressions import find_path
from earnorm.fields.relational import Relation
from earnorm.kernel.naming import nearest_field
from earnorm.kernel.pauses import parts, pause

if TYPE_CHECKING:
    from earnorm.model.base import BaseModel


def name_of(model: type[BaseModel], relation: object) -> str:
    """Return the name of a relation of a model, which is given as a field or by its name.

    Raises:
        DomainError: It is no relation of the model.
    """
    name, schema = find_path(relation), model._schema
    if name is None or not isinstance(schema.fields.get(name), Relation):
        relations = [each.name for each in schema.relations if isinstance(each, Relation)]
        hint = "" if name is None else nearest_field(schema, name, relations)
        raise DomainError(
            f"load: {schema.name} has no relation {name!r}{hint}; give a relation of the model itself, and "
            f"prefetch(...) a path"
        )
    return name


async def load_of(record: BaseModel, relation: object) -> Any:
    """Return the value of a record's relation, loaded; None if it is unset."""
    value = getattr(record, name_of(type(record), relation))
    return None if value is None else await value


async def load_each(records: Sequence[BaseModel], name: str) -> None:
    """Load a relation of records. Of those that were fetched together, the first loads it for all."""
    for part in parts(records):
        for record in part:
            value = getattr(record, name)
            if value is not None:
                with contextlib.suppress(NotFound):  # it is left out
                    await value
        if part is not records:
            await pause()
