"""The plugin: its settings, its choice of models, and the layer around create, write and unlink.

A change and its entries are one transaction if the backend has transactions. The layer reads the
records before and after, because only the database knows what an update by domain, a default, or an
inner layer made of them.
"""

from __future__ import annotations

import datetime
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Final, Literal

import pydantic
from bson import ObjectId

from earnorm import (
    AccessDenied,
    App,
    ConfigurationError,
    Domain,
    Env,
    current_env,
    models,
    transactional,
)
from earnorm.plugin import (
    Call,
    Layer,
    Middleware,
    ModelView,
    Operation,
    OperationName,
    PerRecord,
    Transaction,
    hookimpl,
    name_of,
    nearest,
    use_env,
)
from earnorm_audit.changes import Changes, Recorded, id_text
from earnorm_audit.trail import ENTRY, AuditEntry, AuditLog

Document = dict[str, Any]
Images = dict[Any, Document]
Kind = Literal["create", "write", "unlink"]

CHUNK: Final = 1000
"""The most records whose images are in memory at a time."""
RETRIES: Final = 10
"""The retries of a change that conflicts with another; without audit the server itself would
wait."""
WRITES: Final = frozenset({"create", "write", "unlink"})
_KEY: Final = "earnorm_audit"
_WRITER: Final = object()
"""Put in the Env's context while the plugin itself adds entries; only the plugin has this
object."""


class AuditSettings(pydantic.BaseModel):
    """The settings: ``init(..., audit={...})``."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)

    models: list[str] | None = None
    """Names of the models to record; None means all. ``_audit = False`` excludes a model in any
    case."""
    exclude_fields: list[str] = []
    """Fields that are not recorded: ``"updated_at"`` in every model, ``"user.updated_at"`` in one."""


class AuditPlugin:
    """Records who changed what and when, in the transaction of the change.

    A model is recorded unless it declares ``_audit = False``. Entries say that the fields in its
    ``_audit_hidden`` changed, but never a value.
    """

    api = 1

    def __init__(self, settings: AuditSettings | None = None) -> None:
        self._settings = settings or AuditSettings()
        self._seen: set[str] = set()
        self._last = datetime.datetime.min
        self._marks: dict[Transaction, str] = {}

    @staticmethod
    @hookimpl
    def settings() -> type[pydantic.BaseModel]:
        """Return the type of the plugin's settings."""
        return AuditSettings

    @hookimpl
    def register_models(self) -> Iterable[type[models.BaseModel]]:
        """Return the model of an entry."""
        return [AuditEntry]

    @hookimpl
    def register_services(self, app: App) -> Mapping[str, object]:
        """Provide ``app.services["audit"]``."""
        return {"audit": AuditLog(app)}

    @hookimpl
    def model_registered(self, model: type[models.BaseModel]) -> None:
        """Check a model's declarations about its audit against its fields.

        Raises:
            ConfigurationError: ``_audit_hidden`` or a setting names an unknown field; such a
                mistake would put a secret into the trail.
        """
        self._seen.add(name_of(model))
        self._recorded(ModelView(model))

    @hookimpl
    def health(self) -> Mapping[str, object]:
        """Report ``degraded`` while a model in the settings is unknown, and so not recorded."""
        unknown = sorted(set(self._settings.models or ()) - self._seen)
        return {"status": "degraded" if unknown else "ok", "unknown_models": unknown}

    @hookimpl
    def wrap_operation(
        self, app: App, model: type[models.BaseModel], operation: OperationName
    ) -> Iterable[tuple[int, Middleware]]:
        """Wrap writing operations with the audit; the trail itself gets its append-only rule."""
        if operation not in WRITES:
            return []
        view = ModelView(model)
        if view.name == ENTRY:
            return [(Layer.AUDIT, _append_only)]
        if not self._takes_part(view):
            return []
        return [(Layer.AUDIT, _AuditLayer(_Audited(self._recorded(view), self._add)))]

    # -- what is recorded -----------------------------------------------------------------------

    def _takes_part(self, model: ModelView) -> bool:
        named = self._settings.models is None or model.name in self._settings.models
        # What a plugin keeps for itself follows from what is recorded anyway.
        return named and bool(model.attribute("_audit", model.bookkeeping is None))

    def _recorded(self, model: ModelView) -> Recorded:
        hidden: Iterable[str] = model.attribute("_audit_hidden", ())
        if isinstance(hidden, str):
            raise ConfigurationError(
                f"{model.name}: _audit_hidden is a tuple of field names: ({hidden!r},)"
            )
        names = frozenset(hidden)
        excluded = self._excluded(model.name)
        known = model.fields
        for name in (*names, *excluded["here"]):
            if name not in known:
                raise ConfigurationError(
                    f"audit: {model.name} has no field {name!r}{nearest(str(name), known)}"
                )
        out = {"_id", *excluded["here"], *excluded["everywhere"]}
        fields = {n: f.db_name for n, f in known.items() if f.stored and n not in out}
        return Recorded(fields, names)

    def _excluded(self, model: str) -> Mapping[str, Sequence[str]]:
        here: list[str] = []
        everywhere: list[str] = []
        for name in self._settings.exclude_fields:
            # A model's own name may hold dots, a field's name may not.
            owner, _, field = name.rpartition(".")
            if not owner:
                everywhere.append(field)
            elif owner == model:
                here.append(field)
        return {"here": here, "everywhere": everywhere}

    # -- the entries ----------------------------------------------------------------------------

    async def _add(self, op: Operation, differences: Sequence[tuple[Kind, Any, Changes]]) -> None:
        """Store an entry for each change; neither access rules nor this plugin apply to it."""
        if not differences:
            return
        env = op.env
        common = {
            "model": name_of(op.model),
            "at": self._now(),
            "principal": None if env.principal is None else env.principal.id,
            "system": env.system,
            "reason": env.reason or None,
            "transaction": self._marker(env),
        }
        entries = [
            {
                "_id": ObjectId(),
                **common,
                "record_id": id_text(pk),
                "operation": kind,
                "changes": changes,
            }
            for kind, pk, changes in differences
        ]
        writer = _system(env).replace(context={**env.context, _KEY: _WRITER})
        model = op.app.model(ENTRY)
        create = op.child("create", model, values=entries, origin="audit", env=writer)
        await op.app.execute(create)

    def _now(self) -> datetime.datetime:
        """Return the time in UTC as it is stored, always later than the last one.

        So it orders entries even within a millisecond, and after the clock was set back.
        """
        now = datetime.datetime.now(datetime.UTC).replace(tzinfo=None)
        now = now.replace(microsecond=now.microsecond // 1000 * 1000)
        if now <= self._last:
            now = self._last + datetime.timedelta(milliseconds=1)
        self._last = now
        return now

    def _marker(self, env: Env) -> str | None:
        running = env.transaction
        if running is None:
            return None
        marker = self._marks.get(running)
        if marker is None:
            marker = self._marks[running] = uuid.uuid4().hex
            forget = partial(self._marks.pop, running)
            running.after_commit(forget)
            running.after_rollback(forget)
        return marker

    def __repr__(self) -> str:
        return f"<AuditPlugin of {len(self._seen)} models>"


Add = Callable[[Operation, Sequence[tuple[Kind, Any, Changes]]], Any]


class _AuditLayer:
    """Runs the changes of one model in one transaction with their entries."""

    def __init__(self, audited: _Audited) -> None:
        self._audited = audited

    @staticmethod
    def needs(op: Operation) -> bool:
        """Return whether the operation runs in a transaction."""
        return "transactions" in op.app.capabilities

    async def __call__(self, op: Operation, call_next: Call, /) -> Any:
        """Run and record the operation."""
        audited = self._audited
        if op.env.transaction is not None:
            return await audited.run(op, call_next)
        if not self.needs(op):
            return await audited.run_alone(op, call_next)

        @transactional(retries=RETRIES)
        async def together() -> Any:
            return await audited.run(op.replace(env=_with_transaction(op.env)), call_next)

        with use_env(op.env):
            return await together()


class _Audited:
    """Carries out one model's writing operations, and reads the records before and after."""

    def __init__(self, recorded: Recorded, add: Add) -> None:
        self._recorded = recorded
        self._add = add
        self._fields = frozenset(recorded.fields)

    async def run(self, op: Operation, call_next: Call) -> Any:
        """Run an operation inside a transaction, which fails as a whole."""
        if op.name == "create":
            result = await call_next(op)
            for ids in _chunks(result):
                await self._compare(op, ids, {})
            return result
        return await self._run_in_parts(op, call_next, self._between)

    async def run_alone(self, op: Operation, call_next: Call) -> Any:
        """Run an operation without a transaction; what was done before an error is recorded too."""
        if op.name == "create" and isinstance(op.values, list):
            ids = [document["_id"] for document in op.values]
            # An id that is taken belongs to a record that this operation will not create.
            taken = {pk for part in _chunks(ids) for pk in await self._read(op, _by_id(part))}
            try:
                return await call_next(op)
            finally:
                for part in _chunks([pk for pk in ids if pk not in taken]):
                    await self._compare(op, part, {})
        return await self._run_in_parts(op, call_next, self._between_errors)

    # -- write and unlink -----------------------------------------------------------------------

    async def _run_in_parts(self, op: Operation, call_next: Call, between: Any) -> int:
        """Run up to a chunk at once; for more, hold only the ids and run an operation per chunk."""
        if isinstance(op.values, PerRecord):
            parts = [PerRecord(part) for part in _chunked_items(op.values)]
            return sum(
                [
                    await self._part(
                        op.replace(values=part, domain=op.domain & _by_id(list(part))),
                        call_next,
                        between,
                    )
                    for part in parts
                ]
            )
        limit = CHUNK + 1 if op.options.many else 2
        first = await self._read(op, op.domain, limit)
        if len(first) <= CHUNK:
            done: int = await between(op, call_next, first)
            return done
        ids = await self._ids(op)
        done = 0
        for part in _chunks(ids):
            done += await self._part(
                op.replace(domain=op.domain & _by_id(part)), call_next, between
            )
        return done

    async def _part(self, op: Operation, call_next: Call, between: Any) -> int:
        done: int = await between(op, call_next, await self._read(op, op.domain))
        return done

    async def _between(self, op: Operation, call_next: Call, before: Images) -> Any:
        if len(before) > 1 and not op.options.many:
            # The first of several records is chosen here, or the write might choose another one.
            before = dict(list(before.items())[:1])
            op = _narrowed(op, before)
        result = await call_next(op)
        await self._compare(op, list(before), before)
        return result

    async def _between_errors(self, op: Operation, call_next: Call, before: Images) -> Any:
        # A record that begins to match after the read must not be changed without an entry.
        before = before if op.options.many else dict(list(before.items())[:1])
        op = _narrowed(op, before)
        try:
            return await call_next(op)
        finally:
            await self._compare(op, list(before), before)

    async def _compare(self, op: Operation, ids: Sequence[Any], before: Images) -> None:
        """Read the records again, and store an entry for each that differs."""
        if not ids:
            return
        try:
            await self._record(op, ids, before, await self._read(op, _by_id(ids)))
        except BaseException:
            if op.env.transaction is not None:
                # Even if the application catches the error, no change may stay without its entry.
                op.env.transaction.doomed = True
            raise

    # -- images ---------------------------------------------------------------------------------

    async def _record(
        self, op: Operation, ids: Sequence[Any], before: Images, after: Images
    ) -> None:
        differences: list[tuple[Kind, Any, Changes]] = []
        for pk in ids:
            old, new = before.get(pk), after.get(pk)
            if old is None and new is None:
                continue
            changes = self._recorded.difference(old, new)
            kind: Kind = "create" if old is None else "unlink" if new is None else "write"
            if changes or kind != "write":
                differences.append((kind, pk, changes))
        await self._add(op, differences)

    async def _read(self, op: Operation, domain: Domain, limit: int = 0) -> Images:
        return {doc["_id"]: doc for doc in await self._search(op, domain, self._fields, limit)}

    async def _ids(self, op: Operation) -> list[Any]:
        return [doc["_id"] for doc in await self._search(op, op.domain, frozenset({"_id"}), 0)]

    @staticmethod
    async def _search(
        op: Operation, domain: Domain, fields: frozenset[str], limit: int
    ) -> list[Document]:
        options = op.options.replace(order=(), offset=0, limit=limit, fields=fields | {"_id"})
        search = op.child(
            "search", op.model, domain, options=options, origin="audit", env=_system(op.env)
        )
        documents: list[Document] = await op.app.execute(search)
        return documents


async def _append_only(op: Operation, call_next: Call, /) -> Any:
    """Refuse every write to the trail, except that the plugin itself adds entries."""
    if op.name == "create" and op.env.context.get(_KEY) is _WRITER:
        return await call_next(op)
    raise AccessDenied(
        f"{op.name} on {ENTRY}: the audit trail is append-only, and only the audit plugin adds to it"
    )


def _system(env: Env) -> Env:
    return env.replace(system=True, reason="audit")


def _with_transaction(env: Env) -> Env:
    return env.replace(transaction=current_env().transaction)


def _by_id(ids: Sequence[Any]) -> Domain:
    return Domain([("id", "in", list(ids))])


def _narrowed(op: Operation, before: Images) -> Operation:
    return op.replace(domain=op.domain & _by_id(list(before)))


def _chunks(ids: Sequence[Any]) -> Iterable[Sequence[Any]]:
    return (ids[start : start + CHUNK] for start in range(0, len(ids), CHUNK))


def _chunked_items(values: PerRecord) -> Iterable[dict[Any, Any]]:
    return ({pk: values[pk] for pk in part} for part in _chunks(list(values)))
