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

    A record must pass every restriction that concerns the principal, and at least one permission if
    there are any. Rules without roles are restrictions, for everybody, and rules with roles are
    permissions; ``restrict`` says otherwise. Odoo combines ``ir.rule`` records in the same way, with
    one difference: if an operation has permissions and none of them is for the principal, no record
    passes.

    Attributes:
        name: Its name in messages; unique in its model.
        domain: A domain, in which ``user.id``, ``user.company_ids`` or ``context.tenant`` may stand
            for values; or a function that makes one from the Env of the operation. The function
            is called on every operation, so it must be quick, and it cannot be async.
        roles: The roles that it is for; none means everybody.
        operations: The rights that it restricts.
        strict: What the rule looks at in other records must still be so when the operation is
            committed. It locks those records, so that whoever changes one of them at the same time
            conflicts with it; this needs a database with transactions.
        restrict: True for a restriction, False for a permission; None takes what the roles say.
        pure: The function looks at the principal and the context only, and gives the same domain
            for the same ones; so it is called once for each.
    """

    name: str
    domain: RuleDomain | Callable[[Env], RuleDomain]
    _: KW_ONLY
    roles: Collection[str] = ()
    operations: Collection[Right] = RIGHTS
    strict: bool = False
    restrict: bool | None = None
    pure: bool = False

    @property
    def restricts(self) -> bool:
        """True for a restriction, which a record must pass; False for one of the permissions."""
        return not self.roles if self.restrict is None else self.restrict
