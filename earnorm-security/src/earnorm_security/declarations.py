"""The security declarations of a model: rights (``_access``) and record rules (``_rules``).

These are plain data; ``policy`` checks them when an App first uses the model.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import KW_ONLY, dataclass
from typing import Final, Literal, TypeAlias

from earnorm import Domain, Env

Right: TypeAlias = Literal["read", "write", "create", "unlink"]
RuleDomain: TypeAlias = "Domain | list[object] | tuple[object, ...] | bool"

RIGHTS: Final[tuple[Right, ...]] = ("read", "write", "create", "unlink")
EVERYBODY: Final = "*"
"""The role that everybody has, with or without a principal."""


@dataclass(frozen=True, slots=True)
class Access:
    """The rights of one role on a model: ``_access = [Access("editor", read=True, write=True)]``.

    Rights add up: a principal has the rights of all its roles. A right that no row grants is
    denied.

    Attributes:
        role: A role's name; ``"*"`` means everybody, anonymous included.
        read: May search, count and group.
        write: May change records (only together with ``read``).
        create: May create records.
        unlink: May delete records (only together with ``read``).
    """

    role: str
    read: bool = False
    write: bool = False
    create: bool = False
    unlink: bool = False


@dataclass(frozen=True, slots=True)
class Rule:
    """The records of a model that an operation may be about: ``_rules = [Rule("own", [...])]``.

    Rules without roles are global: a record must pass all of them, for everybody. Rules with roles
    are alternatives: a record must pass one rule that is for a role of the principal. Odoo combines
    ``ir.rule`` records in the same way, with one difference: if an operation has rules with roles
    and none of them is for the principal, no record passes.

    Attributes:
        name: Its name in messages; unique in its model.
        domain: A domain, or a function that makes one from the Env of the operation. The function
            is called on every operation, so it must be quick, and it cannot be async.
        roles: The roles that it is for; none means that it is global.
        operations: The rights that it restricts.
    """

    name: str
    domain: RuleDomain | Callable[[Env], RuleDomain]
    _: KW_ONLY
    roles: Collection[str] = ()
    operations: Collection[Right] = RIGHTS
