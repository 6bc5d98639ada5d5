"""The trail: the model of an entry, and the service that reads a record's history."""

from __future__ import annotations

from typing import Any

from earnorm import (
    AccessDenied,
    App,
    Boolean,
    DateTime,
    Json,
    NotFound,
    RecordSet,
    Selection,
    String,
    models,
)
from earnorm.plugin import ModelView, find_env, name_of, use_env
from earnorm_audit.changes import id_text
from earnorm_audit.denials import Denials

ENTRY = "audit.entry"
_HISTORY = "audit: the history of a record that the caller may read"


class AuditEntry(models.BaseModel):
    """One change of one record. Entries are only added, never changed or removed."""

    _name = ENTRY
    _collection = "audit_entries"
    _bookkeeping = "audit"
    _indexes = [{"model": 1, "record_id": 1, "at": 1}, {"at": 1}]

    model = String(required=True, help="The name of the changed record's model")
    record_id = String(required=True, help="The changed record's id as text")
    operation = Selection(choices=("create", "write", "unlink"), required=True)
    at = DateTime(required=True, help="When; ascending within one process")
    principal = String(help="The id of who was acting; unset for nobody")
    system = Boolean(required=True, default=False, help="Access rules were off")
    reason = String(help="Why they were off")
    transaction = String(help="The same text for all entries of one transaction; unset without one")
    changes = Json(required=True, help='Field name to {"old": …, "new": …}')


class AuditLog:
    """Reads the trail of one App: ``app.services["audit"]``.

    Args:
        app: The App.
        denials: Stores its refused attempts.
    """

    def __init__(self, app: App, denials: Denials) -> None:
        self._app = app
        self.denials = denials

    async def history(self, record: models.BaseModel | RecordSet[Any]) -> RecordSet[AuditEntry]:
        """Return every entry of a record, the oldest first; the record may be deleted.

        Who may read the record may read its history, without the fields that it may not read; a write
        of such fields alone is none of it. The history of a record that is not there,
        deleted or hidden, is read with the caller's rights on the model ``audit.entry``.

        Args:
            record: One record, or a RecordSet that holds one.

        Raises:
            MultipleRecords: The RecordSet holds several.
            NotFound: The RecordSet is empty, or the record was never stored and has no history.
            AccessDenied: The caller sees no such record, and has no right to read the trail.
        """
        one = record.ensure_one()
        if one.pk is None:
            raise NotFound(f"this {name_of(one)} is not stored yet, so it has no history")
        env = find_env()
        env = env if env is not None and env.app is self._app else self._app.env
        with use_env(env):
            query = type(one).search([("id", "=", one.pk)]).only("id").with_archived()
            try:
                seen = await query
            except AccessDenied:  # hidden by rights, as others are by rules
                seen = None
        is_seen = bool(seen)
        # Its entries are those of its own class, which who knows its id alone does not know.
        cls = type(seen[0]) if seen else type(one)
        of_record: list[object] = [
            ("model", "in", [name_of(cls)] if is_seen else self._names_of(one)),
            ("record_id", "=", id_text(one.pk)),
        ]
        with use_env(env.as_system(_HISTORY) if is_seen else env):
            entries = await AuditEntry.search(of_record, order="at, id")
        withholding = self._app.bind(cls).withholding
        withheld = frozenset() if withholding is None else withholding.altered(env)
        return _without(entries, withheld) if is_seen and withheld else entries

    def _names_of(self, record: models.BaseModel) -> list[str]:
        """Return the names of its class and of those below it."""
        name = name_of(record)
        views = map(ModelView, self._app.usable_models())
        return [view.name for view in views if name in view.names]

    def __repr__(self) -> str:
        return f"<AuditLog of {self._app.name}>"


def _without(entries: RecordSet[AuditEntry], names: frozenset[str]) -> RecordSet[AuditEntry]:
    """Remove fields from entries that nobody holds yet, and writes of nothing else."""
    shown: list[AuditEntry] = []
    for entry in entries:
        state = vars(entry)  # not an assignment, which save() would write
        changes = state["changes"]
        state["changes"] = {name: of for name, of in changes.items() if name not in names}
        if state["changes"] or not changes or entry.operation != "write":
            shown.append(entry)
    return RecordSet(AuditEntry, shown)
