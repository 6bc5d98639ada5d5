"""The JSON of records that an endpoint returns without a response model.

FastAPI makes JSON of an object that it does not know from its ``__dict__``, which for a record is the
stored document, secret values included. Here it gets to know records: as ``to_json()`` has them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, NoReturn

from bson import ObjectId
from fastapi import encoders

from earnorm.features.files.stored import StoredFile
from earnorm.model.base import BaseModel
from earnorm.model.embedded import EmbeddedModel
from earnorm.model.query import Query
from earnorm.model.reading.serializing import as_json, embedded_json
from earnorm.model.recordset import RecordSet

__all__ = ["register"]


def _record(record: BaseModel) -> dict[str, Any]:
    return as_json(record, 0, None, None)


def _records(records: RecordSet[Any]) -> list[dict[str, Any]]:
    return [_record(record) for record in records]


def _file(file: StoredFile) -> Any:
    return file._json_form()


def _query(query: Query[Any]) -> NoReturn:
    raise TypeError(f"an endpoint returned {query!r}, which was not awaited: return await …")


_ENCODERS: Final[dict[type[Any], Callable[[Any], Any]]] = {
    BaseModel: _record,
    EmbeddedModel: embedded_json,
    RecordSet: _records,
    StoredFile: _file,
    Query: _query,
    ObjectId: str,
}


def register() -> None:
    """Tell FastAPI's encoder of records; harmless if it is called again."""
    # Of the two tables, FastAPI makes the second from the first when it is imported.
    encoders.ENCODERS_BY_TYPE.update(_ENCODERS)
    encoders.encoders_by_class_tuples.update(
        encoders.generate_encoders_by_class_tuples(encoders.ENCODERS_BY_TYPE)
    )
