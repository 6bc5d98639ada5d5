"""Pages of a query: by number, or by keyset cursors, which stay right when records come or go."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Generic, NoReturn, TypeVar

from bson.errors import BSONError

from earnorm.backends.bson_form import from_bson, to_bson
from earnorm.domain import Domain, condition
from earnorm.domain.client_text import ClientText
from earnorm.domain.keyset import AFTER, BEFORE, BESIDE
from earnorm.domain.values import PLAIN_STORED
from earnorm.exceptions import AccessDenied, ValidationError
from earnorm.fields.structured import Dict, Embedded
from earnorm.kernel.contract.left_out import need_feature
from earnorm.kernel.environment import current_env
from earnorm.kernel.observing.denials import announce_refusal
from earnorm.kernel.observing.verdicts import Reason, Verdict, because
from earnorm.kernel.operations import Extent
from earnorm.kernel.serving.projecting import head_of
from earnorm.model.reading.expression_paths import expression_path
from earnorm.model.reading.ordering import checked_size, refuse

if TYPE_CHECKING:
    from earnorm.backends.base import Document
    from earnorm.model.base import BaseModel
    from earnorm.model.query import Query
    from earnorm.model.recordset import RecordSet
    from earnorm.model.schema import Schema

M = TypeVar("M", bound="BaseModel")

MAX_CURSOR: Final = 4096
"""The most characters of a cursor. It is part of URLs; a longer one does not come from this
module."""

_VERSION: Final = 1
_DIGEST: Final = 12


@dataclass(frozen=True, slots=True)
class Page(Generic[M]):
    """One page of a search.

    Attributes:
        records: The page's records.
        number: The page's number, from 1.
        size: The most records on a page.
        total: The number of all records that match.
    """

    records: RecordSet[M]
    number: int
    size: int
    total: int

    @property
    def pages(self) -> int:
        """The number of pages."""
        return -(-self.total // self.size)


@dataclass(frozen=True, slots=True)
class CursorPage(Generic[M]):
    """One page between two cursors.

    Attributes:
        records: The page's records, in the query's order.
        next: The cursor for ``paginate(after=…)`` that gives the next page; None on the last page.
        previous: The cursor for ``paginate(before=…)`` that gives the page before; None on the
            first page.
    """

    records: RecordSet[M]
    next: str | None
    previous: str | None


class Keyset:
    """A complete order of a model's records, and positions in it as cursors.

    Args:
        schema: The model's schema.
        order: Paths with 1 or -1; the id is appended, so that no two records share a position.

    Raises:
        DomainError: A field is unknown.
        ValidationError: A field has no single value to sort by.
    """

    def __init__(self, schema: Schema, order: Sequence[tuple[str, int]]) -> None:
        self._schema = schema
        self._paths: list[str] = []
        self.order: tuple[tuple[str, int], ...] = ()
        """Stored paths with their directions."""
        for path, direction in order:
            if self._add(path, direction):
                break  # ids are unique, so later keys have no effect
        else:
            # The id takes the direction of the last key, so that one index serves both directions.
            self._add("_id", order[-1][1] if order else 1)
        names = repr((schema.name, self.order)).encode()
        self._fingerprint = hashlib.sha256(names).digest()

    def _add(self, path: str, direction: int) -> bool:
        crossing = self._schema.crossing(path)
        if crossing is not None and crossing.rest:
            self._refuse(
                "order",
                f"{path!r} lies in other records, and a cursor is a position among values of these; "
                f"order by a field of {self._schema.name}, or turn numbered pages with page()",
            )
        reached = expression_path(self._schema, path)
        if reached.lists:
            self._refuse(
                "order", f"{path!r} leads to a list, which has no single place in an order"
            )
        if isinstance(reached.field, Embedded | Dict):
            self._refuse("order", f"{path!r} is an object; order by one of its fields")
        self._paths.append(path)
        self.order = (*self.order, (reached.db_path, direction))
        return reached.db_path == "_id"

    @property
    def fields(self) -> frozenset[str]:
        """The names of the fields whose values form a position."""
        return frozenset(
            self._schema.resolve(path.partition(".")[0]).field.name for path in self._paths
        )

    def reversed_order(self) -> tuple[tuple[str, int], ...]:
        """Return the order that gives the same records backwards."""
        return tuple((path, -direction) for path, direction in self.order)

    def position(self, document: Mapping[str, Any]) -> list[Any]:
        """Return a document's values of the order's keys.

        Raises:
            ValidationError: A value is a list or an object.
        """
        values: list[Any] = []
        for path, (db_path, _) in zip(self._paths, self.order, strict=True):
            value: Any = document
            for part in db_path.split("."):
                value = value.get(part) if type(value) is dict else _list_or_none(value)
            if type(value) not in PLAIN_STORED:
                self._refuse(
                    "order",
                    f"a record's {path!r} holds a {type(value).__name__}, which has no single place "
                    f"in an order; order by another field",
                )
            values.append(value)
        return values

    def cursor(self, position: Sequence[Any]) -> str:
        """Encode a position as opaque text.

        Raises:
            ValidationError: The values are too long.
        """
        payload = to_bson({"v": _VERSION, "k": list(position)})
        text = base64.urlsafe_b64encode(self._digest(payload) + payload).rstrip(b"=").decode()
        if len(text) > MAX_CURSOR:
            self._refuse("order", "the values to order by are too long for a cursor")
        return text

    def read(self, name: str, cursor: object) -> list[Any]:
        """Decode a cursor to its position.

        Args:
            name: The argument's name, for messages.
            cursor: The text that a client sent.

        Raises:
            ValidationError: This query did not make the cursor.
        """
        if not isinstance(cursor, str) or not cursor or len(cursor) > MAX_CURSOR:
            self._refuse(name, "is no cursor: hand in the text that paginate() gave")
        try:
            raw = base64.b64decode(
                cursor.encode("ascii") + b"=" * (-len(cursor) % 4), b"-_", validate=True
            )
            digest, payload = raw[:_DIGEST], raw[_DIGEST:]
            if digest != self._digest(payload):
                raise ValueError
            content = from_bson(payload)
            values = content["k"]
            is_valid = content["v"] == _VERSION and len(values) == len(self.order)
        except (ValueError, KeyError, TypeError, OverflowError, BSONError):
            is_valid, values = False, []
        if not is_valid or any(type(value) not in PLAIN_STORED for value in values):
            self._refuse(
                name,
                "is a cursor of another query or order, or it was changed; begin at the first page",
            )
        return list(values)

    def _digest(self, payload: bytes) -> bytes:
        # The digest detects a cursor that was cut, changed or made for another query. It needs no
        # secret key: a cursor only gives a position among records that the query shows anyway.
        return hashlib.sha256(self._fingerprint + payload).digest()[:_DIGEST]

    def beyond(self, position: Sequence[Any], *, backwards: bool = False) -> Domain:
        """Return the domain of the records after a position, or before it."""
        domain = Domain.FALSE
        same = Domain.TRUE
        for path, (_, direction), value in zip(self._paths, self.order, position, strict=True):
            is_after = (direction > 0) is not backwards
            domain |= same & condition(path, AFTER if is_after else BEFORE, value)
            same &= condition(path, BESIDE, value)
        return domain.simplify()

    def _refuse(self, name: str, message: str) -> NoReturn:
        text = f"{name}: {message}" if name == "order" else f"{name}= {message}"
        raise ValidationError(
            self._schema.name, [{"loc": (name,), "msg": text, "type": "cursor"}]
        ) from None


def _list_or_none(value: Any) -> Any:
    # A list is passed on, so that the caller refuses it; any other value has no fields.
    return value if type(value) is list else None


async def numbered_page(query: Query[M], number: int, size: int) -> Page[M]:
    """Load a page by its number, and count all records; see ``Query.page``."""
    need_feature("paging", "page()")
    checked_size("number", number, 1)
    checked_size("size", size, 1)
    offset = checked_size("offset", (number - 1) * size)
    query = query._with(_extent=Extent(page=size))
    total = await query.limit(0).offset(0).count()
    records = await query.offset(offset).limit(size)
    return Page(records, number, size, total)


async def cursor_page(
    query: Query[M], size: int, after: str | None, before: str | None
) -> CursorPage[M]:
    """Load the page after or before a cursor; see ``Query.paginate``.

    Args:
        query: The whole search.
        size: The most records on the page.
        after: The page begins after this cursor, or None.
        before: The page ends before this cursor, or None.
    """
    need_feature("paging", "paginate()")
    checked_size("size", size, 1)
    if after is not None and before is not None:
        refuse("after", "paginate() takes a cursor after or before, not both")
    query._refuse_window("paginate")
    if ClientText in (type(after), type(before)):
        # A client that has sent no cursor has asked for the first page.
        query, after, before = query._by_client(), after or None, before or None
    query = query._with(_extent=Extent(page=size))
    bound, op = query._operation("search", current_env())
    keyset = Keyset(
        bound.schema, query._order if query._order is not None else bound.schema.default_order
    )
    if bound.withholding is not None:
        env = query._reader(op.env)
        await bound.withholding.ready(env)
        unread = keyset.fields & bound.withholding.altered(env)
        if unread:  # a cursor holds the values of the order
            model, name = bound.model._name, min(unread)
            denied = AccessDenied(
                f"paginate() of {model!r} is denied: a cursor would hold the values of {name!r}, which "
                f"who is acting may not read; use page(), or another order"
            )
            reason = Reason("field", name, False, model=model, right="read")
            because(denied, Verdict(model, "search", allowed=False, reasons=[reason]))
            await announce_refusal(op, denied)
            raise denied
    backwards = before is not None
    domain = op.domain
    if after is not None:
        domain &= keyset.beyond(keyset.read("after", after))
    elif before is not None:
        domain &= keyset.beyond(keyset.read("before", before), backwards=True)
    fields = op.options.fields
    options = op.options.replace(
        order=keyset.reversed_order() if backwards else keyset.order,
        limit=size + 1,  # one more record shows whether there is another page
        fields=None if fields is None else fields | keyset.fields,
        # What the order needs is fetched whole.
        inside=frozenset(p for p in op.options.inside if head_of(p) not in keyset.fields),
    )
    documents: list[Document] = await op.app.execute(op.replace(domain=domain, options=options))
    positions = [keyset.position(document) for document in documents][:size]
    has_more = len(documents) > size
    documents = documents[:size]
    if backwards:
        documents.reverse()
        positions.reverse()
    has_next = backwards or has_more
    has_previous = has_more if backwards else after is not None
    return CursorPage(
        await query._records(bound, documents, options),
        keyset.cursor(positions[-1]) if positions and has_next else None,
        keyset.cursor(positions[0]) if positions and has_previous else None,
    )
