"""The documents that say what is owed, and the lease of the process that works one off.

A document names fields of a model and the records to compute them for: those whose value under a
path is one of some ids. A process that works one off holds it by a *token*, a number that every new
holder raises; each transaction of its work compares the token, so that a holder whose lease has
expired writes nothing more. The times of the lease are the server's.
"""

from __future__ import annotations

import functools
import hashlib
import os
import socket
from collections.abc import AsyncIterator, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from bson import ObjectId

from earnorm.domain import Condition, Domain
from earnorm.domain.long_lists import slices
from earnorm.fields.numeric import Int
from earnorm.fields.structured import Json, List
from earnorm.fields.temporal import DateTime
from earnorm.fields.text import String
from earnorm.kernel.environment import Env
from earnorm.kernel.operations import Operation, Options, Update, made_by
from earnorm.kernel.serving.sending import RETURNED, Returned
from earnorm.kernel.time import now
from earnorm.model.base import BaseModel

if TYPE_CHECKING:
    from earnorm.kernel.app import App

LEASE: Final = timedelta(seconds=30)
"""The time without a sign of life after which another process takes over what one works off."""

_MOST_IDS: Final = 10_000
_PART: Final = 100  # documents that are read at a time
_NOTES: Final = made_by("owed")
_HOLDER: Final = f"{socket.gethostname()}:{os.getpid()}"


@functools.cache
def make_model() -> type[BaseModel]:
    """Make the model on first use: an App without computed fields has no collection for it."""

    class OwedRecompute(BaseModel):
        """Fields that have to be computed again, and the records to compute them for."""

        _name = "earnorm.owed"
        _bookkeeping = "recompute"
        _indexes = [{"digest": 1}]

        model = String(required=True)
        names = List(String(), required=True)
        follows = List(String(), required=True)
        path = String(required=True)
        ids = Json(required=True)
        digest = String(required=True)
        owed_at = DateTime(required=True)
        hops = Int()
        after = Json()
        token = Int()
        holder = String()
        alive_at = DateTime()
        looked_at = DateTime()
        error = String()

    return OwedRecompute


def owed_model(app: App) -> type[BaseModel]:
    """Return the model of the documents in an App."""
    return app.bind(make_model()).model


@dataclass(frozen=True, slots=True)
class Owed:
    """One document: fields, and the records to compute them for.

    Attributes:
        pk: Its id.
        model: The model's name.
        names: The fields to compute.
        follows: All fields that may change with them, ``"model.field"`` each, as the process that owed
            it knows them. Whoever works it off without knowing one would lose what follows.
        path: The path of the field that has one of ``ids``; ``"_id"`` for the records themselves.
        ids: The ids; empty if they were not read.
        digest: The same text for all documents of the same fields and records.
        owed_at: The time of the change, by the clock of its process.
        hops: The number of recomputations in a row that were owed because of each other.
        after: The id of the last record that is done; None before the first.
        token: The number of holders so far.
        holder: The process that holds it, for people.
        alive_at: The holder's last sign of life; None if nobody holds it.
        error: For a record that was set apart, the error of its formula.
    """

    pk: Any
    model: str
    names: tuple[str, ...]
    follows: tuple[str, ...]
    path: str
    ids: tuple[Any, ...]
    digest: str
    owed_at: datetime
    hops: int
    after: Any
    token: int
    holder: str | None
    alive_at: datetime | None
    error: str | None

    @property
    def domain(self) -> Domain:
        """The records."""
        return Condition(self.path, "in", self.ids)

    def __str__(self) -> str:
        return f"{self.model}: {', '.join(self.names)}"


def _read(document: Mapping[str, Any]) -> Owed:
    return Owed(
        document["_id"],
        document["model"],
        tuple(document["names"]),
        tuple(document["follows"]),
        document["path"],
        tuple(document.get("ids", ())),
        document["digest"],
        document["owed_at"],
        document.get("hops") or 0,
        document.get("after"),
        document.get("token") or 0,
        document.get("holder"),
        document.get("alive_at"),
        document.get("error"),
    )


_KEYS: Final = frozenset(Owed.__dataclass_fields__) - {"pk"}


def owed_documents(
    model: str,
    names: Iterable[str],
    follows: Iterable[str],
    pks: Iterable[Any],
    domains: Iterable[Domain],
    *,
    hops: int = 0,
    held: bool = False,
    error: str | None = None,
) -> list[dict[str, Any]]:
    """Return the documents for fields of records, in stored form.

    Args:
        model: The model's name.
        names: The fields.
        follows: All fields that may change with them, ``"model.field"`` each.
        pks: Ids of records.
        domains: Conditions of the form ``(path, "in", ids)``.
        hops: The number of recomputations in a row that were owed because of each other.
        held: The caller holds the documents until it deletes them, or dies.
        error: The error for which the records are set apart.
    """
    places: list[tuple[str, Sequence[Any]]] = [
        ("_id", part) for part in slices(list(pks), _MOST_IDS)
    ]
    for domain in domains:
        assert isinstance(domain, Condition)
        ids: Any = domain.value
        places += [(domain.path, part) for part in slices(ids, _MOST_IDS)]
    fields, known, moment = sorted(names), sorted(follows), now().replace(tzinfo=None)
    documents: list[dict[str, Any]] = []
    for path, part in places:
        documents.append(
            {
                "_id": ObjectId(),
                "model": model,
                "names": fields,
                "follows": known,
                "path": path,
                "ids": list(part),
                "digest": _digest(model, fields, known, path, part),
                "owed_at": moment,
                "hops": hops,
                "token": 0,
                **({"alive_at": moment, "holder": _HOLDER} if held else {}),
                **({"error": error} if error is not None else {}),
            }
        )
    return documents


def _digest(
    model: str, names: Sequence[str], follows: Sequence[str], path: str, ids: Sequence[Any]
) -> str:
    what = repr((model, list(names), list(follows), path, list(ids)))
    return hashlib.blake2b(what.encode(), digest_size=16).hexdigest()


# -- reading ----------------------------------------------------------------------------------------


WAITING: Final = Condition("error", "=", None)
"""The documents to be worked off."""
APART: Final = Condition("error", "!=", None)
"""The records whose formula failed."""


async def owed_in(
    env: Env, domain: Domain = Domain.TRUE, *, ids: bool = False
) -> AsyncIterator[Owed]:
    """Yield what is owed, in the order of its ids, so about the oldest first.

    Args:
        env: The Env.
        domain: The documents.
        ids: Read the ids of records, too, which may be many.
    """
    fields, part = _KEYS if ids else _KEYS - {"ids"}, domain
    options = Options(fields=fields, order=(("_id", 1),), limit=_PART)
    seen = list[Any]()
    while True:
        op = Operation("search", owed_model(env.app), env, part, options=options, notes=_NOTES)
        found = [_read(document) for document in await env.app.execute(op)]
        for owed in found:
            seen.append(owed.pk)
            yield owed
        if len(found) == _PART:
            part = domain & Condition("_id", ">", seen[-1])
        elif not found or len(found) == len(seen):
            return
        else:
            # What followed meanwhile from a later part may lie in an earlier one.
            part = domain & Condition("_id", "not in", seen)


async def count(env: Env, domain: Domain) -> int:
    """Return the number of documents of a domain."""
    op = Operation("count", owed_model(env.app), env, domain, notes=_NOTES)
    number: int = await env.app.execute(op)
    return number


# -- the lease ----------------------------------------------------------------------------------------


class LeaseLost(Exception):
    """Another process has taken over."""


async def claim(env: Env, owed: Owed, *, take_over: bool) -> Owed | None:
    """Hold an owed document; return it with its ids, or None if somebody else holds it.

    Args:
        env: The Env, in no transaction.
        owed: The document as it was read.
        take_over: Also take one over whose holder gives no sign of life any more.
    """
    if owed.alive_at is not None:
        if not take_over:
            return None
        # The server's clock is read by writing it down.
        looked = await _update(env, owed, {"$currentDate": {"looked_at": True}}, ["looked_at"])
        if looked is None or looked["looked_at"] - owed.alive_at < LEASE:
            return None
    held = await _update(
        env,
        owed,
        {
            "$inc": {"token": 1},
            "$set": {"holder": _HOLDER},
            "$currentDate": {"alive_at": True},
        },
        _KEYS,
    )
    return None if held is None else _read(held)


async def advance(env: Env, owed: Owed, after: Any) -> Owed:
    """Note that all records up to one are done, and that the holder is alive.

    Raises:
        LeaseLost: Another process holds the document.
    """
    changes = {"$set": {"after": after}, "$currentDate": {"alive_at": True}}
    if await _update(env, owed, changes, ["token"]) is None:
        raise LeaseLost
    return replace(owed, after=after)


async def finish(env: Env, owed: Owed) -> None:
    """Delete the document, because nothing of it is owed any more.

    Raises:
        LeaseLost: Another process holds the document.
    """
    if not await delete(env, _of_holder(owed)):
        raise LeaseLost


async def release(env: Env, owed: Owed, error: str | None = None) -> None:
    """Hand a document back, as far as it is done; it may be set apart with an error.

    Nothing happens if another process holds it.
    """
    changes: dict[str, Mapping[str, Any]] = {"$unset": {"alive_at": "", "holder": ""}}
    if error is not None:
        changes["$set"] = {"error": error}
    await _update(env, owed, changes, ["token"])


async def drop_the_same(env: Env, owed: Owed) -> None:
    """Delete the documents that a holder does with its own: the same ones, which nobody has begun."""
    same = Condition("digest", "=", owed.digest) & Condition("token", "=", 0)
    await delete(env, same & Condition("_id", "!=", owed.pk) & Condition("alive_at", "=", None))


async def set_apart(env: Env, owed: Owed, pk: Any, error: str) -> None:
    """Owe a record by itself, with the error of its formula, so that it holds up no other.

    It is set apart once, whatever the number of changes.
    """
    await forget_apart(env, owed, [pk])
    documents = owed_documents(
        owed.model, owed.names, owed.follows, [pk], (), hops=owed.hops, error=error
    )
    op = Operation("create", owed_model(env.app), env, values=documents, notes=_NOTES)
    await env.app.execute(op)


async def forget_apart(env: Env, owed: Owed, pks: Iterable[Any]) -> None:
    """Delete what sets records apart for the fields of a document: they are computed, or will be again."""
    digests = [_digest(owed.model, owed.names, owed.follows, "_id", [pk]) for pk in pks]
    await delete(env, APART & Condition("digest", "in", digests) & Condition("_id", "!=", owed.pk))


async def delete(env: Env, domain: Domain) -> int:
    """Delete the documents of a domain, and return their number."""
    op = Operation("unlink", owed_model(env.app), env, domain, notes=_NOTES)
    number: int = await env.app.execute(op)
    return number


def _of_holder(owed: Owed) -> Domain:
    return Condition("_id", "=", owed.pk) & Condition("token", "=", owed.token)


async def _update(
    env: Env, owed: Owed, operators: Mapping[str, Mapping[str, Any]], names: Collection[str]
) -> Mapping[str, Any] | None:
    """Change the document if it has this token, and return fields of it; None if it has another."""
    returned = Returned(frozenset(names))
    op = Operation(
        "write",
        owed_model(env.app),
        env,
        _of_holder(owed),
        Update(operators),
        Options(many=False),
        {**_NOTES, RETURNED: returned},
    )
    await env.app.execute(op)
    return returned.document
