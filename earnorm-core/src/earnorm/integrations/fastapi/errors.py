"""The answers to errors, and what the OpenAPI document says of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, cast

from fastapi.exception_handlers import (
    http_exception_handler,
    request_validation_exception_handler,
)
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from earnorm.exceptions import cut
from earnorm.integrations import starlette
from earnorm.integrations.problems import MEDIA_TYPE, Part, Place, Problem

if TYPE_CHECKING:
    from fastapi import FastAPI

    from earnorm.integrations.starlette import FindPrincipal

__all__ = ["PROBLEMS", "install"]

_REPLACED: Final[Mapping[Any, Any]] = {
    HTTPException: http_exception_handler,
    RequestValidationError: request_validation_exception_handler,
}
_PARTS: Final = ("body", "cookie", "header", "path", "query")
_PLACE: Final[Mapping[str, Any]] = {
    "type": "object",
    "required": ["in", "loc", "msg", "type"],
    "properties": {
        "in": {"type": "string", "enum": list(_PARTS)},
        "loc": {"type": "array", "items": {"anyOf": [{"type": "string"}, {"type": "integer"}]}},
        "msg": {"type": "string"},
        "type": {"type": "string"},
    },
}
_PROBLEM: Final[Mapping[str, Any]] = {
    "type": "object",
    "required": ["type", "title", "status", "detail", "code"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "code": {"type": "string", "description": "A stable name of the problem"},
        "errors": {"type": "array", "items": dict(_PLACE)},
        "errors_left_out": {"type": "integer"},
    },
}
PROBLEMS: Final[dict[int | str, dict[str, Any]]] = {
    "default": {
        "description": "A problem (RFC 9457)",
        "content": {MEDIA_TYPE: {"schema": dict(_PROBLEM)}},
    }
}
"""The part of the OpenAPI document about errors: ``FastAPI(responses=PROBLEMS)``."""


def install(api: FastAPI, *, principal: FindPrincipal | None = None) -> None:
    """Add the middleware of the App, and answer errors with problem details (RFC 9457).

    What FastAPI refuses before the endpoint is answered alike. Handlers of your own for the same
    classes are kept. An error for which the program is at fault is a 500 that says nothing, and goes
    on to the server's log.

    Args:
        api: The application, before it is started.
        principal: Finds who has sent a request: gets it, and returns what ``act_as()`` takes, or None
            for nobody. It may be async, and may raise an ``HTTPException``. None leaves it to a
            dependency; see :func:`acting`.
    """
    # FastAPI's own handlers stand there from the beginning.
    for kind, own in _REPLACED.items():
        if api.exception_handlers.get(kind) is own:
            del api.exception_handlers[kind]
    api.exception_handlers.setdefault(RequestValidationError, _invalid)
    starlette.install(api, principal=principal)


async def _invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    return starlette.problem_response(Problem.of_places(map(_place, error.errors())))


def _place(detail: Mapping[str, Any]) -> Place:
    """Return one problem that pydantic has found, without the value that the client has sent."""
    loc: Sequence[Any] = detail.get("loc") or ()
    part = loc[0] if loc and loc[0] in _PARTS else "body"
    inner = loc[1:] if loc and loc[0] in _PARTS else loc
    places = tuple(each if isinstance(each, int) else cut(str(each)) for each in inner)
    return Place(cast(Part, part), places, cut(str(detail.get("msg"))), str(detail.get("type")))
