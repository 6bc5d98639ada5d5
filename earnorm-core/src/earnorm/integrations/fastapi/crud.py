"""A router with the usual routes of a model, each of which has the rights of who acts.

Annotations are objects here and no texts: FastAPI reads them.
"""

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from types import new_class
from typing import Annotated, Any, Final, Literal, TypeVar, get_args

import pydantic
from fastapi import APIRouter, Depends, Header, HTTPException
from fastapi.responses import JSONResponse
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from earnorm.exceptions import EarnORMError, NotFound, nearest
from earnorm.features.bodies.body import Body
from earnorm.features.revisions.declaring import REVISION
from earnorm.fields.files import File
from earnorm.integrations.fastapi.bodies import change_of, values_in
from earnorm.integrations.fastapi.dependencies import asking
from earnorm.integrations.fastapi.errors import PROBLEMS
from earnorm.integrations.listings import Asked, Listing, readable, row_of
from earnorm.integrations.starlette import EventStream, FileResponse, events, file_response
from earnorm.kernel.environment import find_env
from earnorm.model.base import BaseModel

__all__ = ["OPERATIONS", "crud_router"]

M = TypeVar("M", bound=BaseModel)
Operation = Literal["list", "create", "read", "update", "delete", "events"]

OPERATIONS: Final[tuple[Operation, ...]] = ("list", "create", "read", "update", "delete")
"""The routes of a router unless the program says otherwise."""


def crud_router(
    model: type[M],
    *,
    read: Sequence[str],
    write: Sequence[str] | type[pydantic.BaseModel] = (),
    update: Sequence[str] | type[pydantic.BaseModel] | None = None,
    filter: Collection[str] | Mapping[str, Collection[str]] = (),
    order: Collection[str] = (),
    default_order: str | None = None,
    size: int = 50,
    most: int = 200,
    files: Sequence[str] = (),
    operations: Collection[Operation] | None = None,
    tags: Sequence[str] | None = None,
) -> APIRouter:
    """Return a router with the routes of a model: ``include_router(crud_router(...), prefix="/tickets")``.

    | route | answer |
    |---|---|
    | ``GET /`` | a page of rows; the header ``Link`` leads to the others |
    | ``POST /`` | 201, the record and its ``Location`` |
    | ``GET /{id}``, ``PATCH /{id}`` | the record |
    | ``DELETE /{id}`` | 204 |
    | ``GET /events``, of ``operations`` | changes, as server-sent events |
    | ``GET``, ``PUT`` and ``DELETE /{id}/{file}``, of ``files`` | the content of a file; ranges are answered |

    Each route acts as the principal of the request. A hidden record is like a missing one. A field
    that the principal may not read is left out of its answers; after a change the record is read anew,
    so an answer has what the principal may read, or the id alone.

    Of a model with ``_versioned = True`` the answers with one record have an ``ETag``. A ``PATCH`` or
    ``DELETE`` with an ``If-Match`` that is another is a 412.

    Args:
        model: The model.
        read: The fields that answers may have. The id is always one.
        write: The fields that a body may have; or a class for the bodies of ``POST``, such as
            ``class TicketIn(Body, of=Ticket, exclude={"owner"}, extra="forbid")``.
        update: The same for ``PATCH``; None takes ``write``, each field of which may be left out: of a
            class with its types, constraints, aliases, validators and settings.
        filter: The paths that a client may filter by; a mapping gives the operators of each.
        order: The paths that a client may order by.
        default_order: The order unless the client asks for one.
        size: The rows of a page unless the client asks for another number.
        most: The most rows of a page.
        files: The File fields whose content has routes.
        operations: The routes; None means those in :data:`OPERATIONS`, without ``create`` and
            ``update`` where nothing can be written. ``events`` is one more.
        tags: The tags in the OpenAPI document; None means the model's name.

    Raises:
        ValidationError: A name of ``read``, ``write`` or ``update`` is no field of the model.
        TypeError: One of ``files`` is no File field, one of ``operations`` is no operation, or an
            argument has another form than these.
        ConfigurationError: When the server starts, since plugins may add fields and operators: a path
            or an operator of ``filter``, ``order`` or ``default_order`` is none of the model's.
    """
    listing = Listing(
        fields=tuple(read),
        filter=filter,
        order=order,
        default_order=default_order,
        size=size,
        most=most,
    )
    _check_operations(operations, bool(files))
    routes = _Routes(model, listing)
    created = _body(model, write, f"{model.__name__}In", partial=False)
    changes = write if update is None else update
    if update is None and isinstance(write, type):
        changes = change_of(write, f"{model.__name__}Change")
    changed = _body(model, changes, f"{model.__name__}Change", partial=True)
    if operations is None:
        needs = {"create": created, "update": changed}
        operations = [each for each in OPERATIONS if needs.get(each, True) is not None]

    @asynccontextmanager
    async def checked(api: object) -> AsyncIterator[None]:
        if find_env() is not None:  # else an App comes later, and the first page checks the names
            listing.check(model)
        yield

    router = APIRouter(
        tags=[model._name] if tags is None else list(tags), responses=PROBLEMS, lifespan=checked
    )
    if "list" in operations:
        routes.add_list(router)
    if "events" in operations:
        routes.add_events(router)
    if "create" in operations:
        routes.add_create(router, _needed(created, "create", "write"))
    if "read" in operations:
        routes.add_read(router)
    if "update" in operations:
        routes.add_update(router, _needed(changed, "update", "write or update"))
    if "delete" in operations:
        routes.add_delete(router)
    for name in files:
        routes.add_file(router, name)
    return router


def _check_operations(operations: Collection[object] | None, has_files: bool) -> None:
    """Refuse a name that would have no route.

    Raises:
        TypeError: It names the nearest operation.
    """
    if operations is None:
        return
    if isinstance(operations, str):
        raise TypeError("crud_router(): operations is a list of names")
    if not operations and not has_files:
        raise TypeError("crud_router(): operations=[] leaves no route")
    known = get_args(Operation)
    for name in operations:
        if name not in known:
            raise TypeError(
                f"crud_router(): there is no operation {name!r}{nearest(str(name), known)}"
            )


def _needed(
    body: type[pydantic.BaseModel] | None, operation: str, argument: str
) -> type[pydantic.BaseModel]:
    if body is None:
        raise TypeError(f"crud_router(): the route {operation!r} needs fields in {argument}")
    return body


def _body(
    model: type[BaseModel],
    fields: Sequence[str] | type[pydantic.BaseModel],
    name: str,
    *,
    partial: bool,
) -> type[pydantic.BaseModel] | None:
    """Return the class of a body, which refuses what it does not name; None if it names nothing."""
    if isinstance(fields, type):
        return fields
    if isinstance(fields, str):
        raise TypeError("crud_router(): write and update are lists of names")
    if not fields:
        return None
    # What a body does not name is refused: a misspelt field would be lost in silence.
    options = {"of": model, "include": fields, "partial": partial, "extra": "forbid"}
    body: type[pydantic.BaseModel] = new_class(name, (Body,), options)
    return body


IfMatch = Annotated[str | None, Header()]


async def _tag(record: BaseModel) -> str | None:
    """Return the entity tag of a record: its revision.

    It is None if its model has none, and for a principal who may not read every field: the revision
    would tell when the others change.
    """
    model = type(record)
    if not model._versioned or len(await readable(model, model._fields)) < len(model._fields):
        return None
    # A document that is older than its model's revisions has none yet, and its first write makes it 1.
    return f'"r{getattr(record, REVISION) or 0}"'


async def _tagged(record: BaseModel) -> dict[str, str]:
    tag = await _tag(record)
    return {} if tag is None else {"etag": tag}


async def _check_match(record: BaseModel, if_match: str | None) -> None:
    """Refuse a change of a record that is not as the client has seen it (RFC 9110, If-Match).

    The write that follows carries the revision that was compared here, so nobody comes between.

    Raises:
        HTTPException: 412.
    """
    if if_match is None or if_match.strip() == "*":
        return
    if await _tag(record) not in [each.strip() for each in if_match.split(",")]:
        raise HTTPException(
            412, "The record is not as you have seen it. Read it again, and repeat the change."
        )


class _Routes:
    """Adds the routes of one model to a router."""

    def __init__(self, model: type[BaseModel], listing: Listing) -> None:
        self._model = model
        self._listing = listing
        self._title = model.__name__
        self._shown = model.pydantic_model(
            include=["id", *listing.fields], optional=True, name=f"{model.__name__}Row"
        )

    async def _read(self, id: str) -> tuple[dict[str, Any], dict[str, str]]:
        """Return a record as the principal may see it, and the headers of the answer.

        Raises:
            NotFound: There is none, or it is hidden.
        """
        names = await readable(self._model, self._listing.fields)
        found = await self._model.search([("id", "=", id)]).only("id", *names).first()
        if found is None:
            raise NotFound(f"{self._model._name}: there is no such record")
        return row_of(found, names), await _tagged(found)

    async def _after_change(self, id: str) -> tuple[dict[str, Any], dict[str, str]]:
        """Return a record behind a change that was made, and is told as made whatever comes after it."""
        try:
            return await self._read(id)
        except EarnORMError:
            return {"id": id}, {}

    def _answers(self, status: int, description: str, many: bool = False) -> dict[str, Any]:
        """Return the arguments of a route whose answer is made here, and only documented by FastAPI."""
        shown: Any = list[self._shown] if many else self._shown  # type: ignore[name-defined]  # a class made at run time
        return {
            "status_code": status,
            "response_class": JSONResponse,
            "responses": {status: {"model": shown, "description": description}},
        }

    def add_list(self, router: APIRouter) -> None:
        """Add ``GET /``."""
        model = self._model

        async def many(
            request: Request, asked: Annotated[Asked, Depends(asking(self._listing))]
        ) -> Response:
            page = await asked.page(model)
            return JSONResponse(
                page.rows, headers={"link": page.link(request.query_params.multi_items())}
            )

        router.add_api_route(
            "",
            many,
            methods=["GET"],
            summary=f"List {self._title}",
            name=f"list_{model._name}",
            **self._answers(200, "A page of records", many=True),
        )

    def add_create(self, router: APIRouter, body_class: type[pydantic.BaseModel]) -> None:
        """Add ``POST /``."""
        model, after_change = self._model, self._after_change

        async def create(request: Request, body: pydantic.BaseModel) -> Response:
            record = await model.create(values_in(body, model, defaults=True))
            row, headers = await after_change(record.id)
            location = f"{request.url.path.rstrip('/')}/{record.id}"
            return JSONResponse(row, 201, headers={"location": location, **headers})

        create.__annotations__["body"] = body_class
        router.add_api_route(
            "",
            create,
            methods=["POST"],
            summary=f"Create a {self._title}",
            name=f"create_{model._name}",
            **self._answers(201, "The new record"),
        )

    def add_read(self, router: APIRouter) -> None:
        """Add ``GET /{id}``."""
        read = self._read

        async def one(id: str) -> Response:
            row, headers = await read(id)
            return JSONResponse(row, headers=headers)

        router.add_api_route(
            "/{id}",
            one,
            methods=["GET"],
            summary=f"Read a {self._title}",
            name=f"read_{self._model._name}",
            **self._answers(200, "The record"),
        )

    def add_update(self, router: APIRouter, body_class: type[pydantic.BaseModel]) -> None:
        """Add ``PATCH /{id}``."""
        model, after_change = self._model, self._after_change

        async def update(id: str, body: pydantic.BaseModel, if_match: IfMatch = None) -> Response:
            record = await model.get(id)
            await _check_match(record, if_match)
            values = values_in(body, model)
            if values:
                await record.write(values)
            row, headers = await after_change(record.id)
            return JSONResponse(row, headers=headers)

        update.__annotations__["body"] = body_class
        router.add_api_route(
            "/{id}",
            update,
            methods=["PATCH"],
            summary=f"Change a {self._title}",
            name=f"update_{model._name}",
            **self._answers(200, "The record as it is now"),
        )

    def add_delete(self, router: APIRouter) -> None:
        """Add ``DELETE /{id}``."""
        model = self._model

        async def delete(id: str, if_match: IfMatch = None) -> Response:
            record = await model.get(id)
            await _check_match(record, if_match)
            await record.unlink()
            return Response(status_code=204)

        router.add_api_route(
            "/{id}",
            delete,
            methods=["DELETE"],
            status_code=204,
            summary=f"Delete a {self._title}",
            name=f"delete_{model._name}",
        )

    def add_events(self, router: APIRouter) -> None:
        """Add ``GET /events``."""
        model, fields, listing = self._model, self._listing.fields, self._listing

        async def changes(
            filter: str | None = None,
            last_event_id: Annotated[str | None, Header()] = None,
        ) -> EventStream:
            asked = listing.read({"filter": filter})
            names = await readable(model, fields)
            return await events(model.watch(asked.domain, resume_token=last_event_id), fields=names)

        router.add_api_route(
            "/events",
            changes,
            methods=["GET"],
            status_code=200,
            response_class=EventStream,
            response_model=None,
            responses={
                200: {"description": "Changes", "content": {"text/event-stream": {"schema": {}}}}
            },
            summary=f"Hear of changes of {self._title}",
            name=f"events_{model._name}",
        )

    def add_file(self, router: APIRouter, name: str) -> None:
        """Add the routes of a file."""
        model = self._model
        if not isinstance(model._schema.fields.get(name), File):
            known = [
                each for each, field in model._schema.fields.items() if isinstance(field, File)
            ]
            raise TypeError(
                f"crud_router(): {model._name} has no File field {name!r}{nearest(str(name), known)}"
            )

        async def found(id: str) -> Any:
            record = await model.search([("id", "=", id)]).only("id", name).first()
            if record is None:
                raise NotFound(f"{model._name}: there is no such record")
            return record

        async def content(id: str, request: Request) -> Response:
            return file_response(getattr(await found(id), name), request)

        async def store(
            id: str,
            request: Request,
            filename: str | None = None,
            content_type: Annotated[str | None, Header()] = None,
        ) -> Response:
            record = await found(id)
            file = getattr(record, name)
            try:
                await file.write(request.stream(), filename=filename, content_type=content_type)
            except ClientDisconnect:
                return Response(status_code=400)  # nobody reads it
            return JSONResponse(row_of(record, [name]))

        async def remove(id: str) -> Response:
            await getattr(await found(id), name).delete()
            return Response(status_code=204)

        path, title = f"/{{id}}/{name}", f"{self._title}.{name}"
        binary = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}
        router.add_api_route(path, content, methods=["HEAD"], include_in_schema=False)
        router.add_api_route(
            path,
            content,
            methods=["GET"],
            status_code=200,
            response_class=FileResponse,
            response_model=None,
            responses={
                200: {"description": "The content", "content": {"*/*": {"schema": {}}}},
                206: {"description": "A range of it", "content": {"*/*": {"schema": {}}}},
                304: {"description": "The client has it"},
                416: {"description": "There is no such range"},
            },
            summary=f"Read {title}",
            name=f"read_{model._name}_{name}",
        )
        router.add_api_route(
            path,
            store,
            methods=["PUT"],
            openapi_extra={"requestBody": {"required": True, "content": binary}},
            summary=f"Store {title}",
            name=f"store_{model._name}_{name}",
        )
        router.add_api_route(
            path,
            remove,
            methods=["DELETE"],
            status_code=204,
            summary=f"Delete {title}",
            name=f"delete_{model._name}_{name}",
        )
