"""The security declarations of a model: rights (``_access``) and record rules (``_rules``).

These are plain data; ``policy`` checks them when an App first uses the model.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import KW_ONLY, dataclass
from typing import Any, Final, Literal, TypeAlias

from earnorm import Domain, Env

RecordRight: TypeAlias = Literal["read", "write", "create", "unlink"]
ReadingRight: TypeAlias = Literal["aggregate", "export", "watch", "explain"]
Right: TypeAlias = RecordRight | ReadingRight
RuleDomain: TypeAlias = "Domain | list[Any] | tuple[Any, ...] | bool"

RECORD_RIGHTS: Final[tuple[RecordRight, ...]] = ("read", "write", "create", "unlink")
"""The rights that rules may be about."""
READING_RIGHTS: Final[tuple[ReadingRight, ...]] = ("aggregate", "export", "watch", "explain")
"""The rights to read in another way than record by record; the rules for reading hold for them."""
RIGHTS: Final[tuple[Right, ...]] = (*RECORD_RIGHTS, *READING_RIGHTS)
EVERYBODY: Final = "*"
"""The role that everybody has, with or without a principal."""


@dataclass(frozen=True, slots=True)
class Access:
    """The rights of one role on a model: ``_access = [Access("editor", read=True, write=True)]``.

    Rights add up: a principal has the rights of all its roles. A right that no row grants is
    denied. The last four are rights to read in another way, only together with ``read``; None means
    what the row says of ``read``.

    Attributes:
        role: A role's name; ``"*"`` means everybody, anonymous included.
        read: May search and count.
        write: May change records (only together with ``read``).
        create: May create records.
        unlink: May delete records (only together with ``read``).
        aggregate: May group, run pipelines, and join the model in pipelines of other models.
        export: May load a search as a table: ``to_pandas()``, ``to_polars()``, ``to_arrow()``.
        watch: May follow the changes of records: ``watch()``.
        explain: May see the database's plan of a search: ``explain()``.
    """

    role: str
    read: bool = False
    write: bool = False
    create: bool = False
    unlink: bool = False
    _: KW_ONLY
    aggregate: bool | None = None
    export: bool | None = None
    watch: bool | None = None
    explain: bool | None = None


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
    operations: Collection[RecordRight] = RECORD_RIGHTS
    strict: bool = False
    restrict: bool | None = None
    pure: bool = False

    @property
    def restricts(self) -> bool:
        """True for a restriction, which a record must pass; False for one of the permissions."""
        return not self.roles if self.restrict is None else self.restrict
