"""A small HTTP service on EarnORM: tasks that can be added, listed, finished and removed.

``uvicorn examples.fastapi_app.main:app`` with ``EARNORM_TEST_MONGO_URI`` naming the database server.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

import pydantic
from fastapi import Depends, FastAPI, Header, Request
from fastapi.responses import JSONResponse

import earnorm
from earnorm import AppStopping, Boolean, Int, NotFound, String, ValidationError, models

URI = os.environ.get("EARNORM_TEST_MONGO_URI", "mongodb://localhost:27017")
DATABASE = os.environ.get("EARNORM_EXAMPLE_DATABASE", "earnorm_example_fastapi")


class Task(models.BaseModel):
    """Something to do."""

    _name = "task"
    title = String(required=True, unique=True, min_length=1, max_length=80)
    priority = Int(default=3, min_value=1, max_value=5)
    done = Boolean(default=False)


class NewTask(pydantic.BaseModel):
    """The body of a request; the model's own rules are checked by the model."""

    title: str
    priority: int = 3


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    """One App for the life of the process; its end waits for the requests in flight."""
    async with earnorm.App(URI, database=DATABASE, max_pool_size=20, server_timeout=3):
        yield


async def acting(x_user: Annotated[str | None, Header()] = None) -> AsyncIterator[None]:
    """Act as the user of the request; in a plain "def" FastAPI's thread would lose it.

    A real service takes the name from a session or a token that it has checked.
    """
    if x_user is None:
        yield
        return
    with earnorm.act_as(x_user):
        yield


app = FastAPI(title="Tasks", lifespan=lifespan, dependencies=[Depends(acting)])


@app.exception_handler(AppStopping)
async def stopping(_: Request, error: AppStopping) -> JSONResponse:
    """503 while the service stops: another instance answers."""
    return JSONResponse({"detail": str(error)}, status_code=error.status)


@app.exception_handler(NotFound)
async def not_found(_: Request, error: NotFound) -> JSONResponse:
    """404 for every record that isn't there."""
    return JSONResponse({"detail": str(error)}, status_code=404)


@app.exception_handler(ValidationError)
async def not_valid(_: Request, error: ValidationError) -> JSONResponse:
    """422 with every problem; 409 where a unique value exists already."""
    status = 409 if isinstance(error, earnorm.DuplicateKey) else 422
    return JSONResponse({"detail": error.errors()}, status_code=status)


def shown(task: Task) -> dict[str, Any]:
    """A task as the service answers it."""
    user = earnorm.current_env().principal
    return {
        "id": task.id,
        "title": task.title,
        "priority": task.priority,
        "done": task.done,
        "for": None if user is None else user.id,
    }


@app.post("/tasks", status_code=201)
async def add(new: NewTask) -> dict[str, Any]:
    """Store a task."""
    return shown(await Task.create(new.model_dump()))


@app.get("/tasks")
async def tasks(text: str = "", page: int = 1) -> dict[str, Any]:
    """A page of tasks, the most urgent first."""
    found = Task.search([("title", "ilike", text)], order="priority,title")
    shown_page = await found.page(max(page, 1), size=20)
    return {"total": shown_page.total, "tasks": [shown(task) for task in shown_page.records]}


@app.post("/tasks/{task_id}/done")
async def finish(task_id: str) -> dict[str, Any]:
    """Mark a task as done."""
    task = await Task.get(task_id)
    task.done = True
    return shown(await task.save())


@app.delete("/tasks/{task_id}", status_code=204)
async def remove(task_id: str) -> None:
    """Delete a task."""
    await (await Task.get(task_id)).unlink()
