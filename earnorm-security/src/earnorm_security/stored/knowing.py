"""Stored roles and policies as this process knows them, and how new that is.

Each operation of a principal is judged by what was stored at most half a second before it began, and
by every edit that this App has committed before. One operation asks for the numbers of edits, others
that come meanwhile wait for its answer, and what the numbers show to be changed is read anew. Where
the database does not answer, what was read up to a second ago still counts, and then the operation fails.

What an operation is judged by stays the same from its begin to its end.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping
from contextlib import asynccontextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any, Final, TypeVar

from earnorm import App, ConfigurationError, Domain, EarnORMError, Env, Operation
from earnorm.plugin import Bounded, Call, Layer, made_by, now
from earnorm_security.roles import NO_ROLES, Role, Roles
from earnorm_security.stored.policies import NO_POLICIES, POLICY, PolicyRows
from earnorm_security.stored.roles import ASSIGNMENT, ROLE, Assigned
from earnorm_security.stored.versions import BY_ID, STATE, Numbers

T = TypeVar("T")

FRESH: Final = 0.5
"""Seconds for which what was read counts without another question."""
TRUSTED: Final = 1.0
"""Seconds for which it counts where the database does not answer."""
PEOPLE: Final = 10_000
"""The most principals whose roles are kept."""
OUTERMOST: Final = Layer.FAMILY - 10
BEHIND_TRANSACTION: Final = Layer.TRANSACTION + 10
_REASON: Final = "security: read stored roles and policies"


class Known:
    """The stored roles and policies that one operation is judged by.

    Attributes:
        owner: Marks the App that it is about.
        who: The id of the principal; None for nobody.
        roles: The stored roles that it has now.
        table: Which roles imply which, those of the settings included.
        policies: The stored policies.
        is_open: True from the begin of the operation to its end.
    """

    __slots__ = ("is_open", "owner", "policies", "roles", "table", "who")

    def __init__(
        self,
        owner: object,
        who: str | None,
        roles: frozenset[str],
        table: Roles,
        policies: PolicyRows,
    ) -> None:
        self.owner, self.who, self.roles, self.table = owner, who, roles, table
        self.policies, self.is_open = policies, False


_KNOWN: Final[ContextVar[Known | None]] = ContextVar("earnorm_security_known", default=None)
"""Of the operation that this task is in; after its end, of the last one."""


class Knowledge:
    """Reads and keeps what is stored for one App.

    Args:
        app: The App.
        declared: The roles of the settings.
        has_roles: Roles and assignments are stored.
        has_policies: Policies are stored.
    """

    def __init__(
        self, app: App, declared: Collection[object], *, has_roles: bool, has_policies: bool
    ) -> None:
        self.has_roles, self.has_policies = has_roles, has_policies
        self._app, self._declared = app, declared
        self._owner = object()  # not the App, since the context of a task outlives it
        self._as_of = float("-inf")
        self._edits = self._seen = 0  # committed by this App; those that were, when it asked
        self._numbers = Numbers(None, None, None)
        self._table, self._policies = Roles(declared), NO_POLICIES
        self._people: Bounded[str, Assigned] = Bounded(PEOPLE)
        self._running: dict[str | None, asyncio.Future[Any]] = {}
        self._reads = 0

    # -- what is known ------------------------------------------------------------------------

    def current(self, env: Env) -> Known:
        """Return what the running operation is judged by, else what is new enough.

        Raises:
            ConfigurationError: Nothing is known that counts.
        """
        who = _id_in(env)
        known = _KNOWN.get()
        if known is None or not known.is_open or known.owner is not self._owner or known.who != who:
            known = self._kept(who, time.monotonic() - TRUSTED, self._edits)
        if known is None:
            raise _unread()
        return known

    def policies(self) -> PolicyRows:
        """Return the stored policies by which the running operation is judged.

        Raises:
            ConfigurationError: Nothing is known that counts.
        """
        known = _KNOWN.get()
        if known is not None and known.is_open and known.owner is self._owner:
            return known.policies
        if not self._is_right(time.monotonic() - TRUSTED, self._edits):
            raise _unread()
        return self._policies

    def is_known(self, env: Env) -> bool:
        """Return whether ``current()`` has an answer."""
        try:
            self.current(env)
        except ConfigurationError:
            return False
        return True

    def least_roles(self, env: Env) -> frozenset[str]:
        """Return the principal's roles as far as they are known, and never more than it has.

        It is for what is asked before or after an operation, and may only show less by it.
        """
        who = _id_in(env)
        own = NO_ROLES if env.principal is None else env.principal.roles
        known = _KNOWN.get()
        if known is not None and (known.owner is not self._owner or known.who != who):
            known = None
        if known is not None and known.is_open:
            return known.table.with_implied(own | known.roles)
        kept = self._kept(who, time.monotonic() - TRUSTED, self._edits)
        sets = [one.table.with_implied(own | one.roles) for one in (known, kept) if one is not None]
        return sets[0].intersection(*sets) if sets else own

    def _is_right(self, since: float, edits: int) -> bool:
        """Return whether the numbers were asked for since a time, and after so many own edits."""
        return self._as_of >= since and self._seen >= edits

    def _kept(self, who: str | None, since: float, edits: int) -> Known | None:
        """Return what is kept, if it was right at a time; None if it may not have been."""
        if not self._is_right(since, edits):
            return None
        if not self.has_roles or who is None:
            return self._known(who, None)
        assigned = self._people.get(who)
        if assigned is None or assigned.number != self._numbers.assignments:
            return None
        return self._known(who, assigned)

    def _known(self, who: str | None, assigned: Assigned | None) -> Known:
        roles = NO_ROLES if assigned is None else assigned.at(now().replace(tzinfo=None))
        return Known(self._owner, who, roles, self._table, self._policies)

    # -- making sure --------------------------------------------------------------------------

    async def fresh(self, env: Env) -> Known:
        """Return what an operation that begins now is judged by.

        Raises:
            EarnORMError: The database does not answer, and what is kept is too old.
        """
        begun, edits, who = time.monotonic(), self._edits, _id_in(env)
        known = self._kept(who, begun - FRESH, edits)
        if known is not None:
            return known
        try:
            while not self._is_right(begun - FRESH, edits):
                await self._once(None, self._read_state)
            assigned: Assigned | None = None
            while assigned is None and self.has_roles and who is not None:
                assigned = self._people.get(who)
                if assigned is None or assigned.number != self._numbers.assignments:
                    read = await self._once(who, partial(self._read_assignments, who))
                    is_new = read.as_of >= begun and read.seen >= edits
                    assigned = read if is_new or read.number == self._numbers.assignments else None
            return self._known(who, assigned)
        except EarnORMError:
            known = self._kept(who, begun - TRUSTED, edits)
            if known is None:
                raise
            return known

    def forget(self) -> None:
        """Trust nothing that was read up to now, since this App has committed an edit."""
        self._edits += 1

    @asynccontextmanager
    async def knowing(self, env: Env) -> AsyncIterator[Known]:
        """Keep what is known the same inside the block, for the operation that it is."""
        before = _KNOWN.get()
        known = await self.fresh(env)
        _begin(known)
        try:
            yield known
        finally:
            _end(known, before)

    async def ready(self, env: Env) -> None:
        """Know what ``least_roles`` will be asked, for an operation that is about to begin."""
        before = _KNOWN.get()
        if not env.system and (before is None or not before.is_open):
            _KNOWN.set(await self.fresh(env))

    async def layer(self, op: Operation, call_next: Call) -> Any:
        """Run an operation by what is stored at its begin."""
        env = op.env
        if env.system:
            return await call_next(op)
        # It is what knowing() does; a block costs an operation 4 µs more.
        before = _KNOWN.get()
        known = self._kept(_id_in(env), time.monotonic() - FRESH, self._edits)
        if known is None:
            known = await self.fresh(env)
        _begin(known)
        try:
            return await call_next(op)
        finally:
            _end(known, before)

    async def _once(self, key: str | None, work: Callable[[], Awaitable[T]]) -> T:
        """Do some work, or wait for the one that does the same already."""
        while True:
            running = self._running.get(key)
            if running is None:
                break
            done, problem = await asyncio.shield(running)
            if problem is not None:
                raise problem
            if done is not None:
                result: T = done[0]
                return result
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._running[key] = answer
        said: tuple[object, Exception | None] = (None, None)  # cancelled: another one does it
        try:
            result = await work()
            said = ((result,), None)
            return result
        except Exception as error:
            said = (None, error)
            raise
        finally:
            del self._running[key]
            answer.set_result(said)

    # -- reading ------------------------------------------------------------------------------

    async def _read_state(self) -> None:
        """Ask for the numbers of edits, and read what they show to be changed."""
        asked_at, edits = time.monotonic(), self._edits
        numbers = Numbers.of(next(iter(await self._read(STATE, BY_ID)), {}))
        self._reads += 1
        if "transactions" not in self._app.capabilities:
            # An edit and its number are no transaction, and a process may die between the two.
            numbers = Numbers(self._reads, self._reads, self._reads)
        elif numbers.roles is None:
            numbers = Numbers(0, 0, 0)
        table, policies = self._table, self._policies
        if self.has_roles and numbers.roles != self._numbers.roles:
            table = Roles(self._declared, map(_role_of, await self._read(ROLE)))
        if self.has_policies and numbers.policies != self._numbers.policies:
            policies = PolicyRows(await self._read(POLICY))
        self._numbers, self._table, self._policies = numbers, table, policies
        self._as_of, self._seen = asked_at, edits

    async def _read_assignments(self, who: str) -> Assigned:
        number, asked_at, edits = self._numbers.assignments, time.monotonic(), self._edits
        moment = now()
        ahead = Domain([("principal", "=", who)]) & Domain(
            ["|", ("valid_to", "=", None), ("valid_to", ">", moment)]
        )
        assigned = Assigned(await self._read(ASSIGNMENT, ahead), number, asked_at, edits)
        self._people[who] = assigned
        return assigned

    async def _read(self, name: str, domain: Domain = Domain.TRUE) -> list[dict[str, Any]]:
        """Read documents as they are committed, whoever acts, and outside of a running transaction."""
        app = self._app
        env = app.env.as_system(_REASON)
        op = Operation("search", app.model(name), env, domain, notes=made_by("security"))
        # The current Env stays: where it is in a transaction, this must not wait for its end.
        documents: list[dict[str, Any]] = await app.execute(op)
        return documents


class StoredRoles(Roles):
    """The roles of principals, with stored ones and those that they imply."""

    def __init__(self, declared: Collection[object], knowledge: Knowledge) -> None:
        super().__init__(declared)
        self._knowledge = knowledge
        self.ready, self.knowing = knowledge.ready, knowledge.knowing

    def of(self, env: Env) -> frozenset[str]:
        """Return the roles of the acting principal, by which an operation is judged."""
        if env.principal is None:
            return NO_ROLES
        known = self._knowledge.current(env)
        return known.table.with_implied(env.principal.roles | known.roles)

    def at_least(self, env: Env) -> frozenset[str]:
        """Return the roles that are known, and never more than the principal has."""
        return self._knowledge.least_roles(env)


def _begin(known: Known) -> None:
    known.is_open = True
    _KNOWN.set(known)


def _end(known: Known, before: Known | None) -> None:
    """End an operation; one around it goes on with what it has known."""
    known.is_open = False
    if before is not None and before.is_open:
        _KNOWN.set(before)


def _unread() -> ConfigurationError:
    return ConfigurationError(
        "security: stored roles and policies are known inside of an operation, and here is none; "
        "'await app.services[\"security\"].may(...)' asks what somebody may do"
    ).coded("stored_unread")


def _role_of(row: Mapping[str, Any]) -> Role:
    implies: object = row.get("implies")
    names = [name for name in implies if isinstance(name, str)] if isinstance(implies, list) else []
    return Role(str(row.get("name")), implies=names)


def _id_in(env: Env) -> str | None:
    return None if env.principal is None else env.principal.id
