"""Roles that imply other roles."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import KW_ONLY, dataclass
from typing import Final, cast

from earnorm import ConfigurationError, Env
from earnorm.plugin import Bounded
from earnorm_security.declarations import EVERYBODY

NO_ROLES: Final[frozenset[str]] = frozenset()


@dataclass(frozen=True, slots=True)
class Role:
    """A role and the roles that it includes: ``Role("manager", implies=["editor"])``.

    A role that implies nothing needs no ``Role``: it is a name in ``_access`` and rules.

    Attributes:
        name: Its name.
        implies: The names of roles that who has it has as well, and those that they imply.
    """

    name: str
    _: KW_ONLY
    implies: Collection[str] = ()


def _always(env: Env) -> AbstractAsyncContextManager[object]:
    return nullcontext()


class Roles:
    """The roles of principals, with those that they imply.

    Args:
        declared: The setting ``roles``.
        stored: Stored roles, each of which adds to what a declared one of its name implies.

    Raises:
        ConfigurationError: An item is no ``Role``, two have one name, or a name is none.
    """

    ready: Callable[[Env], Awaitable[None]] | None = None
    """Makes sure that ``at_least`` knows the roles; None where it always does."""
    knowing: Callable[[Env], AbstractAsyncContextManager[object]] = staticmethod(_always)
    """Makes the block in which ``of`` knows the roles of an Env, and they stay the same."""

    def __init__(self, declared: Collection[object], stored: Iterable[Role] = ()) -> None:
        implied: dict[str, frozenset[str]] = {}
        for role in declared:
            if not isinstance(role, Role):
                raise ConfigurationError(
                    f"security: roles is a list of Role(...); it contains {type(role).__name__}"
                )
            where = f"security: Role({role.name!r})"
            if role.name in implied:
                raise ConfigurationError(f"{where}: another role has this name")
            names: object = role.implies
            if isinstance(names, str | bytes) or not isinstance(names, Collection):
                raise ConfigurationError(f"{where}: implies is a list of names")
            for name in (role.name, *cast("Collection[object]", names)):
                if not isinstance(name, str) or not name.strip() or name == EVERYBODY:
                    raise ConfigurationError(f"{where}: names of roles are texts, and not {name!r}")
            implied[role.name] = frozenset(role.implies)
        for role in stored:
            implied[role.name] = implied.get(role.name, NO_ROLES).union(role.implies)
        self._implied: Mapping[str, frozenset[str]] = implied
        self._known: Bounded[frozenset[str], frozenset[str]] = Bounded()

    def of(self, env: Env) -> frozenset[str]:
        """Return the roles of the acting principal, and those that they imply."""
        if env.principal is None:
            return NO_ROLES
        own = env.principal.roles
        return self.with_implied(own) if self._implied and own else own

    at_least = of
    """Return roles of the acting principal, which may lack some where they are not known."""

    def with_implied(self, own: frozenset[str]) -> frozenset[str]:
        """Return roles with those that they imply, over any number of steps."""
        known = self._known.get(own)
        if known is None:
            found: set[str] = set()
            waiting = list(own)
            while waiting:
                role = waiting.pop()
                if role not in found:
                    found.add(role)
                    waiting += self._implied.get(role, ())
            known = self._known[own] = frozenset(found)
        return known
