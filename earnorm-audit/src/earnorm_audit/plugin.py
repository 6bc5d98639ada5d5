"""The plugin: its settings, its choice of models, and the entries that it adds to the trail."""

from __future__ import annotations

import datetime
import logging
import uuid
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Final
from weakref import WeakKeyDictionary, ref

import pydantic
from bson import ObjectId

from earnorm import (
    AccessDenied,
    App,
    ConfigurationError,
    Env,
    TransactionOutcomeUnknown,
    models,
)
from earnorm.plugin import (
    Call,
    Layer,
    Middleware,
    ModelView,
    Operation,
    OperationName,
    Transaction,
    Verdict,
    hookimpl,
    name_of,
    nearest,
    now,
)
from earnorm_audit.alone import AloneRecording, lacks_transactions
from earnorm_audit.changes import Changes, Recorded, id_text
from earnorm_audit.denials import DENIAL, KEY, WRITER, AuditDenial, Denials
from earnorm_audit.recording import REASON, AuditLayer, Kind, Recording
from earnorm_audit.trail import ENTRY, AuditEntry, AuditLog

log: Final = logging.getLogger("earnorm.audit")

WRITES: Final = frozenset({"create", "write", "unlink"})


class AuditSettings(pydantic.BaseModel):
    """The settings: ``init(..., audit={...})``."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)

    models: list[str] | None = None
    """Names of the models to record, with the classes below them; None means all. ``_audit = False``
    excludes a model in any case."""
    denials: bool = True
    """Refused attempts are recorded."""
    denials_per_minute: pydantic.PositiveInt = 60
    """The most rows about refused attempts that a process stores in a minute; one more has the number
    of all others."""
    denials_days: pydantic.PositiveFloat = 90
    """The days after which the database deletes such a row."""
    exclude_fields: list[str] = []
    """Fields that are not recorded: ``"updated_at"`` in every model, ``"user.updated_at"`` in one."""


class AuditPlugin:
    """Records who changed what and when, in the transaction of the change.

    A model is recorded unless it declares ``_audit = False``. Entries say that the fields in its
    ``_audit_hidden``, and those that are or hold a secret, changed, but never a value.
    """

    api = 1

    def __init__(self, settings: AuditSettings | None = None) -> None:
        self._settings = settings or AuditSettings()
        self._unknown = set(self._settings.models or ())
        """The models of the settings that no App has met."""
        self._last = datetime.datetime.min
        self._marks: WeakKeyDictionary[Transaction, str] = WeakKeyDictionary()
        self._transactions_in_doubt = 0
        self._unrecorded = 0
        """The records without a transaction of which a change may lack its entry."""

    @staticmethod
    @hookimpl
    def settings() -> type[pydantic.BaseModel]:
        """Return the type of the plugin's settings."""
        return AuditSettings

    @hookimpl
    def register_models(self) -> Iterable[type[models.BaseModel]]:
        """Return the models of entries."""
        return [AuditEntry, AuditDenial]

    @hookimpl
    def register_services(self, app: App) -> Mapping[str, object]:
        """Provide ``app.services["audit"]``."""
        settings = self._settings
        denials = Denials(app, settings.denials_per_minute, settings.denials_days)
        return {"audit": AuditLog(app, denials)}

    @hookimpl
    def model_registered(self, model: type[models.BaseModel]) -> None:
        """Check a model's declarations about its audit against its fields.

        Raises:
            ConfigurationError: ``_audit_hidden`` or a setting names an unknown field; such a
                mistake would put a secret into the trail.
        """
        self._unknown.discard(name_of(model))
        self._recorded(ModelView(model))

    @hookimpl
    def startup(self, app: App) -> None:
        """Warn of a server without transactions."""
        if lacks_transactions(app):
            log.warning(
                "App %r: the server is no replica set and no sharded cluster, so a change and its "
                "entry in the audit trail are no transaction. A process that dies between the two "
                "leaves a change without its entry, and changes of several processes at one record "
                "may be recorded with wrong old values",
                app.name,
            )

    @hookimpl
    def health(self, app: App) -> Mapping[str, object]:
        """Report ``degraded`` while a change may stay without its entry.

        This is so on a server without transactions, and while a model in the settings is unknown.
        """
        unknown, is_alone = self._unknown, app.is_started and lacks_transactions(app)
        return {
            "status": "degraded" if unknown or is_alone else "ok",
            "unknown_models": sorted(unknown),
            "unknown_transactions": self._transactions_in_doubt,
            "without_transactions": is_alone,
            "unrecorded": self._unrecorded,
            "lost_denials": app.services.of_type(AuditLog).denials.lost if app.is_started else 0,
        }

    @hookimpl
    def wrap_operation(
        self, app: App, model: type[models.BaseModel], operation: OperationName
    ) -> Iterable[tuple[int, Middleware]]:
        """Wrap writing operations with the audit; the trail itself gets its append-only rule."""
        if operation not in WRITES:
            return []
        view = ModelView(model)
        if view.name in (ENTRY, DENIAL):
            return [(Layer.AUDIT, _append_only)]
        if not self._takes_part(view):
            return []
        recording = Recording(self._recorded(view), self._add)
        return [(Layer.AUDIT, AuditLayer(recording, AloneRecording(view, recording, self._miss)))]

    @hookimpl
    def access_denied(self, op: Operation, error: AccessDenied, why: Verdict | None) -> None:
        """Note a refused attempt, in a transaction too, which may be rolled back."""
        view = ModelView(op.model)
        if self._settings.denials and self._is_named(view) and view.attribute("_audit", True):
            op.app.services.of_type(AuditLog).denials.note(op, error, why)

    @hookimpl
    async def shutdown(self, app: App) -> None:
        """Store the refused attempts that are noted."""
        await app.services.of_type(AuditLog).denials.close()

    # -- what is recorded -----------------------------------------------------------------------

    def _takes_part(self, model: ModelView) -> bool:
        # What a plugin keeps for itself follows from what is recorded anyway.
        return self._is_named(model) and bool(model.attribute("_audit", model.bookkeeping is None))

    def _is_named(self, model: ModelView) -> bool:
        """Return whether the settings name the model, or a base whose records include its own."""
        named = self._settings.models
        return named is None or not set(named).isdisjoint(model.names)

    def _recorded(self, model: ModelView) -> Recorded:
        hidden: Iterable[str] = model.attribute("_audit_hidden", ())
        if isinstance(hidden, str):
            raise ConfigurationError(
                f"{model.name}: _audit_hidden is a tuple of field names: ({hidden!r},)"
            )
        names = frozenset(hidden)
        excluded = self._excluded(model.names)
        known = model.fields
        for name in (*names, *excluded["here"]):
            if name not in known:
                raise ConfigurationError(
                    f"audit: {model.name} has no field {name!r}{nearest(str(name), known)}"
                )
        out = {"_id", *excluded["here"], *excluded["everywhere"]}
        fields = {n: f.db_name for n, f in known.items() if f.stored and n not in out}
        return Recorded(fields, names | model.secrets)

    def _excluded(self, models: Sequence[str]) -> Mapping[str, Sequence[str]]:
        here: list[str] = []
        everywhere: list[str] = []
        for name in self._settings.exclude_fields:
            # A model's own name may hold dots, a field's name may not.
            owner, _, field = name.rpartition(".")
            if not owner:
                everywhere.append(field)
            elif owner in models:
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
        writer = env.as_system(REASON).replace(context={**env.context, KEY: WRITER})
        model = op.app.model(ENTRY)
        create = op.child("create", model, values=entries, origin="audit", env=writer)
        await op.app.execute(create)

    def _miss(self, op: Operation, ids: Sequence[Any], why: object) -> None:
        """Log that changes without a transaction may have no entries, and count them."""
        self._unrecorded += len(ids)
        named = ", ".join(map(id_text, ids[:10])) + (" …" if len(ids) > 10 else "")
        log.error(
            "a %s of %s may have been done without its entry in the audit trail (%s), records: %s",
            *(op.name, name_of(op.model), why, named),
        )

    def _now(self) -> datetime.datetime:
        """Return the time in UTC as it is stored, always later than the last one.

        So it orders entries even within a millisecond, and after the clock was set back.
        """
        moment = now().replace(tzinfo=None)
        if moment <= self._last:
            moment = self._last + datetime.timedelta(milliseconds=1)
        self._last = moment
        return moment

    def _marker(self, env: Env) -> str | None:
        running = env.transaction
        if running is None:
            return None
        marker = self._marks.get(running)
        if marker is None:
            marker = self._marks[running] = uuid.uuid4().hex
            forget = partial(self._forget, ref(running))  # the transaction does not hold itself
            running.after_commit(forget)
            running.after_rollback(forget)
        return marker

    def _forget(self, ended: ref[Transaction]) -> None:
        running = ended()
        if running is not None:
            self._marks.pop(running, None)

    @hookimpl
    def transaction_unknown(
        self, operations: Sequence[Operation], error: TransactionOutcomeUnknown
    ) -> None:
        """Log the marker of a transaction of which nobody knows whether it was committed.

        Its entries are in the trail if its changes are in the database, and only then.
        """
        self._transactions_in_doubt += 1
        ended = {running for op in operations if (running := op.env.transaction) is not None}
        markers = {self._marks.pop(running, None) for running in ended}
        log.warning(
            "it is not known whether the changes and the entries of transaction %s are stored: %s",
            ", ".join(sorted(filter(None, markers))) or "without entries",
            error,
        )

    def __repr__(self) -> str:
        models = self._settings.models
        return f"<AuditPlugin of {'all' if models is None else len(models)} models>"


async def _append_only(op: Operation, call_next: Call, /) -> Any:
    """Refuse every write to the trail, except that the plugin itself adds entries."""
    is_own = op.env.context.get(KEY) is WRITER
    name = name_of(op.model)
    if is_own and (op.name == "create" or (op.name == "write" and name == DENIAL)):
        return await call_next(op)
    raise AccessDenied(
        f"{op.name} on {name}: the audit trail is append-only, and only the audit plugin adds to it"
    )
