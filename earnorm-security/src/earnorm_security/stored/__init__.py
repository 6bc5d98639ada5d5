"""Roles and policies in the database: the models, and what a program does with them.

The settings ``stored_roles`` and ``stored_policies`` of the plugin bring them; without these no part
of it is loaded. The names exported here are public.
"""

from __future__ import annotations

from earnorm_security.stored.policies import PolicyVersion, StoredPolicy
from earnorm_security.stored.roles import PrincipalId, RoleAssignment, StoredRole, id_of

__all__ = [
    "PolicyVersion",
    "PrincipalId",
    "RoleAssignment",
    "StoredPolicy",
    "StoredRole",
    "id_of",
]
