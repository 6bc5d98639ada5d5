"""Reads what a client asks of a list from the parameters of a request: a filter, an order, fields, a page.

Each goes through the checks of ``earnorm.untrusted``, against what the endpoint offers. No framework
is imported here.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Generic, NoReturn, TypeVar, overload
from urllib.parse import urlencode
from weakref import WeakSet

from earnorm import untrusted
from earnorm.domain import Domain
from earnorm.domain.client_text import ClientText
from earnorm.exceptions import DomainError, ErrorDetail, ValidationError
from earnorm.integrations.offers import check_form, check_names
from earnorm.integrations.problems import ParameterRefused
from earnorm.kernel.environment import current_env, use_env
from earnorm.model.query import Query
from earnorm.model.reading.serializing import as_json, public_names

if TYPE_CHECKING:
    from earnorm.features.paging.paging import CursorPage
    from earnorm.kernel.binding import BoundModel
    from earnorm.model.base import BaseModel
    from earnorm.model.recordset import RecordSet

__all__ = ["PARAMETERS", "Asked", "ListPage", "Listing", "readable", "row_of"]

M = TypeVar("M", bound="BaseModel")

PARAMETERS: Final = ("filter", "order", "fields", "limit", "after", "before")
"""The names of the parameters of a list."""

_CURSORS: Final = ("after", "before")
_MOST_DIGITS: Final = 9


@dataclass(frozen=True, slots=True)
class Listing:
    """The offer of an endpoint to clients that ask for a list.

    Attributes:
        fields: The fields that a row may have, which are those that it has unless the client asks for
            fewer. The id is always one.
        filter: The paths that a filter may name; a mapping gives the operators of each.
        order: The paths that an order may name.
        default_order: The order unless the client asks for one; None is the model's own.
        size: The rows of a page unless the client asks for another number.
        most: The most rows of a page.
        length: The most characters of a filter. It returns in the ``Link`` header of the answer, and
            proxies bound headers.
        timeout: The seconds that the server may work on a page; None is the App's own.

    Raises:
        TypeError: A part has no such form: an order with a sign, a text where a list belongs.
        ValueError: A number is out of its range.

    Names and operators are compared with a model by :meth:`check`, at the latest when a first page is
    loaded.

    Example::

        tickets = Listing(
            fields=["title", "hours"],
            filter={"title": ["=", "ilike"], "hours": ["=", "<", ">"]},
            order=["title", "hours"],
        )
        asked = tickets.read(request.query_params)
        page = await asked.page(Ticket)
        # page.rows, and as a header page.link(request.query_params.items())
    """

    fields: Sequence[str]
    filter: Collection[str] | Mapping[str, Collection[str]] = ()
    order: Collection[str] = ()
    default_order: str | None = None
    size: int = 50
    most: int = 200
    length: int = 2_000
    timeout: float | None = 10.0
    _fitting: WeakSet[BoundModel] = field(
        default_factory=WeakSet, init=False, repr=False, compare=False
    )

    def __post_init__(self) -> None:
        check_form(self)
        self.read({})  # what is offered is checked now, and not by the first request

    def check(self, model: type[BaseModel]) -> None:
        """Compare the names and the operators with a model, as the current App has it.

        ``crud_router`` does so when the server starts, and each list before its first page. For a
        list of your own, call it in the lifespan to be told at the start, too.

        Raises:
            ConfigurationError: Some are no names or operators of the model; it lists all of them, each
                with the nearest one.
        """
        env = current_env()
        bound = env.app.bind(model)
        if bound not in self._fitting:
            # The error is for the program: its hints may name what the sender of a request may not see.
            with use_env(env.as_system("compares a list with its model")):
                check_names(self, bound)
            self._fitting.add(bound)

    def read(self, parameters: Mapping[str, object]) -> Asked:
        """Read the parameters of a request; those of other names are not looked at.

        Args:
            parameters: The values by their names in :data:`PARAMETERS`. One that is None or is not
                there was not sent.

        Raises:
            ParameterRefused: One is malformed, too large, or names what is not offered.
        """
        sent = {name: parameters.get(name) for name in PARAMETERS}
        condition = self._read_json(sent["filter"])
        fields = None
        name = "filter"
        try:
            domain = Domain.untrusted(condition, fields=self.filter)
            name = "order"
            order = untrusted.order(sent[name] or "", fields=self.order)
            name = "fields"
            if sent[name] is not None:
                fields = tuple(untrusted.fields(sent[name], fields={*self.fields, "id"}))
            name = "after"
            after = untrusted.cursor(sent[name])
            name = "before"
            before = untrusted.cursor(sent[name])
        except ValidationError as error:
            raise ParameterRefused.of(name, error) from None
        if after and before:
            refuse("before", "a page is after a cursor or before one, not both")
        size = self._read_size(sent["limit"])
        return Asked(self, domain, order, fields, size, after, before)

    def _read_json(self, text: object) -> object:
        if text is None or text == "":
            return []
        if not isinstance(text, str) or len(text) > self.length:
            refuse("filter", f"it is a text of at most {self.length} characters")
        try:
            return json.loads(text)
        except (ValueError, RecursionError):
            refuse("filter", 'it is no JSON; for example [["title", "=", "Tea"]] is a filter')

    def _read_size(self, value: object) -> int:
        if value is None or value == "":
            return self.size
        text = str(value)
        if not (text.isascii() and text.isdigit() and len(text) <= _MOST_DIGITS):
            refuse("limit", f"it is a number from 1 to {self.most}")
        if not 1 <= int(text) <= self.most:
            refuse("limit", f"it is a number from 1 to {self.most}")
        return int(text)


@dataclass(frozen=True, slots=True)
class Asked:
    """The wishes of one request for a list. Its parts are marked as a client's.

    Attributes:
        listing: The offer that it was read against.
        domain: The filter.
        order: The order; an empty text where the client asks for none.
        fields: The fields of a row; None where the client asks for none, so that it gets those of the
            listing that it may read.
        size: The rows of a page.
        after: The cursor that the page begins after, or an empty text.
        before: The cursor that the page ends before, or an empty text.
    """

    listing: Listing
    domain: Domain
    order: str
    fields: tuple[str, ...] | None
    size: int
    after: str
    before: str

    @overload
    async def page(self, source: Query[M]) -> ListPage[M]: ...
    @overload
    async def page(self, source: type[M]) -> ListPage[M]: ...

    async def page(self, source: type[M] | Query[M]) -> ListPage[M]:
        """Load the page, with the rights of the principal, also inside of ``system()``.

        Raises:
            ParameterRefused: The cursor is of another query, or a value of the filter does not fit.
            AccessDenied: The client names a field that the principal may not use so.
            ConfigurationError: The listing names what the model does not have.
        """
        query: Query[M] = source if isinstance(source, Query) else source.search()
        self.listing.check(query._model)
        names = self.fields
        if names is None:
            names = await readable(query._model, self.listing.fields)
        query = query.where(self.domain).only("id", *names)
        order = self.order or self.listing.default_order
        if order:
            query = query.order(order)
        if self.listing.timeout is not None:
            query = query.timeout(self.listing.timeout)
        after, before = ClientText(self.after), ClientText(self.before)
        try:
            page = (
                await query.paginate(self.size, before=before)
                if before
                else await query.paginate(self.size, after=after)
            )
        except DomainError as error:
            # The listing fits the model, so what does not fit is a value of the client's filter; where
            # the client sent none, it is the query of the program.
            if next(iter(self.domain.conditions()), None) is None:
                raise
            raise ParameterRefused.of("filter", error) from error
        except ValidationError as error:
            details = error.errors()
            if details and all(d["type"] == "cursor" for d in details):
                raise ParameterRefused(details).coded(error.code) from error
            raise
        return ListPage(page, names)


@dataclass(frozen=True, slots=True)
class ListPage(Generic[M]):
    """One page of a list.

    Attributes:
        page: The records, with the cursors of the next page and of the one before.
        fields: The names of the fields of a row.
    """

    page: CursorPage[M]
    fields: tuple[str, ...]

    @property
    def records(self) -> RecordSet[M]:
        """The records of the page."""
        return self.page.records

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The records as JSON values. A field that the principal may not read is left out."""
        return [row_of(record, self.fields) for record in self.page.records]

    def link(self, parameters: Iterable[tuple[str, object]] = ()) -> str:
        """Return the value of a ``Link`` header (RFC 8288): the first, the next, and the page before.

        The addresses are relative to the request's own, so that they are right behind any proxy.

        Args:
            parameters: Those of the request, as pairs, which the other pages have, too.
        """
        kept = [
            (name, str(value))
            for name, value in parameters
            if name not in _CURSORS and value is not None
        ]
        links = {"first": kept}
        if self.page.next is not None:
            links["next"] = [*kept, ("after", self.page.next)]
        if self.page.previous is not None:
            links["prev"] = [*kept, ("before", self.page.previous)]
        return ", ".join(f'<?{urlencode(each)}>; rel="{rel}"' for rel, each in links.items())


async def readable(model: type[BaseModel], names: Iterable[str]) -> tuple[str, ...]:
    """Return those of these fields that the principal may read; a search that named another is denied."""
    env = current_env().as_principal()
    bound = env.app.bind(model)
    if bound.withholding is None:
        return tuple(names)
    await bound.withholding.ready(env)
    hidden = bound.withholding.hidden(env)
    return tuple(name for name in names if name not in hidden)


def row_of(record: BaseModel, fields: Collection[str]) -> dict[str, Any]:
    """Return a record as JSON values: its id and the given fields, in their order.

    A field that was not fetched, because the principal may not read it, is left out.
    """
    names = public_names(type(record)._schema)
    others = [name for name in names if name != "id" and name not in fields]
    values = as_json(record, 0, None, others)
    return {name: values[name] for name in dict.fromkeys(("id", *fields)) if name in values}


def refuse(parameter: str, why: str) -> NoReturn:
    """Refuse a parameter.

    Raises:
        ParameterRefused: Always, with the code ``untrusted``.
    """
    detail = ErrorDetail(loc=(parameter,), msg=f"this is not taken: {why}", type="untrusted")
    raise ParameterRefused([detail]).coded("untrusted") from None
