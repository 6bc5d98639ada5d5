"""Sequences: running numbers, each given out once; each sequence is one document.

``next`` of a fast sequence is one find-and-modify outside any transaction: nobody waits, and a
rollback loses the number. A gap-free sequence counts inside the running transaction, so that a
rollback also takes the number back; two transactions that use it conflict, and ``@transactional``
runs the later one again.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

from earnorm.domain import condition
from earnorm.exceptions import DuplicateKey, TransactionError
from earnorm.fields.numeric import Int
from earnorm.fields.scopes import scope_text
from earnorm.fields.text import String
from earnorm.kernel.contract.left_out import need_feature
from earnorm.kernel.environment import Env, current_env
from earnorm.kernel.notes import Note
from earnorm.kernel.operations import COUNTED, Counted, Operation, Options, Update, made_by
from earnorm.kernel.serving.sending import RETURNED, Returned
from earnorm.model.base import BaseModel

if TYPE_CHECKING:
    from earnorm.fields.base import Field

_REASON = "count on a sequence"
_NOTES = made_by("sequences")
_VALUE = frozenset({"value"})


@functools.cache
def counter_model() -> type[BaseModel]:
    """Make the counters' model on first use: an App without sequences has no collection for it."""

    class SequenceCounter(BaseModel):
        """The last number of each sequence."""

        _name = "earnorm.sequence"
        _bookkeeping = "sequences"
        # A collection that is declared is made before a transaction begins.
        _options: ClassVar[Any] = MappingProxyType({})

        _id: Field[Any, Any] = String(required=True)
        value = Int(required=True, default=0)

    return SequenceCounter


class NumberSequence:
    """A named sequence of the current App; see :func:`sequence`."""

    def __init__(self, name: str, gap_free: bool, asked: tuple[str, object] | None = None) -> None:
        self.name = name
        self.gap_free = gap_free
        self._asked = asked
        """The name and the scope that the program gives; None for the numbers of a field."""

    async def next(self) -> int:
        """Return the next number; the first one is 1.

        Raises:
            TransactionError: The sequence is gap-free, and no transaction is running.
            AccessDenied: A plugin refuses who acts its scope.
        """
        return (await self.take(1))[0]

    async def take(self, count: int) -> range:
        """Return the next ``count`` numbers, in one round trip."""
        if type(count) is not int or count < 1:
            raise ValueError("take() needs a number from 1")
        env = self._env()
        last = await self._add(env, count)
        while last is None:
            try:
                await self._create(env, count)
            except DuplicateKey:  # another task was faster
                last = await self._add(env, count)
            else:
                last = count
        return range(last - count + 1, last + 1)

    async def last(self) -> int:
        """Return the number that was given last; 0 before the first one."""
        env = current_env().as_system(_REASON)
        domain = condition("_id", "=", self.name)
        op = Operation("search", _model(env), env, domain, notes=self._notes())
        documents = await env.app.execute(op)
        return int(documents[0]["value"]) if documents else 0

    def _env(self) -> Env:
        # The acting principal needs no access right for counting.
        env = current_env().as_system(_REASON)
        if not self.gap_free:
            return env.replace(transaction=None, _session=None)
        if env.transaction is None:
            raise TransactionError(
                f"the sequence {self.name!r} is gap-free: its numbers are given in a transaction, "
                f"'async with earnorm.transaction():', which gives them back where it fails"
            )
        return env

    async def _add(self, env: Env, count: int) -> int | None:
        returned = Returned(_VALUE)
        op = Operation(
            "write",
            _model(env),
            env,
            condition("_id", "=", self.name),
            Update({"$inc": {"value": count}}),
            Options(many=False),
            {**self._notes(), RETURNED: returned},
        )
        await env.app.execute(op)
        return None if returned.document is None else int(returned.document["value"])

    async def _create(self, env: Env, count: int) -> None:
        document = {"_id": self.name, "value": count}
        op = Operation("create", _model(env), env, values=[document], notes=self._notes())
        await env.app.execute(op)

    def _notes(self) -> Mapping[Note[Any], Any]:
        if self._asked is None:
            return _NOTES
        return {**_NOTES, COUNTED: Counted(*self._asked, current_env())}

    def __setstate__(self, state: dict[str, Any]) -> None:
        # A pickle of version 0.1 does not tell what the program gave: it is judged by its whole name.
        self.__dict__.update({"_asked": (state["name"], None), **state})

    def __repr__(self) -> str:
        return f"<sequence {self.name!r}{' gap-free' if self.gap_free else ''}>"


def sequence(name: str, *, scope: object = None, gap_free: bool = False) -> NumberSequence:
    """Return a sequence of the current App: ``await earnorm.sequence("invoice").next()``.

    Args:
        name: The sequence's name; the first use of a new name gives 1.
        scope: A record, an id or another value: it has its own numbers of this name. Where the plugin
            ``security`` knows tenants, who acts draws in the scope of its own ones only.
        gap_free: Count in the running transaction, so that a rollback leaves no gap. The same sequence
            must always be used in the same way.
    """
    if not isinstance(name, str) or not name:
        raise ValueError("a sequence has a name: earnorm.sequence('invoice')")
    stored = _stored(scope)
    full = name if stored is None else name + scope_text(stored)
    return NumberSequence(full, gap_free, (name, stored))


def of_field(name: str, *, gap_free: bool) -> NumberSequence:
    """Return the sequence that numbers the records of a field, by its counter's name."""
    return NumberSequence(name, gap_free)


def _stored(scope: object) -> object:
    """Return a scope as the field with it stores it.

    Raises:
        ValueError: It is a record that is not stored yet.
    """
    if not isinstance(scope, BaseModel):
        return scope
    if scope.pk is None:
        raise ValueError("a record that is not stored yet is no scope of a sequence")
    return scope.pk


def _model(env: Env) -> type[BaseModel]:
    need_feature("sequences", "sequence()", env.app)
    return env.app.bind(counter_model()).model
