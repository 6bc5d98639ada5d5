"""The Env: the acting principal with its App, context and transaction, and the ContextVar for it.

Concurrent tasks never mix: each sees the Env of its own context. ``init`` sets a process-wide
default App for tasks that have no Env of their own: a web server's request tasks do not inherit
the context of the start-up task. Where there is none, the only App that is started is found.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar, Token
from dataclasses import dataclass, field, replace
from opcode import opmap
from types import FrameType, MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Literal
from weakref import ref

from earnorm.exceptions import ConfigurationError
from earnorm.fields.zones import read_context_from

if TYPE_CHECKING:
    from earnorm.application import App
    from earnorm.backends.base import Session
    from earnorm.kernel.operations import Operation
    from earnorm.kernel.transactions.blocks import Transaction

PROGRAM: Final = "program"
"""The origin of what the program asks for itself."""

_NO_CONTEXT: Mapping[str, object] = MappingProxyType({})
_YIELD_VALUE: Final = opmap["YIELD_VALUE"]
_RESUME: Final = opmap["RESUME"]
_AFTER_YIELDS: Final = (1, 2)  # yield, yield from; 3 is an await

log = logging.getLogger("earnorm")


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
    attributes: Mapping[str, object] = field(hash=False)

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

    def __reduce__(self) -> tuple[object, ...]:
        return Principal, (self.id, self.roles, dict(self.attributes))

    def __str__(self) -> str:
        return self.id


class Block:
    """A block whose Env may be found where it does not hold.

    Such an Env is in the context of a task that outlives the block, or in that of the consumer of
    a generator that has yielded inside of the block.

    Args:
        outer: The Env around the block of a generator; None for other blocks.
        generator: The frame of that generator.

    Attributes:
        task: The task that entered the block; it may be over.
    """

    __slots__ = ("generator", "is_over", "is_told", "outer", "task")

    def __init__(self, outer: Env | None = None, generator: FrameType | None = None) -> None:
        self.outer = outer
        self.generator = generator
        task = None if generator is None else _task()
        self.task: ref[asyncio.Task[Any]] | None = None if task is None else ref(task)
        self.is_over = False
        self.is_told = False

    def end(self) -> None:
        """Note the end of the block."""
        self.is_over = True
        self.generator = None  # a frame keeps its variables alive


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
    _session: Session | None = None
    """The session of a block of ``earnorm.session()``."""
    origin: str = PROGRAM
    """The maker of the work: the program, or the plugin whose block of ``use_origin()`` it is in."""
    parent: Operation | None = None
    """The operation for which that plugin does the work."""
    _block: Block | None = None
    """The block that it is from, where the Env may be found outside of it; see :class:`Block`."""

    @property
    def is_in_session(self) -> bool:
        """True inside of a transaction, and of a block of ``earnorm.session()``."""
        return self.transaction is not None or self._session is not None

    @property
    def _database_session(self) -> Session | None:
        """The driver's session for an operation: the transaction's, or else the session block's."""
        return self._session if self.transaction is None else self.transaction._session

    def replace(self, /, **changes: Any) -> Env:
        """Return a copy with some attributes changed."""
        return replace(self, **changes)

    def as_system(self, reason: str) -> Env:
        """Return a copy with access rules off.

        Args:
            reason: The purpose, for logs and the audit.
        """
        return replace(self, system=True, reason=reason, _block=None)

    def as_principal(self) -> Env:
        """Return a copy in which the principal's own rights count, and not those of ``system()``."""
        return replace(self, system=False, reason="", _block=None)

    @property
    def actor(self) -> Principal | Literal["system"] | None:
        """The one whose rights count: the principal, ``"system"``, or None for anonymous."""
        return "system" if self.system else self.principal

    def __repr__(self) -> str:
        who = "system" if self.system else self.principal
        return (
            f"<Env app={self.app.name!r} acting={str(who)!r} transaction={bool(self.transaction)}>"
        )


_current: ContextVar[Env | None] = ContextVar("earnorm_env", default=None)
_default: Env | None = None
_started: Mapping[Env, asyncio.AbstractEventLoop] = MappingProxyType({})
"""The loop of each App that is started. Apps start and stop in several threads, so it is never changed: each change is
another mapping, and who walks one may go on."""
_changing = threading.Lock()
_left_to_parent: tuple[str, ...] = ()  # the names of the Apps that were started when it was forked
_sole: Env | None = None  # of the only App that is started


def _in_force(env: Env) -> Env:
    """Return the Env of a block; where the block does not hold, that without its rights."""
    block = env._block
    if block is None:
        return env
    if block.outer is not None:
        if block.generator is not None and not _has_yielded(block.generator):
            return env
        outer = _in_force(block.outer)
        # Another task was begun by the generator or by its consumer; nobody can tell, so neither's
        # rights of system() are its own.
        is_elsewhere = outer.system and _task() is not (block.task and block.task())
        return outer.as_principal() if is_elsewhere else outer
    if not (block.is_over and env.system):
        return env
    ended = env.as_principal()
    if not block.is_told:
        block.is_told = True
        log.warning(
            "App %s: a task that was begun in a block of system(reason=%r) goes on after the block, "
            "from here on with the rights of %s; enter system() inside of the task",
            env.app.name,
            env.reason,
            who_acts(ended),
        )
    return ended


def _task() -> asyncio.Task[Any] | None:
    """Return the running task, if one runs."""
    try:
        return asyncio.current_task()
    except RuntimeError:
        return None


def _has_yielded(frame: FrameType) -> bool:
    """Return whether a generator has yielded and waits, and is neither at work nor at an await.

    The operand of the instruction at which it goes on tells which it is:
    https://docs.python.org/3/library/dis.html#opcode-RESUME
    """
    if frame.f_back is not None:
        return False
    code, at = frame.f_code.co_code, frame.f_lasti
    if at >= 0 and code[at] == _YIELD_VALUE:  # before Python 3.13; since then it is at the RESUME
        at += 2
    return at >= 0 and code[at] == _RESUME and code[at + 1] & 3 in _AFTER_YIELDS


def current_env() -> Env:
    """Return the Env of this task.

    Raises:
        ConfigurationError: No App has been started, or several, and this task is inside of none.
    """
    env = _current.get() or _default or _sole or _of_this_loop()
    if env is None:
        raise _no_env()
    return env if env._block is None else _in_force(env)


def current_app() -> App:
    """Return the App of this task.

    Raises:
        ConfigurationError: No App has been started.
    """
    return current_env().app


def find_env() -> Env | None:
    """Return the Env of this task, or None if no App has been started.

    A task that is inside of no block, like a web server's request, gets the Env of the default App,
    else of the only App that is started. Nobody acts in it.
    """
    env = _current.get() or _default or _sole or _of_this_loop()
    return env if env is None or env._block is None else _in_force(env)


def _of_this_loop() -> Env | None:
    """Return the Env of the only App on the running loop, if several are started."""
    if not _started:
        return None
    try:
        here = asyncio.get_running_loop()
    except RuntimeError:
        return None
    found = [env for env, loop in _started.items() if loop is here]
    return found[0] if len(found) == 1 else None


def app_of_parent(names: tuple[str, ...]) -> ConfigurationError:
    """Return the error of a forked child that uses Apps of its parent.

    Args:
        names: The names of these Apps.
    """
    return ConfigurationError(
        f"this process was forked after {' and '.join(names)} had been started in its "
        f"parent, whose connections it cannot use; start an App in this process"
    ).coded("app_of_parent")


def _no_env() -> ConfigurationError:
    if not _started and _left_to_parent:
        return app_of_parent(_left_to_parent)
    if not _started:
        return ConfigurationError(
            "no App is started: await earnorm.init(mongo_uri=..., database=...) first, "
            "or work inside 'async with earnorm.App(...)'"
        )
    names = " and ".join(sorted(repr(env.app.name) for env in _started))
    return ConfigurationError(
        f"this task is inside of no App, and more than one is started: {names}; work inside "
        f"'with app.activate():' of one, or start the one that is meant here with earnorm.init()"
    ).coded("which_app")


def started(env: Env, loop: asyncio.AbstractEventLoop) -> None:
    """Note an App that has been started."""
    with _changing:
        # One whose loop is closed can be stopped by nobody any more.
        open_ones = {each: where for each, where in _started.items() if not where.is_closed()}
        _change({**open_ones, env: loop})


def stopped(env: Env) -> None:
    """Forget an App that was stopped."""
    with _changing:
        _change({each: where for each, where in _started.items() if each is not env})


def started_on(loop: asyncio.AbstractEventLoop) -> list[Env]:
    """Return the Env of each App that was started on a loop."""
    return [env for env, where in _started.items() if where is loop]


def forget_started() -> None:
    """Forget all Apps, in a forked child, which has none."""
    global _changing, _left_to_parent
    _left_to_parent = tuple(sorted(repr(env.app.name) for env in _started)) or _left_to_parent
    _changing = threading.Lock()  # a thread that the child does not have may have held the other
    _change({})


def _change(apps: dict[Env, asyncio.AbstractEventLoop]) -> None:
    global _started, _sole
    _started = MappingProxyType(apps)
    _sole = next(iter(apps)) if len(apps) == 1 else None


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
        try:
            _current.reset(token)
        except ValueError:
            raise left_elsewhere() from None


def enter(env: Env) -> Token[Env | None]:
    """Make ``env`` the current Env until ``leave()``."""
    return _current.set(env)


def leave(token: Token[Env | None]) -> None:
    """Bring back the Env before ``enter()``.

    Raises:
        ValueError: This is another context.
    """
    _current.reset(token)


def left_elsewhere() -> ConfigurationError:
    """Return the error for a block that is left in another context than it was entered in."""
    return ConfigurationError(
        "a block that sets who acts, or in which App, is left in another context than it was entered "
        "in, and nothing in between was inside of it; enter and leave it in one task, for example in "
        "an 'async def' dependency"
    ).coded("left_elsewhere")


def refuse_other_actor(env: Env) -> None:
    """Refuse to go on with what somebody else has begun: a stream has one reader's rights.

    Args:
        env: The Env in which it was begun.

    Raises:
        ConfigurationError: Somebody else acts now.
    """
    now = find_env()
    if now is not None and now.actor != env.actor:  # without an App, what follows says why
        raise ConfigurationError(
            f"this stream was begun as {who_acts(env)} and goes on as {who_acts(now)}; read a stream from its "
            f"beginning to its end in one block of act_as() or system()"
        ).coded("stream_of_another")


def who_acts(env: Env) -> str:
    """Return the name of the one who acts, for messages."""
    return "nobody" if env.actor is None else str(env.actor)


def with_current_origin(env: Env) -> Env:
    """Return an Env for work that is part of what the current Env does, with the same maker."""
    current = find_env()
    if current is None or current.origin == PROGRAM:
        return env
    return env.replace(origin=current.origin, parent=current.parent)
