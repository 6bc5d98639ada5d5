"""The Env: the acting principal with its App, context and transaction, and the ContextVar for it.

Concurrent tasks never mix: each sees the Env of its own context. ``init`` sets a process-wide
default App for tasks that have no Env of their own: a web server's request tasks do not inherit
the context of the start-up task.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from earnorm.exceptions import ConfigurationError
from earnorm.fields.zones import read_context_from

if TYPE_CHECKING:
    from earnorm.application import App
    from earnorm.backends.base import Session
    from earnorm.kernel.transactions import Transaction

_NO_CONTEXT: Mapping[str, object] = MappingProxyType({})


@dataclass(frozen=True, slots=True, init=False)
class Principal:
    """The acting user or service.

    Attributes:
        id: Its identifier, e.g. a user's id; an audit trail records it.
        roles: The roles that access rules look at.
        attributes: Anything else that rules need (a tenant, a department …).
    """

    id: str
    roles: frozenset[str]
    attributes: Mapping[str, object] = field(compare=False)

    def __init__(
        self,
        id: object,
        roles: Iterable[str] = (),
        attributes: Mapping[str, object] | None = None,
    ) -> None:
        if isinstance(roles, str):
            raise TypeError(f"roles is a collection of names: Principal(..., roles=[{roles!r}])")
        object.__setattr__(self, "id", str(id))
        object.__setattr__(self, "roles", frozenset(roles))
        object.__setattr__(self, "attributes", MappingProxyType(dict(attributes or {})))

    def __str__(self) -> str:
        return self.id


@dataclass(frozen=True, slots=True, eq=False)
class Env:
    """The circumstances of an operation: who acts, in which App.

    It is immutable; ``replace`` makes a changed copy.
    """

    app: App
    principal: Principal | None = None
    context: Mapping[str, object] = field(default_factory=lambda: _NO_CONTEXT)
    transaction: Transaction | None = None
    system: bool = False
    """True if access rules are turned off for this work."""
    reason: str = ""
    """The reason why access rules are off."""
    session: Session | None = None
    """The session of a block of ``earnorm.session()``."""

    @property
    def database_session(self) -> Session | None:
        """The driver's session for an operation: the transaction's, or else the session block's."""
        return self.session if self.transaction is None else self.transaction.session

    def replace(self, /, **changes: Any) -> Env:
        """Return a copy with some attributes changed."""
        return replace(self, **changes)

    def __repr__(self) -> str:
        who = "system" if self.system else self.principal
        return (
            f"<Env app={self.app.name!r} acting={str(who)!r} transaction={bool(self.transaction)}>"
        )


_current: ContextVar[Env | None] = ContextVar("earnorm_env", default=None)
_default: Env | None = None


def current_env() -> Env:
    """Return the Env of this task.

    Raises:
        ConfigurationError: No App has been started.
    """
    env = _current.get() or _default
    if env is None:
        raise ConfigurationError(
            "no App is started: await earnorm.init(mongo_uri=..., database=...) first, "
            "or work inside 'async with earnorm.App(...)'"
        )
    return env


def current_app() -> App:
    """Return the App of this task.

    Raises:
        ConfigurationError: No App has been started.
    """
    return current_env().app


def find_env() -> Env | None:
    """Return the Env of this task, or None if no App has been started."""
    return _current.get() or _default


def _find_context() -> Mapping[str, object] | None:
    env = find_env()
    return None if env is None else env.context


read_context_from(_find_context)


def set_default(env: Env | None) -> None:
    """Set the process-wide default Env (``init`` and ``close`` do)."""
    global _default
    _default = env


def get_default() -> Env | None:
    """Return the process-wide default Env."""
    return _default


@contextmanager
def use_env(env: Env) -> Iterator[Env]:
    """Make ``env`` the current Env inside the block."""
    token = _current.set(env)
    try:
        yield env
    finally:
        _current.reset(token)


@contextmanager
def act_as(principal: Principal | str, **context: object) -> Iterator[Env]:
    """Run the block as ``principal``, with access rules on.

    Args:
        principal: A :class:`Principal`, or its id when it has no roles.
        **context: Values that are added to the Env's context (``env.context["tenant"]``).

    Raises:
        ConfigurationError: No App has been started.
    """
    env = current_env()
    who = principal if isinstance(principal, Principal) else Principal(principal)
    merged = MappingProxyType({**env.context, **context}) if context else env.context
    with use_env(env.replace(principal=who, context=merged, system=False, reason="")) as new:
        yield new


@contextmanager
def system(*, reason: str) -> Iterator[Env]:
    """Run the block with access rules off; the Env still names the acting principal.

    Args:
        reason: The reason; plugins can read it, and an audit trail records it.

    Raises:
        ConfigurationError: No App has been started, or the reason is empty.
    """
    if not reason.strip():
        raise ConfigurationError('earnorm.system(reason="...") needs a reason: it is recorded')
    with use_env(current_env().replace(system=True, reason=reason)) as new:
        yield new
