"""The translation of driver exceptions to EarnORM's: two tables, by class and by server code.

PyMongo, Motor and mongomock all raise ``pymongo.errors``, so one translation serves every adapter.
Causes are chained, except under a ``ValidationError``, because there the driver's text quotes whole
documents.
Server codes: https://github.com/mongodb/mongo/blob/master/src/mongo/base/error_codes.yml
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

from bson.errors import BSONError, InvalidBSON, InvalidDocument
from pymongo import errors as driver
from pymongo import timeout as driver_timeout

from earnorm.backends.base import BulkRequest, BulkUpdate, Statement
from earnorm.backends.bson_form import to_bson
from earnorm.backends.plain_operations import PlainOperations
from earnorm.backends.refusals import violations
from earnorm.exceptions import (
    BatchDuplicateKey,
    BatchRefused,
    ConfigurationError,
    DuplicateKey,
    EarnORMError,
    ErrorDetail,
    NotSupported,
    OperationTimeout,
    ServerUnavailable,
    TransactionError,
    ValidationError,
    located,
)

if TYPE_CHECKING:
    from bson.codec_options import CodecOptions

    from earnorm.backends.base import DocumentKeys
    from earnorm.backends.left_reads import LeftReads

MAX_DOCUMENT_BYTES: Final = 16 * 1024 * 1024
"""MongoDB's limit for one document: https://www.mongodb.com/docs/manual/reference/limits/"""

DRIVER_ERRORS: Final = (
    *(driver.PyMongoError, BSONError, OverflowError, UnicodeEncodeError, NotImplementedError),
)
"""The exceptions that are translated. bson raises ``OverflowError`` for an int beyond 64 bits and
``UnicodeEncodeError`` for a text that UTF-8 cannot hold, mongomock ``NotImplementedError`` for what it lacks. ``TypeError`` and the like are bugs of this
library, and are not translated."""

EVALUATION: Final = "evaluation"
"""The code of the error for a pipeline that the server does not evaluate."""
TRANSIENT: Final = "TransientTransactionError"
UNKNOWN_COMMIT: Final = "UnknownTransactionCommitResult"

MAX_TIME_EXPIRED: Final = 50
UNAUTHORISED: Final = 13
NAMESPACE_NOT_FOUND: Final = 26
INDEX_NOT_FOUND: Final = 27
NAMESPACE_EXISTS: Final = 48
DUPLICATE_CODE: Final = 11000
INDEX_CODES: Final = {
    2: "the server refuses a value of one of its options",
    67: "the server cannot create it as described",
    85: "an index on the same keys has other options or another name",
    86: "an index of this name has other keys or options",
    197: "the server does not know one of its options",
    DUPLICATE_CODE: "existing documents share a value: make them unique first",
}


class Server(Protocol):
    """The facts about the server that a message may state; never a credential."""

    @property
    def name(self) -> str:
        """The backend's name."""
        ...

    def facts(self) -> Mapping[str, object]:
        """Return ``hosts``, ``selection`` and ``queue`` (time limits), and ``pool`` (its size)."""
        ...

    @property
    def left_reads(self) -> LeftReads:
        """The reads and closes that nobody waits for any longer."""
        ...

    @property
    def operations(self) -> PlainOperations:
        """The operations outside of transactions."""
        ...

    def lacks(self, capability: str) -> str | None:
        """Return a message why the server lacks the capability, or None if it has it."""
        ...

    def decoding(self, keys: DocumentKeys) -> CodecOptions[Any] | None:
        """Return the codec options of the compiled decoder; None if the driver decodes."""
        ...


class Batch(NamedTuple):
    """The documents of an insert, or the size of a bulk, for errors that name positions."""

    size: int
    ordered: bool
    documents: Sequence[Mapping[str, Any]] = ()


@dataclass(slots=True, eq=False)  # a frozen one takes five times as long to make
class Translating:
    """A context manager that translates a driver's exception. It has no state and can be reused.

    A plain operation is in its block from the turn that it takes to its end. Where it needs not
    wait, no coroutine is made for that::

        with translating.within(timeout) or await translating.in_turn(timeout):
            ...

    Args:
        subject: The object of the work, for messages, e.g. the collection's name.
        server: The server, for messages.
        batch: The batch, for a write of several documents.
        operations: The plain operations, of which each block is one.
        is_pipeline: The server evaluates expressions, so that its texts may quote values.
    """

    subject: str
    server: Server
    batch: Batch | None = None
    operations: PlainOperations | None = None
    is_pipeline: bool = False

    def __enter__(self) -> None:
        operations = self.operations
        if operations is not None:
            operations.free -= operations.weight

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        operations = self.operations
        if operations is not None:
            operations.free += operations.weight
            if operations.line:
                operations.call_next()
        if error is not None and isinstance(error, DRIVER_ERRORS):
            raise_translated(error, self)

    def within(self, seconds: float | None = None) -> AbstractContextManager[None] | None:
        """Return the context of an operation; None if it has to wait for its turn before.

        Args:
            seconds: The limit to the time of the block; None costs nothing.
        """
        operations = self.operations
        if operations is not None and operations.free < 1:
            return None
        return self if seconds is None else _Limited(self, seconds, seconds)

    async def in_turn(self, seconds: float | None = None) -> AbstractContextManager[None]:
        """Wait for a turn, and return the context, which is entered in the same step of the loop."""
        operations = self.operations
        assert operations is not None  # nothing else waits
        until = None if seconds is None else time.monotonic() + seconds
        try:
            await operations.wait(seconds)
        except driver.WaitQueueTimeoutError as error:
            if until is None or time.monotonic() < until:  # the limit of the pool was shorter
                raise_translated(error, self)
            raise OperationTimeout(f"{self.subject}: {said(error)}") from error
        if seconds is None or until is None:
            return self
        return _Limited(self, seconds, max(0.001, until - time.monotonic()))


class _Limited:
    """A ``Translating`` with the driver's time limit (CSOT), which works in Motor's threads too.

    https://github.com/mongodb/specifications/blob/master/source/client-side-operations-timeout/client-side-operations-timeout.md
    """

    __slots__ = ("_left", "_limit", "_seconds", "_translating")

    def __init__(self, translating: Translating, seconds: float, left: float) -> None:
        self._translating = translating
        self._seconds = seconds
        self._left = left

    def __enter__(self) -> None:
        self._translating.__enter__()
        self._limit = driver_timeout(self._left)
        self._limit.__enter__()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._limit.__exit__(kind, error, traceback)
        # The label of a transaction says more: the whole transaction may be run again.
        if (
            isinstance(error, _OUT_OF_TIME)
            and error.timeout
            and not error.has_error_label(TRANSIENT)
        ):
            self._translating.__exit__(None, None, None)
            raise OperationTimeout(
                f"{self._translating.subject}: not finished within {self._seconds:g} s "
                f"({said(error)}); whether a write was done is not known. Narrow it, add an "
                f"index, or give it more time"
            ) from error
        self._translating.__exit__(kind, error, traceback)


_OUT_OF_TIME: Final = (
    driver.NetworkTimeout,
    driver.ExecutionTimeout,
    driver.WaitQueueTimeoutError,
    driver.WTimeoutError,
)
"""The exceptions at the end of a time limit. If no server is found, it stays
``ServerUnavailable``."""


def raise_translated(error: Exception, where: Translating) -> None:
    """Raise the translation of ``error``, chained unless the driver's text quotes documents."""
    ours = translate(error, where)
    is_quoting = isinstance(ours, ValidationError) and ours.code != EVALUATION
    raise ours from (None if is_quoting else error)


def translate(error: Exception, where: Translating) -> EarnORMError:
    """Translate a driver's exception to EarnORM's.

    Args:
        error: One of ``DRIVER_ERRORS``.
        where: The collection and the server of the operation that failed.
    """
    if isinstance(error, driver.PyMongoError) and error.has_error_label(TRANSIENT):
        return TransactionError(
            f"{where.subject}: the transaction was aborted ({said(error)}); "
            "run it again from its beginning",
            transient=True,
        )
    for kind in type(error).__mro__:
        if kind in BY_CLASS:
            return BY_CLASS[kind](error, where)
    return EarnORMError(f"{where.subject}: {said(error)}")


def said(error: Exception) -> str:
    """Return the server's text with its code, or the driver's text, without PyMongo's reply."""
    if not isinstance(error, driver.OperationFailure):
        return str(error)
    reply = error.details or {}
    text = reply.get("errmsg") or str(error).partition(", full error:")[0]
    if error.code is None:
        return str(text)
    name = reply.get("codeName")
    return f"{text} (code {error.code}{f' {name}' if name else ''})"


# One builder for each kind of error.


def _unavailable(template: str) -> Callable[[Any, Translating], EarnORMError]:
    def build(error: Exception, where: Translating) -> EarnORMError:
        # PyMongo appends a dump of the topology.
        text = str(error).partition(", Timeout:")[0]
        return ServerUnavailable(template.format(said=text, **where.server.facts()))

    return build


def _configuration(error: Exception, where: Translating) -> EarnORMError:
    return ConfigurationError(f"{where.subject}: {said(error)}")


def _unauthenticated(error: driver.OperationFailure, where: Translating) -> EarnORMError:
    return ConfigurationError(
        f"the MongoDB server at {where.server.facts()['hosts']} refused the login ({said(error)}); "
        "check the user name, the password and authSource"
    )


def _unauthorised(error: driver.OperationFailure, where: Translating) -> EarnORMError:
    # The server appends the whole command with its values.
    text = said(error).partition(" to execute command")[0]
    return ConfigurationError(
        f"{where.subject}: the database user lacks a right ({text}); grant it a role that has it"
    )


def _out_of_time(error: driver.OperationFailure, where: Translating) -> EarnORMError:
    return OperationTimeout(
        f"{where.subject}: the operation did not finish in the time it was given ({said(error)}); "
        "narrow it, add an index, or give it more time"
    )


def _unconfirmed(error: driver.OperationFailure, where: Translating) -> EarnORMError:
    return OperationTimeout(
        f"{where.subject}: written, but too few members confirmed it in time ({said(error)})"
    )


def _idle_cursor(error: driver.OperationFailure, where: Translating) -> EarnORMError:
    return OperationTimeout(
        f"{where.subject}: the server dropped the cursor, which stood idle too long; "
        "take smaller batches or start again"
    )


def _token(message: str) -> Callable[[Any, Translating], EarnORMError]:
    def build(error: Exception, where: Translating) -> EarnORMError:
        detail = ErrorDetail(loc=("resume_token",), msg=message, type="resume_token")
        return ValidationError(where.subject, [detail])

    return build


def _not_supported(error: Exception, where: Translating) -> EarnORMError:
    return NotSupported(
        f"{where.subject}: the {where.server.name} backend cannot do this: {said(error)}"
    )


def _not_in_memory(error: Exception, where: Translating) -> EarnORMError:
    return NotSupported(
        f"{where.subject}: the {where.server.name} backend cannot do this: {said(error)}; "
        "use a MongoDB server (mongodb://…)"
    )


def _duplicate(error: driver.OperationFailure, where: Translating) -> EarnORMError:
    return DuplicateKey(where.subject, _key_fields(error.details or {}))


def _refused(message: str, code: str) -> Callable[[Any, Translating], EarnORMError]:
    def build(error: Exception, where: Translating) -> EarnORMError:
        return ValidationError(where.subject, [{"loc": (), "msg": message, "type": code}])

    return build


def _unstorable(error: Exception, where: Translating) -> EarnORMError:
    """Make the error for a value or document that, to the driver or server, cannot be stored."""
    problem = _find_unstorable(where.batch.documents) if where.batch else None
    if problem is None and isinstance(error, UnicodeEncodeError):
        problem = ErrorDetail(loc=(), msg=_NO_UTF8, type="string_unicode")
    elif problem is None and isinstance(error, driver.PyMongoError | driver.DocumentTooLarge):
        # Without documents, the condition or the values of an update are too large.
        message = _TOO_LARGE[0] if where.batch else _COMMAND_TOO_LARGE
        problem = ErrorDetail(loc=(), msg=message, type=_TOO_LARGE[1])
    elif problem is None:
        # Only the end of the driver's text names the type; the rest quotes the value.
        kind = str(error).rpartition("of type: ")[1:]
        text = f"a value {''.join(kind)} cannot be stored" if kind[0] else "a value is no BSON"
        problem = ErrorDetail(loc=(), msg=text, type="not_bson")
    if where.batch is None or where.batch.size == 1:
        problem["loc"] = problem["loc"][1:]
        return ValidationError(where.subject, [problem])
    # The driver sends a large batch in pieces, so it is not known what it sent before this
    # document.
    written = () if problem["loc"][:1] == (0,) else None
    return BatchRefused(where.subject, [problem], written=written)


def _bad_value(error: driver.OperationFailure, where: Translating) -> EarnORMError:
    # The server reports an insert just above the size limit as BadValue, like many other errors.
    if where.batch and _find_unstorable(where.batch.documents):
        return _unstorable(error, where)
    # findAndModify puts a text of its own before the cause.
    text = str((error.details or {}).get("errmsg") or "").rpartition("caused by :: ")[2]
    if text.startswith(_MISFITS):
        return _misfit(error, where)
    if text.startswith(_OVERFLOWS):
        return _refused(*_OVERFLOW)(error, where)
    return _unnamed(error, where)


def _find_unstorable(documents: Sequence[Mapping[str, Any]]) -> ErrorDetail | None:
    """Encode each document again, to find the one of a batch that was refused, and its field."""
    for position, document in enumerate(documents):
        try:
            size = len(to_bson(document))
        except (BSONError, OverflowError, ValueError):
            for name, value in document.items():
                try:
                    to_bson({"": value})
                except (BSONError, OverflowError, ValueError) as refused:
                    return _unstorable_value((position, name), value, refused)
            return {"loc": (position,), "msg": "a document that is no BSON", "type": "not_bson"}
        if size > MAX_DOCUMENT_BYTES:
            text = f"a document of {size} bytes; MongoDB's limit is {MAX_DOCUMENT_BYTES}"
            return {"loc": (position,), "msg": text, "type": "document_too_large"}
    return None


def _unstorable_value(loc: tuple[str | int, ...], value: object, refused: Exception) -> ErrorDetail:
    if isinstance(refused, UnicodeEncodeError):
        return {"loc": loc, "msg": _NO_UTF8, "type": "string_unicode"}
    text = f"a value of type {type(value).__name__} that MongoDB cannot store"
    return {"loc": loc, "msg": text, "type": "not_bson"}


def refuse_unstorable(subject: str, update: Statement) -> None:
    """Encode the values of an update again, and name the path of one that cannot be stored.

    Args:
        subject: The collection's name.
        update: The update, as it was sent.

    Raises:
        ValidationError: A value cannot be stored.
    """
    detail = _unstorable_in(update)
    if detail is not None:
        raise ValidationError(subject, [detail]) from None


def refuse_unstorable_of(subject: str, requests: Sequence[BulkRequest]) -> None:
    """Do the work of ``refuse_unstorable`` for the updates of a bulk; the error has positions.

    Raises:
        BatchRefused: A value cannot be stored.
    """
    for position, request in enumerate(requests):
        detail = _unstorable_in(request.update) if isinstance(request, BulkUpdate) else None
        if detail is not None:
            # The driver sends a large bulk in pieces, so what it sent before is not known.
            details = located([detail], position)
            written = () if position == 0 else None
            raise BatchRefused(subject, details, written=written) from None


def _unstorable_in(update: Statement) -> ErrorDetail | None:
    stages = [update] if isinstance(update, Mapping) else update
    for stage in stages:
        for values in stage.values():
            for path, value in values.items() if isinstance(values, Mapping) else ():
                try:
                    to_bson({path: value})
                except (BSONError, OverflowError, ValueError) as refused:
                    parts = ascii(path)[1:-1].split(".")
                    loc = tuple(part for part in parts if not part.startswith("$["))
                    return _unstorable_value(loc, value, refused)
    return None


UNSTORABLE: Final = (InvalidDocument, OverflowError, UnicodeEncodeError)
"""The exceptions of the codec about a value that cannot be stored."""

_NO_UTF8: Final = "the text has a lone surrogate, which UTF-8 cannot hold"

# The beginnings of the server's texts about a change that does not fit the stored value; the value
# follows.
_MISFITS: Final = ("The field", "Cannot apply $")
_OVERFLOWS: Final = "Failed to apply $"
_MISFIT_CODES: Final = (14, 28)  # TypeMismatch: $inc of null; PathNotViable: a path through null
_MISFIT: Final = (
    "a stored value is not of the kind that the change works on (unset, null, or of another type)",
    "change",
)
_OVERFLOW: Final = ("the result of a change would have more than 64 bits", "overflow")


def _bulk(error: driver.BulkWriteError, where: Translating) -> EarnORMError:
    reply = error.details
    failures: Sequence[Mapping[str, Any]] = reply.get("writeErrors") or ()
    if not failures:
        concerns: Sequence[Mapping[str, Any]] = reply.get("writeConcernErrors") or [{}]
        first = concerns[0]
        return _by_code(
            driver.WriteConcernError(first.get("errmsg", ""), first.get("code"), first), where
        )
    details = [detail for failure in failures for detail in _failure_details(failure, where.batch)]
    written = _written(where.batch, [failure["index"] for failure in failures])
    duplicate = next((f for f in failures if f.get("code") in _DUPLICATE_CODES), None)
    refused = (
        BatchRefused(where.subject, details, written=written)
        if duplicate is None
        else BatchDuplicateKey(
            where.subject, details, fields=_key_fields(duplicate), written=written
        )
    )
    if "nMatched" in reply:
        refused.matched = reply["nMatched"] + reply.get("nUpserted", 0)
        refused.deleted = reply.get("nRemoved", 0)
    return refused


def _failure_details(failure: Mapping[str, Any], batch: Batch | None) -> list[ErrorDetail]:
    if failure.get("code") != _INVALID_DOCUMENT:
        return [_failure_detail(failure, batch)]
    position = failure["index"]
    return [{**d, "loc": (position, *d["loc"])} for d in violations(failure.get("errInfo"))]


def _invalid_document(error: driver.OperationFailure, where: Translating) -> EarnORMError:
    return ValidationError(where.subject, violations((error.details or {}).get("errInfo")))


def _failure_detail(failure: Mapping[str, Any], batch: Batch | None) -> ErrorDetail:
    position, code = failure["index"], failure.get("code", 0)
    if code in _REFUSALS:
        message, kind = _REFUSALS[code]
        fields = _key_fields(failure) if code in _DUPLICATE_CODES else ()
        return {"loc": (position, *fields), "msg": message, "type": kind}
    if batch and (problem := _find_unstorable(batch.documents[position : position + 1])):
        return {**problem, "loc": (position, *problem["loc"][1:])}
    if code in _MISFIT_CODES or str(failure.get("errmsg")).startswith(_MISFITS):
        return {"loc": (position,), "msg": _MISFIT[0], "type": _MISFIT[1]}
    if str(failure.get("errmsg")).startswith(_OVERFLOWS):
        return {"loc": (position,), "msg": _OVERFLOW[0], "type": _OVERFLOW[1]}
    message = f"the server refused it: {failure.get('errmsg')} (code {code})"
    return {"loc": (position,), "msg": message, "type": "refused"}


def _written(batch: Batch | None, failed: Sequence[int]) -> Sequence[int] | None:
    if batch is None:
        return None
    if batch.ordered:  # the server stops at the first failure
        return range(min(failed))
    return sorted(set(range(batch.size)).difference(failed))


def _key_fields(failure: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(failure.get("keyPattern") or ())


_INVALID_DOCUMENT: Final = 121
_DUPLICATE_CODES: Final = frozenset({11000, 11001, 12582})
_TOO_LARGE: Final = ("the document would exceed MongoDB's limit of 16 MiB", "document_too_large")
_COMMAND_TOO_LARGE: Final = (
    "the operation would exceed MongoDB's limit of 16 MiB, with its condition and its values; "
    "do it in parts"
)
_DUPLICATED: Final = ("a record with this value exists already; it must be unique", "duplicate_key")
# The reasons to refuse a write, by the server's code: the message and the detail's type.
_REFUSALS: Final[Mapping[int, tuple[str, str]]] = {
    **dict.fromkeys(_DUPLICATE_CODES, _DUPLICATED),
    **dict.fromkeys((17419, 17420), _TOO_LARGE),
}

_misfit: Final = _refused(*_MISFIT)

BY_CODE: Final[Mapping[int, Callable[[Any, Translating], EarnORMError]]] = {
    11: _unauthenticated,  # UserNotFound
    UNAUTHORISED: _unauthorised,
    18: _unauthenticated,
    8000: _unauthenticated,  # Atlas
    20: _not_supported,  # IllegalOperation
    59: _not_supported,  # CommandNotFound
    115: _not_supported,  # CommandNotSupported
    263: _not_supported,  # OperationNotSupportedInTransaction
    31082: _not_supported,  # SearchNotEnabled
    40324: _not_supported,  # an unknown pipeline stage
    2: _bad_value,  # BadValue
    **dict.fromkeys(_MISFIT_CODES, _misfit),
    10334: _unstorable,  # BSONObjectTooLarge
    43: _idle_cursor,
    260: _token("it is of another stream, or damaged"),  # InvalidResumeToken
    280: _token("the stream cannot go on from it: it is of another one"),  # ChangeStreamFatalError
    286: _token(  # ChangeStreamHistoryLost
        "what followed it is no longer in the server's oplog; read the records anew, and watch "
        "without a token"
    ),
    MAX_TIME_EXPIRED: _out_of_time,
    262: _out_of_time,  # ExceededTimeLimit
    64: _unconfirmed,  # WriteConcernFailed: wtimeout
    **{code: _refused(*refusal) for code, refusal in _REFUSALS.items()},
    **dict.fromkeys(_DUPLICATE_CODES, _duplicate),
    _INVALID_DOCUMENT: _invalid_document,
}


def _by_code(error: driver.OperationFailure, where: Translating) -> EarnORMError:
    build = BY_CODE.get(error.code or 0, _unnamed)
    if where.is_pipeline and build in _ABOUT_VALUES:
        build = _not_evaluated
    return build(error, where)


def _not_evaluated(error: driver.OperationFailure, where: Translating) -> EarnORMError:
    # The server's text quotes values, so it is the cause and no part of the message.
    name = (error.details or {}).get("codeName")
    message = f"the server did not evaluate it (code {error.code}{f' {name}' if name else ''})"
    detail = ErrorDetail(loc=("pipeline",), msg=message, type=EVALUATION)
    return ValidationError(where.subject, [detail]).coded("evaluation")


def _unnamed(error: driver.OperationFailure, where: Translating) -> EarnORMError:
    return EarnORMError(f"{where.subject}: the server refused the operation: {said(error)}")


_ABOUT_VALUES: Final = (_unnamed, _bad_value, _misfit, _unstorable)

BY_CLASS: Final[Mapping[type, Callable[[Any, Translating], EarnORMError]]] = {
    driver.BulkWriteError: _bulk,
    driver.DuplicateKeyError: _duplicate,
    driver.OperationFailure: _by_code,
    driver.ServerSelectionTimeoutError: _unavailable(
        "no MongoDB server at {hosts} was ready within {selection} "
        "(serverSelectionTimeoutMS): {said}"
    ),
    driver.WaitQueueTimeoutError: _unavailable(
        "no connection to {hosts} became free within {queue} (waitQueueTimeoutMS); "
        "all {pool} (maxPoolSize) are in use"
    ),
    driver.NetworkTimeout: _unavailable("the MongoDB server at {hosts} did not answer: {said}"),
    driver.ConnectionFailure: _unavailable(
        "the connection to the MongoDB server at {hosts} failed: {said}"
    ),
    driver.ConfigurationError: _configuration,
    driver.InvalidOperation: _configuration,
    driver.InvalidName: _configuration,
    InvalidBSON: _refused("a stored document cannot be decoded", "invalid_bson"),
    BSONError: _unstorable,
    OverflowError: _unstorable,
    UnicodeEncodeError: _unstorable,
    NotImplementedError: _not_in_memory,
}
