"""The server's own fail point, for the commands of one App."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from pymongo import MongoClient

TRANSIENT = "TransientTransactionError"
UNKNOWN = "UnknownTransactionCommitResult"


@contextmanager
def failing(
    uri: str,
    database: str,
    *commands: str,
    mode: str | Mapping[str, int] = "alwaysOn",
    **data: Any,
) -> Iterator[None]:
    """These commands fail as ``data`` says, of the App that named itself by its database alone.

    https://github.com/mongodb/mongo/wiki/The-failCommand-fail-point
    """
    data = {"failCommands": list(commands), "appName": database, **data}
    with MongoClient[dict[str, Any]](uri) as client:
        client.admin.command("configureFailPoint", "failCommand", mode=mode, data=data)
        try:
            yield
        finally:
            client.admin.command("configureFailPoint", "failCommand", mode="off")
