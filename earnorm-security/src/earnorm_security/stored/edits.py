"""Edits of stored roles and policies: counted, checked, and kept as versions, in one transaction each."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, TypeAlias

from bson import ObjectId

from earnorm import AccessDenied, BatchRefused, Domain, ValidationError
from earnorm.exceptions import ErrorDetail
from earnorm.plugin import (
    Call,
    DocumentBatch,
    Layer,
    Middleware,
    Operation,
    OperationName,
    PerRecord,
    Stage,
    Step,
    Update,
    in_transaction_if,
    name_of,
    now,
)
from earnorm_security.stored.policies import CONTENT, POLICY, VERSION, problems_of
from earnorm_security.stored.roles import ASSIGNMENT, ROLE
from earnorm_security.stored.versions import OWN, STATE, count_edit, queues_for

COUNTER: Final[Mapping[str, str]] = {
    ROLE: "roles",
    ASSIGNMENT: "assignments",
    POLICY: "policies",
}
FIXED: Final = ("name", "model", "kind")
"""The fields that a policy cannot change: the records that it was about would be open without it."""
_PLACE: Final = Layer.AUDIT - 1
_READ: Final = "security: which policies are edited?"
_KEEP: Final = "security: keep a version of a policy"

Document: TypeAlias = dict[str, Any]


def layers(model: str, operation: OperationName, forget: Callable[[], None]) -> Iterable[Any]:
    """Yield the layers around writes of the plugin's own models.

    Args:
        model: The name of the model.
        operation: The operation.
        forget: Is called when an edit is committed.
    """
    if operation not in ("create", "write", "unlink"):
        return
    if model in (STATE, VERSION):
        yield _PLACE, _only_own
    elif model in COUNTER:
        yield Layer.TRANSACTION, in_transaction_if(_always, queues_for=queues_for)
        edits = _Edits(COUNTER[model], forget)
        yield _PLACE, edits
        if model == POLICY:
            yield _PLACE + 1, _POLICY_LAYERS[operation]


def steps(model: str) -> Iterable[Step]:
    """Yield the steps that fill in the version of a policy."""
    if model == POLICY:
        yield Step(Stage.STAMP, "security: versions", _stamp)


def _always(op: Operation) -> bool:
    return True


async def _only_own(op: Operation, call_next: Call, /) -> Any:
    """Refuse a write of what only the plugin writes, also to ``system``."""
    if op.note(OWN):
        return await call_next(op)
    raise AccessDenied(
        f"{op.name} on model {name_of(op.model)!r} is denied: only the plugin writes it"
    )


class _Edits:
    """The layer that counts edits, and forgets what is known when they are durable."""

    def __init__(self, counter: str, forget: Callable[[], None]) -> None:
        self._counter, self._forget = counter, forget

    async def __call__(self, op: Operation, call_next: Call) -> Any:
        op.after_durable(self._forget)
        try:
            result = await call_next(op)
        except BatchRefused as error:
            if error.written and op.env.transaction is None:
                await count_edit(op, self._counter)
            raise
        else:
            if result:
                await count_edit(op, self._counter)
            return result
        finally:
            if op.env.transaction is None:
                self._forget()


# -- policies -------------------------------------------------------------------------------------


def _stamp(batch: DocumentBatch) -> None:
    """Number the versions, and note each operation that a policy has ever named."""
    for row in batch.rows:
        if row.document is None and (row.has("version") or row.has("held")):
            row.refuse("version", "is filled in; nobody sets it", "generated")
            continue
        operations = row.get("operations")
        named = list(operations) if isinstance(operations, list) else []
        if row.document is not None:
            row.put("version", 1)
            row.put("held", named)
        elif named:
            row.merge("$addToSet", {"held": {"$each": named}})
    if batch.op.name == "write":
        batch.increase("version")


async def _creating(op: Operation, call_next: Call, /) -> Any:
    """Check new policies, and keep their first versions."""
    _check(op, list(op.documents), is_many=len(op.documents) > 1)
    ids: Sequence[Any] = await call_next(op)
    await _keep(op, ids)
    return ids


async def _writing(op: Operation, call_next: Call, /) -> Any:
    """Check policies as they will be, and keep what they are then as versions."""
    before = await _read(op, op.domain)
    after = [_changed(op, document) for document in before]
    _check(op, after, is_many=len(after) > 1)
    ids = [document["_id"] for document in before]
    result: int = await call_next(op.replace(domain=op.domain & Domain([("_id", "in", ids)])))
    if result:
        await _keep(op, ids)
    return result


async def _unlinking(op: Operation, call_next: Call, /) -> Any:
    """Refuse to delete a policy, which would open what it has closed."""
    raise AccessDenied(
        f"unlink on model {POLICY!r} is denied: a policy is switched off, by active=False, and keeps "
        f"its versions"
    )


_POLICY_LAYERS: Final[Mapping[OperationName, Middleware]] = {
    "create": _creating,
    "write": _writing,
    "unlink": _unlinking,
}


def _changed(op: Operation, document: Document) -> Document:
    """Return a policy as a write will leave it.

    Raises:
        ValidationError: It changes what stays as it is, or a part of a value.
    """
    values = op.values
    update = values.get(document["_id"]) if isinstance(values, PerRecord) else values
    changed = dict(document)
    if not isinstance(update, Update):
        return changed
    for operator, spec in update.operators.items():
        for path, value in spec.items():
            if path in ("version", "held"):
                continue
            if operator not in ("$set", "$unset") or "." in path:
                raise _refused(op, path.partition(".")[0], "set the whole value of a policy")
            changed[path] = value if operator == "$set" else None
    for name in FIXED:
        if changed.get(name) != document.get(name):
            hint = f"the {name} of a policy stays; switch it off by active=False, and create another one"
            raise _refused(op, name, hint)
    return changed


def _check(op: Operation, documents: Sequence[Document], *, is_many: bool) -> None:
    details: list[ErrorDetail] = [
        {"loc": (position, name) if is_many else (name,), "msg": problem, "type": "policy"}
        for position, document in enumerate(documents)
        for name, problem in problems_of(op.app, document)
    ]
    if details:
        raise ValidationError(POLICY, details)


def _refused(op: Operation, name: str, problem: str) -> ValidationError:
    return ValidationError(POLICY, [{"loc": (name,), "msg": problem, "type": "policy"}])


async def _read(op: Operation, domain: Domain) -> list[Document]:
    env = op.env.as_system(_READ)
    documents: list[Document] = await op.app.execute(
        op.child("search", op.model, domain, origin="security", env=env)
    )
    return documents


async def _keep(op: Operation, ids: Sequence[Any]) -> None:
    """Store what policies are now as their versions."""
    who, moment = op.env.principal, now().replace(tzinfo=None)
    made = {
        "at": moment,
        "by": None if who is None else who.id,
        "system": op.env.system,
        "reason": op.env.reason or None,
    }
    rows = [
        {
            "_id": ObjectId(),
            "policy": str(document["_id"]),
            "number": document.get("version"),
            **made,
            **{name: document.get(name) for name in CONTENT},
        }
        for document in await _read(op, Domain([("_id", "in", list(ids))]))
    ]
    env = op.env.as_system(_KEEP)
    create = op.child("create", op.app.model(VERSION), values=rows, origin="security", env=env)
    await op.app.execute(create.with_note(OWN, True))
