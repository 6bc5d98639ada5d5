"""The settings of the plugin."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import pydantic

from earnorm import Principal
from earnorm_security.limits import Limits


class SecuritySettings(pydantic.BaseModel):
    """``init(..., security={...})``.

    Attributes:
        default: The rights on a model without ``_access``: ``"open"`` grants everything to
            everybody, ``"closed"`` grants nothing to anybody but ``earnorm.system``.
        access: Lists of ``Access(...)`` by the model's name, added to the ``_access`` of the model
            itself: for a model that is somebody else's.
        field_rights: Lists of ``FieldRights(...)`` by the model's name, added to its
            ``_field_rights``: a principal then needs both.
        roles: Roles that imply others: ``[Role("manager", implies=["editor"])]``.
        stored_roles: Roles and who has them from when to when are records, too, which an
            administrator edits at run time: see ``earnorm_security.stored``.
        stored_policies: Rights and rules are records, too.
        rules: Lists of ``Rule(...)`` by the model's name, added to its ``_rules``.
        principal_resolver: A function that returns the :class:`Principal` of what ``act_as()`` is
            given, or None to leave it to the object's own ``id`` and ``roles``.
        limits: What a principal's own reads and writes may cost; see :class:`Limits`.
        keys: The source of the keys of encrypted fields: ``"env:NAME"``, ``"file:PATH"``,
            ``"service:NAME"``, a mapping of names to keys, or an object with a method ``keys()``.
    """

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)

    default: Literal["open", "closed"] = "open"
    access: Mapping[str, Sequence[object]] = {}
    field_rights: Mapping[str, Sequence[object]] = {}
    roles: Sequence[object] = ()
    stored_roles: bool = False
    stored_policies: bool = False
    rules: Mapping[str, Sequence[object]] = {}
    principal_resolver: Callable[[object], Principal | None] | None = None
    limits: Limits = Limits()
    keys: object = pydantic.Field(default=None, repr=False)
