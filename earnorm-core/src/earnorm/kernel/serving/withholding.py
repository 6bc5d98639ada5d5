"""Fields that a plugin withholds from who is acting, and what the core does about it.

The plugin's layer leaves them out of what is read. The core makes their state in a record *not
loaded*, says why where they are read, leaves them out of copies, and hands nothing of them back.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Final, Protocol

from earnorm.bounded import Bounded
from earnorm.kernel.registry import version

if TYPE_CHECKING:
    from earnorm.exceptions import FieldWithheld
    from earnorm.kernel.environment import Env

_NOTHING: Final[frozenset[str]] = frozenset()


class Withholding(Protocol):
    """The fields of one model that a plugin withholds; the answers depend on who acts.

    Its methods are quick functions. The core asks none of them for ``system``. Where they depend on
    what has to be read first, it has an ``async def ready(env)``, too: the core awaits it wherever it
    asks the others before an operation. An operation that has just ended has made them know by itself.
    """

    def hidden(self, env: Env) -> frozenset[str]:
        """Return the names of the fields that are left out of what is read."""
        ...

    def masked(self, env: Env) -> frozenset[str]:
        """Return the names of the fields whose values are read otherwise than they are stored."""
        ...

    def fixed(self, env: Env) -> frozenset[str]:
        """Return the names of the fields that may not be set."""
        ...

    def refusal(self, env: Env, name: str) -> FieldWithheld:
        """Make the error for reading a hidden field of a record."""
        ...


class Withholdings:
    """The fields of one model that its plugins withhold.

    Args:
        names: Returns the names of the fields that a record may have; classes may be defined later.
        parts: What each plugin withholds.
    """

    __slots__ = ("_names", "_parts", "_ready", "_shown")

    def __init__(self, names: Callable[[], frozenset[str]], parts: Sequence[Withholding]) -> None:
        self._names, self._parts = names, tuple(parts)
        self._shown: Bounded[tuple[int, frozenset[str]], frozenset[str]] = Bounded()
        found = [getattr(part, "ready", None) for part in parts]
        self._ready: Sequence[Callable[[Env], Awaitable[None]]] = [
            r for r in found if r is not None
        ]

    async def ready(self, env: Env) -> None:
        """Make the parts know what they are asked about an Env before an operation."""
        if not env.system:
            for ready in self._ready:
                await ready(env)

    def hidden(self, env: Env) -> frozenset[str]:
        """Return the names of the fields that are left out of what is read."""
        if env.system:
            return _NOTHING
        return _NOTHING.union(*(part.hidden(env) for part in self._parts))

    def altered(self, env: Env) -> frozenset[str]:
        """Return the names of the fields that are not read as they are stored: hidden or masked."""
        if env.system:
            return _NOTHING
        return self.hidden(env).union(*(part.masked(env) for part in self._parts))

    def fixed(self, env: Env) -> frozenset[str]:
        """Return the names of the fields that may not be set."""
        if env.system:
            return _NOTHING
        return _NOTHING.union(*(part.fixed(env) for part in self._parts))

    def shown(self, env: Env, names: frozenset[str] | None) -> frozenset[str] | None:
        """Return the names of the fields that a search for these fields reads; None means all."""
        hidden = self.hidden(env)
        if not hidden:
            return names
        if names is not None:
            return names - hidden
        key = (version(), hidden)
        shown = self._shown.get(key)
        if shown is None:
            shown = self._shown[key] = self._names() - hidden
        return shown

    def refusal(self, env: Env, name: str) -> FieldWithheld | None:
        """Return the error for reading a hidden field; None for any other field."""
        if env.system:
            return None
        for part in self._parts:
            if name in part.hidden(env):
                return part.refusal(env, name)
        return None
