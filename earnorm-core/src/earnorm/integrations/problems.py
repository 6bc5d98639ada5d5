"""Turns errors into problem details for HTTP (RFC 9457), for every web framework alike.

No framework is imported here; an integration sends what :func:`problem_of` gives. A problem repeats
no message of an error but of those that are about values which the client has sent, without the hints
that name fields of a model: the messages of the others are for the program, and can name rules, hosts
and fields.
"""

from __future__ import annotations

import http
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias

from earnorm.exceptions import (
    MOST_LINES,
    AccessDenied,
    AppStopping,
    ConcurrencyError,
    DuplicateKey,
    EarnORMError,
    ErrorDetail,
    FieldWithheld,
    NotFound,
    NotSupported,
    OperationTimeout,
    ServerUnavailable,
    TransactionError,
    TransactionOutcomeUnknown,
    ValidationError,
    cut,
    located,
)

__all__ = [
    "MEDIA_TYPE",
    "RETRY_AFTER",
    "ParameterRefused",
    "Part",
    "Place",
    "Problem",
    "problem_of",
]

MEDIA_TYPE: Final = "application/problem+json"
RETRY_AFTER: Final = 5
"""The seconds after which a client may try again what the service could not do now."""

Part: TypeAlias = Literal["body", "cookie", "header", "path", "query"]
"""The parts of a request that a problem can be about."""

_INTERNAL: Final = "The service made a mistake. It has been noted."
_TEXTS: Final[Mapping[type[EarnORMError], str]] = {
    AccessDenied: "You may not do this.",
    AppStopping: "The service is stopping. Whether a change was made is not known.",
    ConcurrencyError: "Somebody else changed the record first. Read it again, and repeat the change.",
    DuplicateKey: "A value that must be unique exists already.",
    FieldWithheld: "You may not read a field that this needs.",
    NotFound: "There is no such record.",
    NotSupported: "The service cannot do this.",
    OperationTimeout: "The answer took too long.",
    ServerUnavailable: "The service cannot reach its database. Try again later.",
    TransactionError: "The change could not be made now. Try again later.",
    TransactionOutcomeUnknown: "Whether the change was made is not known. Look before you repeat it.",
    ValidationError: "What was sent is not acceptable.",
}
"""The text for clients, of each error that an integration answers."""
_MOST_DETAIL: Final = 1_000
_RENAMED: Final[Mapping[int, str]] = {
    413: "Content Too Large",
    414: "URI Too Long",
    416: "Range Not Satisfiable",
    422: "Unprocessable Content",
}
"""The names of RFC 9110 that Python has since 3.13: a title is the same on every version."""
_HINT: Final = re.compile(r"(?s)\A(.*\bunknown field .*?); (?:did you mean '.*|known: .*)\Z")
"""A message about an unknown field with the hint for programs, which names fields of the model."""


@dataclass(frozen=True, slots=True)
class Place:
    """One problem at one place of a request.

    Attributes:
        part: The part of the request.
        loc: The path in it: names of fields and positions in lists; of a parameter its name first.
        msg: The problem, in words.
        type: Its stable code, such as ``missing``.
    """

    part: Part
    loc: tuple[str | int, ...]
    msg: str
    type: str

    def to_dict(self) -> dict[str, Any]:
        """Return the place as a member of a problem's ``errors``."""
        return {"in": self.part, "loc": list(self.loc), "msg": self.msg, "type": self.type}


class ParameterRefused(ValidationError):
    """A parameter of the request's query is not acceptable.

    Args:
        details: Every problem; the place of each begins with the parameter's name.
    """

    def __init__(self, details: Sequence[ErrorDetail]) -> None:
        super().__init__("query", details)

    @classmethod
    def of(cls, parameter: str, error: ValidationError) -> ParameterRefused:
        """Return the refusal of a parameter, made from the error about its value."""
        return cls(located(error.errors(), parameter)).coded(error.code)


@dataclass(frozen=True, slots=True)
class Problem:
    """An answer that tells of an error.

    Attributes:
        status: The HTTP status.
        code: A stable name of the problem; docs/errors.md lists those of this library.
        detail: The problem, in words for the client.
        places: The problems in what was sent.
        retry_after: The seconds after which a client may try again; None says nothing.
        left_out: The number of further places, which are not listed.
    """

    status: int
    code: str
    detail: str
    places: Sequence[Place] = ()
    retry_after: int | None = None
    left_out: int = 0

    @property
    def is_internal(self) -> bool:
        """True if the program is at fault: let the error go on to the server's log."""
        return self.status == 500

    @property
    def title(self) -> str:
        """The name of the status, which does not change from one occurrence to the next."""
        try:
            return _RENAMED.get(self.status) or http.HTTPStatus(self.status).phrase
        except ValueError:
            return "Error"

    @property
    def headers(self) -> dict[str, str]:
        """The headers of the answer, its content type included."""
        headers = {"content-type": MEDIA_TYPE, "cache-control": "no-store"}
        if self.retry_after is not None:
            headers["retry-after"] = str(self.retry_after)
        return headers

    def to_dict(self) -> dict[str, Any]:
        """Return the members of the problem, as RFC 9457 names them, with ``code`` and ``errors``."""
        members: dict[str, Any] = {
            "type": "about:blank",  # the status says it, and its name is the title
            "title": self.title,
            "status": self.status,
            "detail": self.detail,
            "code": self.code,
        }
        if self.places:
            members["errors"] = [place.to_dict() for place in self.places]
        if self.left_out:
            members["errors_left_out"] = self.left_out
        return members

    def to_json(self) -> bytes:
        """Return the body of the answer."""
        # A client's text can have a lone surrogate, which is no UTF-8: it stays an escape.
        return json.dumps(self.to_dict(), ensure_ascii=True).encode("ascii")

    @classmethod
    def of_status(cls, status: int, detail: str | None = None) -> Problem:
        """Return the problem of a status that the framework or the program has chosen.

        Args:
            status: The status.
            detail: Words for the client; None takes the status's own.
        """
        problem = cls(status, f"http_{status}", "")
        return cls(status, problem.code, problem.title if detail is None else detail)

    @classmethod
    def of_places(cls, places: Iterable[Place]) -> Problem:
        """Return the problem of a request that a framework has refused before the program saw it."""
        listed = list(places)
        return cls(
            ValidationError.status,
            ValidationError.code,
            _TEXTS[ValidationError],
            listed[:MOST_LINES],
            left_out=max(0, len(listed) - MOST_LINES),
        )


def _place(part: Part, detail: ErrorDetail) -> Place:
    message = _HINT.sub(r"\1", detail["msg"])
    if (
        detail["type"] == "resume_token"
    ):  # browsers send it so, whatever it is called in the program
        return Place("header", ("last-event-id",), message, detail["type"])
    return Place(part, detail["loc"], message, detail["type"])


def problem_of(error: BaseException, part: Part = "body") -> Problem:
    """Return the problem that tells a client of an error.

    A record that is hidden from who acts and one that does not exist give the same answer. An error
    that is not of this library, or for which the program is at fault, is a 500 that says nothing.

    Args:
        error: The error.
        part: The part of the request that the values of a ValidationError come from.

    Example::

        try:
            ...
        except earnorm.EarnORMError as error:
            problem = problem_of(error)
            if problem.is_internal:
                raise
            return Response(problem.to_json(), problem.status, problem.headers)
    """
    if not isinstance(error, EarnORMError) or not 400 <= error.status < 600 or error.status == 500:
        return Problem(500, "internal", _INTERNAL)
    known = next((cls for cls in type(error).__mro__ if cls in _TEXTS), None)
    if known is not None:
        detail = _TEXTS[known]
    elif error.status < 500:
        detail = cut(str(error), _MOST_DETAIL)  # a program's or a plugin's own, made for clients
    else:
        detail = Problem.of_status(error.status).title
    places: list[Place] = []
    left_out = 0
    if isinstance(error, ValidationError):
        details = error.errors()
        shown = details[:MOST_LINES]
        if isinstance(error, ParameterRefused):  # its hints name what the endpoint offers
            places = [Place("query", d["loc"], d["msg"], d["type"]) for d in shown]
        else:
            places = [_place(part, d) for d in shown]
        left_out = len(details) - len(places)
    # Whoever repeats a change of unknown outcome may make it twice.
    may_repeat = error.status == 503 and not isinstance(error, TransactionOutcomeUnknown)
    retry_after = RETRY_AFTER if may_repeat else None
    return Problem(error.status, error.code, detail, places, retry_after, left_out)
