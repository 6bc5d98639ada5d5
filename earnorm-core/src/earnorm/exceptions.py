"""Every error that EarnORM raises.

EarnORMError
├── ValidationError (also a ValueError)   a value, a document or a domain is not acceptable
│   ├── DomainError                       a search condition names an unknown field or operator, or is malformed
│   │   ├── LimitExceeded                 a path, a condition or an answer is larger than is allowed
│   │   ├── LongList                      it has a list that is longer than a filter can hold
│   │   └── UnresolvedDomain              it asks about records of another model, where none can be asked for
│   ├── UnreadableDocument                a stored document, or a value in it, cannot be read
│   ├── BatchRefused                      some writes of a batch were refused; it says which
│   └── DuplicateKey                      a unique index refused the write
│       └── BatchDuplicateKey             both: a unique index refused writes of a batch
├── NotFound (also a LookupError)         no record where one was asked for
├── MultipleRecords                       several records where one was asked for
├── FieldNotLoaded (also an AttributeError)  the field was not fetched; the message says how to fetch it
│   ├── FieldWithheld                     who is acting may not read the field
│   └── RecordGone                        a link leads to a record that was looked for and not found
├── AccessDenied (also a PermissionError) an access rule refused the operation
├── ConcurrencyError                      somebody else changed the record first
├── TransactionError                      a transaction could not be started, committed or used as asked
│   └── TransactionOutcomeUnknown         the commit was sent, and nobody can tell whether it was done
├── NotSupported                          the backend lacks what was asked for
├── ServerUnavailable (also a ConnectionError)  no server answered in time
├── AppStopping                           the App is stopping and takes no new work
├── OperationTimeout (also a TimeoutError)  a server answered, but ran out of the time it was given
├── ConfigurationError                    an App was set up wrongly, or used before it was set up
└── PluginError                           a plugin could not be found, loaded or called

A message says what was wrong, where, and what to do. It never contains another record's data.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, Final, Self, TypedDict

__all__ = [
    "AccessDenied",
    "AppStopping",
    "BatchDuplicateKey",
    "BatchRefused",
    "ConcurrencyError",
    "ConfigurationError",
    "DomainError",
    "DuplicateKey",
    "EarnORMError",
    "ErrorDetail",
    "FieldNotLoaded",
    "FieldWithheld",
    "LimitExceeded",
    "LongList",
    "MultipleRecords",
    "NotFound",
    "NotSupported",
    "OperationTimeout",
    "PluginError",
    "RecordGone",
    "ServerUnavailable",
    "TransactionError",
    "TransactionOutcomeUnknown",
    "UnreadableDocument",
    "UnresolvedDomain",
    "ValidationError",
    "nearest",
]


class ErrorDetail(TypedDict):
    """One problem of a :class:`ValidationError`."""

    loc: tuple[str | int, ...]
    """The place: field names and list positions; for a batch the first item is the position in
    it."""
    msg: str
    """The problem, in words."""
    type: str
    """A stable code, e.g. ``missing`` or ``int_parsing`` (pydantic's own if pydantic found it)."""


def located(details: Iterable[ErrorDetail], *loc: str | int) -> list[ErrorDetail]:
    """Return the same problems, each with ``loc`` put before its place."""
    return [ErrorDetail(loc=(*loc, *d["loc"]), msg=d["msg"], type=d["type"]) for d in details]


MOST_LINES: Final = 100
"""The most problems that the text of an error lists."""
_MOST_TEXT: Final = 4_000
_MOST_NAME: Final = 200
_MOST_PARTS: Final = 120


def cut(text: str, most: int = _MOST_NAME) -> str:
    """Return a text without its middle if it is long: names and values of clients have any length."""
    return text if len(text) <= most else f"{text[: most // 2]}…{text[len(text) - most // 2 :]}"


def _bounded(detail: ErrorDetail) -> ErrorDetail:
    """Return a problem whose texts are of bounded length."""
    message, loc = detail["msg"], detail["loc"]
    if (
        len(message) > _MOST_TEXT
        or len(loc) > _MOST_PARTS
        or any(isinstance(part, str) and len(part) > _MOST_NAME for part in loc)
    ):
        loc = tuple(cut(part) if isinstance(part, str) else part for part in loc[:_MOST_PARTS])
        return ErrorDetail(loc=loc, msg=cut(message, _MOST_TEXT), type=detail["type"])
    return detail


class EarnORMError(Exception):
    """The root of every error that EarnORM raises.

    Attributes:
        code: A stable name of the problem, for programs; docs/errors.md has a row for each.
        status: The HTTP status that an integration answers with.
    """

    code: str = "error"
    status: ClassVar[int] = 500

    def coded(self, code: str) -> Self:
        """Give the error a narrower code than its class has, and return it, to be raised."""
        self.code = code
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        # Python's own way calls the class with ``args``, which is the message alone. Many of these
        # classes take other arguments, so a copy gets the attributes without a call of __init__.
        return _remade, (type(self), self.args), dict(self.__dict__)


def _remade(cls: type[EarnORMError], args: tuple[Any, ...]) -> EarnORMError:
    """Make an error again for ``copy`` and ``pickle``, which then give it its attributes."""
    return cls.__new__(cls, *args)


class ValidationError(EarnORMError, ValueError):
    """A value is not acceptable.

    Args:
        subject: The thing that was validated, e.g. a model name.
        details: Every problem found, in the order of the input.
    """

    code = "validation"
    status = 422

    def __init__(self, subject: str, details: Sequence[ErrorDetail]) -> None:
        self.subject = subject
        self._details = [_bounded(detail) for detail in details]
        super().__init__(self._render())

    def _render(self) -> str:
        number = len(self._details)
        lines = [
            f"{'.'.join(map(str, d['loc']))}: {d['msg']}" if d["loc"] else d["msg"]
            for d in self._details[:MOST_LINES]
        ]
        if number == 1:
            return f"{self.subject}: {lines[0]}"
        if number > MOST_LINES:
            lines.append(f"… and {number - MOST_LINES:,} more; errors() has all of them")
        return f"{self.subject}: {number} problems\n" + "\n".join(f"  {line}" for line in lines)

    def errors(self) -> list[ErrorDetail]:
        """Return every problem as a mapping with ``loc``, ``msg`` and ``type``."""
        return list(self._details)


class UnreadableDocument(ValidationError):
    """A stored document, or a value in it, cannot be read; another program wrote it.

    The place of each problem is the document's id, then the field.

    Attributes:
        ids: The stored ids of the documents, as far as they are known.
    """

    code = "unreadable_document"
    status = 500

    def __init__(
        self, subject: str, details: Sequence[ErrorDetail], *, ids: Sequence[Any] = ()
    ) -> None:
        self.ids = tuple(ids)
        super().__init__(subject, details)

    def renamed(self, subject: str, names: Mapping[str, str]) -> UnreadableDocument:
        """Return the same error about a model, with names of fields instead of stored keys."""
        details = [
            ErrorDetail(
                loc=tuple(
                    names.get(part, part) if isinstance(part, str) else part for part in d["loc"]
                ),
                msg=d["msg"],
                type=d["type"],
            )
            for d in self.errors()
        ]
        return UnreadableDocument(subject, details, ids=self.ids)


class DomainError(ValidationError):
    """A search condition is malformed, or names an unknown field or operator."""

    code = "domain"
    status = 422

    def __init__(self, message: str, *, loc: tuple[str | int, ...] = ()) -> None:
        super().__init__("domain", [{"loc": loc, "msg": message, "type": "domain"}])


class LimitExceeded(DomainError):
    """A path, a condition or an answer is larger than is allowed."""

    code = "limit"
    status = 422


class LongList(DomainError):
    """A list in a search condition is longer than MongoDB's 16 MB for one filter."""

    code = "long_list"
    status = 422


class UnresolvedDomain(DomainError):
    """A condition about records of another model was used where they cannot be looked up.

    That is so in a predicate over single documents. ``await app.resolve(model, domain)`` first.
    """

    code = "unresolved_domain"
    status = 422


class DuplicateKey(ValidationError):
    """A unique index refused the write.

    Attributes:
        fields: The names of the fields of that index.
    """

    code = "duplicate_key"
    status = 409

    def __init__(self, subject: str, fields: Sequence[str], message: str | None = None) -> None:
        self.fields = tuple(fields)
        names = ", ".join(self.fields) or "the unique index"
        super().__init__(
            subject,
            [
                {
                    "loc": tuple(self.fields),
                    "msg": message
                    or f"a record with this {names} exists already; it must be unique",
                    "type": "duplicate_key",
                }
            ],
        )

    def _render(self) -> str:
        return f"{self.subject}: {self._details[0]['msg']}"


class BatchRefused(ValidationError):
    """Some writes of a batch were refused.

    Attributes:
        positions: The positions in the batch that were refused; each detail's ``loc`` starts with one.
        written: The positions that were written, or None if that cannot be known. Inside a
            transaction they hold only if it commits.
    """

    code = "batch_refused"
    status = 422

    def __init__(
        self, subject: str, details: Sequence[ErrorDetail], *, written: Sequence[int] | None
    ) -> None:
        self.positions = tuple(dict.fromkeys(d["loc"][0] for d in details if d["loc"]))
        self.written: Sequence[int] | None = (
            # A range is kept, because it holds a million positions in three numbers.
            written if written is None or isinstance(written, range) else tuple(written)
        )
        self.matched: int | None = None
        """The number of records that the updates matched; None if there were none or it is
        unknown."""
        self.deleted: int | None = None
        """The number of records that the batch deleted; None for the same reasons."""
        ValidationError.__init__(self, subject, details)


class BatchDuplicateKey(BatchRefused, DuplicateKey):
    """Writes of a batch were refused, at least one of them by a unique index.

    Attributes:
        fields: The fields of the first such index.
    """

    code = "batch_duplicate_key"
    status = 409

    def __init__(
        self,
        subject: str,
        details: Sequence[ErrorDetail],
        *,
        fields: Sequence[str],
        written: Sequence[int] | None,
    ) -> None:
        self.fields = tuple(fields)
        BatchRefused.__init__(self, subject, details, written=written)

    def _render(self) -> str:
        return ValidationError._render(self)


class NotFound(EarnORMError, LookupError):
    """A record was asked for, and there is none.

    Attributes:
        ids: After a write of several records, the ids of those that were not written, as text.
    """

    code = "not_found"
    status = 404
    ids: tuple[str, ...] = ()


class MultipleRecords(EarnORMError):
    """Exactly one record was asked for, and there are several."""

    code = "multiple_records"
    status = 500


class FieldNotLoaded(EarnORMError, AttributeError):
    """The field was not fetched. Reading a field loads nothing: fetch it first."""

    code = "field_not_loaded"
    status = 500


class FieldWithheld(FieldNotLoaded):
    """The field was not fetched, because whoever is acting may not read it."""

    code = "field_withheld"
    status = 403


class RecordGone(FieldNotLoaded):
    """A field was read of a record that was looked for and not found.

    A link led to it: the record was deleted, or whoever is acting may not see it. ``exists()`` of
    such a record is False.
    """

    code = "record_gone"
    status = 500


class AccessDenied(EarnORMError, PermissionError):
    """An access rule refused the operation."""

    code = "access_denied"
    status = 403


class ConcurrencyError(EarnORMError):
    """Somebody else changed the record since it was read; refresh it and try again.

    Attributes:
        ids: The ids of the records that were not written or not deleted, as text. Others of the same
            set were, and are known as written, unless a transaction is rolled back.
    """

    code = "concurrency"
    status = 409
    ids: tuple[str, ...] = ()


class TransactionError(EarnORMError):
    """A transaction could not be started, committed or used as asked.

    Attributes:
        transient: The same transaction may succeed when it is run again from its beginning.
        unknown: Nobody can tell whether it was committed; see :class:`TransactionOutcomeUnknown`.
    """

    code = "transaction"
    status = 503
    unknown: ClassVar[bool] = False

    def __init__(self, message: str, *, transient: bool = False) -> None:
        self.transient = transient
        super().__init__(message)


class TransactionOutcomeUnknown(TransactionError):
    """A commit was sent, and nobody can tell whether the server has done it.

    All of the transaction is in the database, or nothing of it. It is never tried again by itself;
    look whether what it wrote is there.
    """

    code = "transaction_outcome_unknown"
    status = 503
    unknown = True


class NotSupported(EarnORMError):
    """The backend, or the server behind it, lacks what was asked for."""

    code = "not_supported"
    status = 501


class ServerUnavailable(EarnORMError, ConnectionError):
    """No server answered within the configured time."""

    code = "server_unavailable"
    status = 503


class AppStopping(EarnORMError):
    """The App is stopping: it takes no new work, or has cut off what was not over in time.

    Of an operation that was cut off it is not known whether its write was done.
    """

    code = "app_stopping"
    status = 503


class OperationTimeout(EarnORMError, TimeoutError):
    """The server answered, but the operation did not finish within the time it was given."""

    code = "timeout"
    status = 504


class ConfigurationError(EarnORMError):
    """An App was set up wrongly, or used before it was set up."""

    code = "configuration"
    status = 500


class PluginError(EarnORMError):
    """A plugin could not be found, loaded or called."""

    code = "plugin"
    status = 500


_LONGEST_HINTED: Final = 64


def nearest(name: str, known: Iterable[str]) -> str:
    """Return a hint for a message: ``"; did you mean 'age'?"``, or the known names, or nothing."""
    if len(name) > _LONGEST_HINTED:
        return ""  # it is no slip of a name, and to compare it takes long
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    if close:
        return f"; did you mean {close[0]!r}?"
    return f"; known: {', '.join(names)}" if names and len(names) <= 20 else ""
