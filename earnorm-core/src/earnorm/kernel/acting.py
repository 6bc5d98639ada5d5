"""The blocks that say who acts: ``act_as``, ``system``, and ``use_origin`` for plugins.

A block holds for the code inside it. Three things could carry it further: a task that is begun in
it and outlives it, a generator that yields inside of it, and a thread that leaves the rest to
others. The first two end with the block, or pause with the generator; the third is refused.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from types import FrameType, MappingProxyType
from typing import TYPE_CHECKING, Final, cast
from uuid import UUID

from bson import ObjectId

from earnorm.exceptions import ConfigurationError, PluginError
from earnorm.kernel.environment import (
    Block,
    Env,
    Principal,
    current_env,
    enter,
    leave,
    left_elsewhere,
    use_env,
    who_acts,
)

if TYPE_CHECKING:
    from earnorm.kernel.operations import Operation

log = logging.getLogger("earnorm")

_GENERATOR: Final = inspect.CO_GENERATOR | inspect.CO_ASYNC_GENERATOR
_EVERYBODY_S: Final = ("tz", "lang")  # what of a context tells nothing of who acts

_THREADS: Final = ("threading", "concurrent.futures", "anyio.", "asgiref.", "starlette.concurrency")
"""The beginnings of the names of modules that call a function in a thread."""


def refuse_lost_block(name: str) -> None:
    """Raise in a thread that enters a block and leaves it to others to go on inside.

    A web framework enters a context manager so, which is a dependency without ``async``. The thread
    has a copy of the context, and what is set in the copy reaches nobody.

    Args:
        name: The name of the block.

    Raises:
        ConfigurationError: No frame of a caller is there that could hold the block open.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        pass
    else:
        return
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and (
        frame.f_code.co_flags & inspect.CO_GENERATOR
        or (
            frame.f_globals.get("__name__") == "contextlib"
            and frame.f_code.co_name == "__enter__"  # and not a decorator, which holds it open
        )
    ):
        frame = frame.f_back
    if frame is not None and str(frame.f_globals.get("__name__")).startswith(_THREADS):
        raise ConfigurationError(
            f"{name} is entered by a thread, and what follows runs elsewhere and would not be "
            f"inside of it. A dependency of FastAPI that is a plain 'def' is run so: write it as "
            f"'async def'"
        ).coded("left_elsewhere")


_HOSTS: Final = ("contextlib", "pytest_asyncio", "_pytest", "anyio", "aiohttp", "litestar")
"""The beginnings of the names of modules that run a generator as a block: what it sets until it
yields holds for what they run then."""


def _find_generator() -> FrameType | None:
    """Return the frame of the generator that enters a block of this module, if one does."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        driver = frame.f_back
        is_generator = frame.f_code.co_flags & _GENERATOR
        if is_generator and driver is not None and _is_of(driver, _HOSTS):
            frame = driver if _is_of(driver, ("contextlib",)) else None
        elif not is_generator and _is_of(frame, ("contextlib",)):
            frame = driver
        else:
            return frame if is_generator else None
    return None


def _is_of(frame: FrameType, modules: tuple[str, ...]) -> bool:
    return str(frame.f_globals.get("__name__")).startswith(modules)


@contextmanager
def use_origin(origin: str, parent: Operation | None = None) -> Iterator[Env]:
    """Count what is done inside the block, with models and queries, as a plugin's work.

    Such an operation says so in ``op.origin`` and ``op.parent``, as one that is made by hand with
    ``op.child(..., origin=...)`` does, and the program did not ask for it (``op.is_asked_for``).

    Args:
        origin: The name of the plugin.
        parent: The operation that the work is for.

    Raises:
        ConfigurationError: No App has been started, or the name is empty.
    """
    refuse_lost_block("use_origin()")
    if not origin:
        raise ConfigurationError('use_origin("...") needs the name of the plugin whose work it is')
    with use_env(current_env().replace(origin=origin, parent=parent)) as new:
        yield new


def principal_of(env: Env, user: object) -> Principal:
    """Return the principal that an id or an object of the application stands for.

    Everything that takes one who acts asks here: blocks, and each web framework.

    Args:
        env: The Env whose plugins are asked (the hook ``resolve_principal``).
        user: A principal, which is returned as it is; an id; or an object with an ``id``.

    Raises:
        TypeError: The object has no id, or its roles are no names.
    """
    if isinstance(user, Principal):
        return user
    if isinstance(user, str | int | UUID | ObjectId):
        return Principal(user)
    for name, principal in env.app.loaded.collect("resolve_principal", app=env.app, user=user):
        if isinstance(principal, Principal):
            return principal
        if principal is not None:
            raise PluginError(
                f"plugin {name!r} returned a {type(principal).__name__} in resolve_principal(app, "
                f"user), and not a Principal or None"
            ).coded("hook_contract")
    values = _values_of(user)
    given = values.pop("id", None)
    if given is None or given == "":
        raise TypeError(
            f"act_as() takes a Principal, an id, or an object with an id; this "
            f"{type(user).__name__} has none"
        )
    roles = values.pop("roles", None)
    if roles is not None and (isinstance(roles, str) or not isinstance(roles, Iterable)):
        raise TypeError(
            f"act_as(): the roles of this {type(user).__name__} are a collection of names"
        )
    names = tuple(cast("Iterable[object]", roles or ()))
    if not all(isinstance(name, str) for name in names):
        raise TypeError(f"act_as(): the roles of this {type(user).__name__} are names, as texts")
    return Principal(given, cast("tuple[str, ...]", names), values)


def _values_of(user: object) -> dict[str, object]:
    """Return the values of an object by their names, without those that begin with ``_``."""
    if isinstance(user, Mapping):
        return {str(name): value for name, value in cast("Mapping[object, object]", user).items()}
    for method in ("to_dict", "model_dump"):  # of a record, of a pydantic model
        dump = getattr(user, method, None)
        if callable(dump):
            return dict(cast("Mapping[str, object]", dump()))
    slots = {name for cls in type(user).__mro__ for name in getattr(cls, "__slots__", ())}
    names = {*getattr(user, "__dict__", ()), *slots, "id", "roles"}
    public = (name for name in names if not name.startswith("_"))
    return {name: getattr(user, name) for name in public if hasattr(user, name)}


@contextmanager
def act_as(
    principal: Principal | str | object, *, keep_context: bool = False, **context: object
) -> Iterator[Env]:
    """Run the block as ``principal``, with access rules on.

    Of the context that another principal's block has set, only the time zone and the language hold
    inside.

    Args:
        principal: A :class:`Principal`; its id, when it has no roles; or an object of your own
            with an ``id`` and, if it has any, ``roles``: a record, a pydantic model, a mapping.
            Its other values are the attributes of the principal.
        keep_context: Keep all of the context, another principal's too.
        **context: Values that are added to the Env's context (``env.context["tenant"]``).

    Raises:
        ConfigurationError: No App has been started, or a thread enters the block and leaves it to
            others to go on, as a web framework does with a synchronous dependency.
        TypeError: An object has no id, or its roles are no names.
    """
    refuse_lost_block("act_as()")
    env = current_env()
    who = principal_of(env, principal)
    kept = env.context
    if not (keep_context or env.principal is None or env.principal == who):
        kept = {key: kept[key] for key in _EVERYBODY_S if key in kept}
    merged = MappingProxyType({**kept, **context})
    generator = _find_generator()
    block = None if generator is None else Block(env, generator)
    inside = env.replace(principal=who, context=merged, system=False, reason="", _block=block)
    with _block_of(inside) as new:
        yield new


@contextmanager
def system(*, reason: str) -> Iterator[Env]:
    """Run the block with access rules off; the Env still names the acting principal.

    A task that is begun inside the block and goes on after it loses these rights with it.

    Args:
        reason: The reason. It is logged at the level INFO; plugins can read it, and an audit trail
            records it.

    Raises:
        ConfigurationError: No App has been started, the reason is empty, or as for :func:`act_as`.
    """
    refuse_lost_block("system()")
    if not reason.strip():
        raise ConfigurationError('earnorm.system(reason="...") needs a reason: it is recorded')
    env = current_env()
    if log.isEnabledFor(logging.INFO):
        who = who_acts(env.as_principal())
        log.info("App %s: access rules are off, %s acts: %s", env.app.name, who, reason)
    generator = _find_generator()
    block = Block() if generator is None else Block(env, generator)
    with _block_of(env.as_system(reason).replace(_block=block)) as new:
        yield new


@contextmanager
def _block_of(env: Env) -> Iterator[Env]:
    """Make ``env`` the current Env inside the block, and end it with the block."""
    block = env._block
    token = enter(env)
    try:
        yield env
    finally:
        if block is not None:
            block.end()
        try:
            leave(token)
        except ValueError:
            if block is None or block.outer is None:
                raise left_elsewhere() from None
            # The loop closes an abandoned generator in a context of its own.
