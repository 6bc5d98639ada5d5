"""Routes that tell how a service is: for load balancers, and for its operators."""

from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import APIRouter
from fastapi.params import Depends
from fastapi.responses import JSONResponse, PlainTextResponse
from starlette.responses import Response

from earnorm.integrations.fastapi.errors import PROBLEMS
from earnorm.integrations.problems import RETRY_AFTER, Problem
from earnorm.integrations.starlette import problem_response
from earnorm.kernel.environment import current_app

__all__ = ["health_router", "pool_router"]


def _worst(statuses: Sequence[str]) -> str:
    return next((s for s in ("failed", "degraded") if s in statuses), "ok")


def health_router() -> APIRouter:
    """Return a router with ``/health`` and ``/health/live``, which everybody may ask.

    ``/health`` asks the database server and the plugins: 200 while the service can work, 503 where it
    cannot. It has the status of each part and nothing else: no error, no host, no figure.
    ``/health/live`` asks nobody.
    """
    router = APIRouter(tags=["health"])

    async def health() -> Response:
        report = await current_app().health()
        parts = {name: str(part.get("status", "ok")) for name, part in report.items()}
        worst = _worst(list(parts.values()))
        failed = worst == "failed"
        headers = {"cache-control": "no-store"}
        if failed:
            headers["retry-after"] = str(RETRY_AFTER)
        body = {"status": worst, "parts": parts}
        return JSONResponse(body, 503 if failed else 200, headers=headers)

    async def live() -> dict[str, str]:
        return {"status": "ok"}

    schema = {
        "type": "object",
        "required": ["status", "parts"],
        "properties": {
            "status": {"type": "string", "enum": ["ok", "degraded", "failed"]},
            "parts": {"type": "object", "additionalProperties": {"type": "string"}},
        },
    }
    content = {"content": {"application/json": {"schema": schema}}}
    responses: dict[int | str, dict[str, Any]] = {
        200: {"description": "It can work", **content},
        503: {"description": "It cannot work", **content},
        **PROBLEMS,
    }
    router.add_api_route(
        "/health", health, methods=["GET"], responses=responses, summary="How the service is"
    )
    router.add_api_route(
        "/health/live", live, methods=["GET"], responses=PROBLEMS, summary="Whether it runs"
    )
    return router


def pool_router(*, dependencies: Sequence[Depends] = ()) -> APIRouter:
    """Return a router with ``/pool`` and ``/metrics``, which are for operators.

    ``/pool`` has the figures of the pool plugin, the addresses of servers among them; ``/metrics`` all
    numbers of ``App.health()`` in the format of Prometheus.

    Args:
        dependencies: What a request has to pass, e.g. ``[Depends(is_operator)]``.
    """
    router = APIRouter(tags=["operation"], dependencies=list(dependencies))

    async def pool() -> Response:
        part: Mapping[str, object] | None = (await current_app().health()).get("pool")
        if part is None:
            return problem_response(Problem.of_status(404, "The pool plugin is not active."))
        return JSONResponse(_plain(part), headers={"cache-control": "no-store"})

    async def metrics() -> PlainTextResponse:
        return PlainTextResponse(await current_app().metrics())

    router.add_api_route(
        "/pool", pool, methods=["GET"], responses=PROBLEMS, summary="The connections"
    )
    router.add_api_route(
        "/metrics",
        metrics,
        methods=["GET"],
        responses=PROBLEMS,
        response_class=PlainTextResponse,
        summary="All figures",
    )
    return router


def _plain(value: object) -> Any:
    """Return what JSON has: figures and texts as they are, everything else as text."""
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(each) for each in value]
    return value if value is None or isinstance(value, str | int | float | bool) else str(value)
