"""Sequences of the program: who acts draws and reads the numbers of its own tenants only.

Numbers of ``Sequence`` fields are not asked here: the create that draws them is judged as a whole.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Final

from earnorm import AccessDenied, BaseModel
from earnorm.plugin import (
    COUNTED,
    Call,
    Counted,
    Layer,
    Middleware,
    ModelView,
    Operation,
    Reason,
    Verdict,
    because,
)
from earnorm_security.tenants import FIELD, Tenants

_BOOKKEEPING: Final = "sequences"
_SEPARATOR: Final = "["
"""The first character of a scope in a counter's name; see ``earnorm.fields.scopes``."""

TenantsOfAll = Callable[[], Iterable[Tenants]]


def layers(model: type[BaseModel], tenants: TenantsOfAll) -> Iterable[tuple[int, Middleware]]:
    """Return the layer of the counters' model; none for another model.

    Args:
        model: The model.
        tenants: Returns the tenants of all models of the App.
    """
    if ModelView(model).bookkeeping != _BOOKKEEPING:
        return ()
    return [(Layer.SECURITY, partial(_only_own_scopes, tenants))]


async def _only_own_scopes(tenants: TenantsOfAll, op: Operation, call_next: Call) -> Any:
    """Refuse the counter of a scope that is no tenant of who asks.

    Raises:
        AccessDenied: It is none, and the App has models with tenants.
    """
    counted = op.note(COUNTED)
    if counted is not None and not counted.env.system and not _is_own(counted, tenants()):
        raise because(
            AccessDenied(
                "a sequence in this scope is denied: who acts draws numbers of its own tenants only; "
                "system() draws all"
            ),
            _verdict(op, counted),
        )
    return await call_next(op)


def _is_own(counted: Counted, tenants: Iterable[Tenants]) -> bool:
    """Return whether a sequence has no scope, or the one of a tenant of who asks.

    A name in which a scope stands already is one that the program has made up: it would pass the check.
    """
    by_field = {one.name: one for one in tenants}
    if not by_field:
        return True  # the scopes of this App tell nothing that belongs to somebody
    if counted.scope is None:
        return _SEPARATOR not in counted.name
    return _SEPARATOR not in counted.name and any(
        one.is_own(counted.env, counted.scope) for one in by_field.values()
    )


def _verdict(op: Operation, counted: Counted) -> Verdict:
    model, principal = ModelView(op.model).name, counted.env.principal
    detail = "the scope of the sequence is no tenant of the principal"
    return Verdict(
        model,
        "sequence",
        principal=None if principal is None else principal.id,
        allowed=False,
        reasons=(Reason("restriction", FIELD, False, model=model, detail=detail),),
    )
