"""Pages of a query: numbered ones, and keyset cursors that stay right while records come and go."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Generic, NoReturn, TypeVar

import bson
from bson.binary import UuidRepresentation
from bson.codec_options import CodecOptions
from bson.errors import BSONError

from earnorm.domain import Domain, condition
from earnorm.domain.keyset import AFTER, BEFORE, BESIDE
from earnorm.domain.values import PLAIN_STORED
from earnorm.exceptions import ValidationError
from earnorm.fields.structured import Dict, Embedded
from earnorm.kernel.environment import current_env
from earnorm.model.reading.expression_paths import expression_path

if TYPE_CHECKING:
    from earnorm.backends.base import Document
    from earnorm.model.base import BaseModel
    from earnorm.model.query import Query
    from earnorm.model.recordset import RecordSet
    from earnorm.model.schema import Schema

M = TypeVar("M", bound="BaseModel")

MAX_CURSOR: Final = 4096
"""Most characters of a cursor: it travels in addresses, and a longer one is none of ours."""

_VERSION: Final = 1
_DIGEST: Final = 12
_CODEC: Final[CodecOptions[dict[str, Any]]] = CodecOptions(
    document_class=dict, uuid_representation=UuidRepresentation.STANDARD
)


@dataclass(frozen=True, slots=True)
class Page(Generic[M]):
    """One page of a search.

    Attributes:
        records: The page's records.
        number: The page's number, from 1.
        size: Most records on a page.
        total: How many records match in all.
    """

    records: RecordSet[M]
    number: int
    size: int
    total: int

    @property
    def pages(self) -> int:
        """How many pages there are."""
        return -(-self.total // self.size)


@dataclass(frozen=True, slots=True)
class CursorPage(Generic[M]):
    """One page between two cursors.

    Attributes:
        records: The page's records, in the query's order.
        next: What ``paginate(after=…)`` takes for the page behind this one; None where this is the
            last.
        previous: What ``paginate(before=…)`` takes for the page before this one; None where this is
            the first.
    """

    records: RecordSet[M]
    next: str | None
    previous: str | None


class Keyset:
    """A complete order of a model's records, and positions in it as cursors.

    Args:
        schema: The model's.
        order: Paths with 1 or -1; the id is appended, so that no two records share a position.

    Raises:
        DomainError: An unknown field.
        ValidationError: A field that gives no single value to sort by.
    """

    def __init__(self, schema: Schema, order: Sequence[tuple[str, int]]) -> None:
        self._schema = schema
        self._paths: list[str] = []
        self.order: tuple[tuple[str, int], ...] = ()
        """Stored paths with their directions."""
        for path, direction in order:
            if self._add(path, direction):
                break  # ids are unique: nothing behind them matters
        else:
            # In the direction of the last key: an index that serves one can be read backwards.
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
        """The names of the fields whose values make a position."""
        return frozenset(
            self._schema.resolve(path.partition(".")[0]).field.name for path in self._paths
        )

    def reversed_order(self) -> tuple[tuple[str, int], ...]:
        """The same records backwards."""
        return tuple((path, -direction) for path, direction in self.order)

    def position(self, document: Mapping[str, Any]) -> list[Any]:
        """A document's values in the order's keys.

        Raises:
            ValidationError: One of them is a list or an object.
        """
        values: list[Any] = []
        for path, (db_path, _) in zip(self._paths, self.order, strict=True):
            value: Any = document
            for part in db_path.split("."):
                value = value.get(part) if type(value) is dict else _no_value(value)
            if type(value) not in PLAIN_STORED:
                self._refuse(
                    "order",
                    f"a record's {path!r} holds a {type(value).__name__}, which has no single place "
                    f"in an order; order by another field",
                )
            values.append(value)
        return values

    def cursor(self, position: Sequence[Any]) -> str:
        """A position as opaque text.

        Raises:
            ValidationError: Its values are too long.
        """
        payload = bson.encode({"v": _VERSION, "k": list(position)}, codec_options=_CODEC)
        text = base64.urlsafe_b64encode(self._digest(payload) + payload).rstrip(b"=").decode()
        if len(text) > MAX_CURSOR:
            self._refuse("order", "the values to order by are too long for a cursor")
        return text

    def read(self, name: str, cursor: object) -> list[Any]:
        """The position that a cursor means.

        Args:
            name: The argument, for messages.
            cursor: What a client handed in.

        Raises:
            ValidationError: It is none that this query gave.
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
            found = bson.decode(payload, codec_options=_CODEC)
            values = found["k"]
            known = found["v"] == _VERSION and len(values) == len(self.order)
        except (ValueError, KeyError, TypeError, OverflowError, BSONError):
            known, values = False, []
        if not known or any(type(value) not in PLAIN_STORED for value in values):
            self._refuse(
                name,
                "is a cursor of another query or order, or it was changed; begin at the first page",
            )
        return list(values)

    def _digest(self, payload: bytes) -> bytes:
        # Finds what was cut, swapped or taken from elsewhere. It is no secret, and none is needed:
        # a cursor only says where to go on inside what the query and the rules show anyway.
        return hashlib.sha256(self._fingerprint + payload).digest()[:_DIGEST]

    def beyond(self, position: Sequence[Any], *, backwards: bool = False) -> Domain:
        """The records behind a position, or before it."""
        found = Domain.FALSE
        same = Domain.TRUE
        for path, (_, direction), value in zip(self._paths, self.order, position, strict=True):
            ahead = (direction > 0) is not backwards
            found |= same & condition(path, AFTER if ahead else BEFORE, value)
            same &= condition(path, BESIDE, value)
        return found.simplify()

    def _refuse(self, name: str, message: str) -> NoReturn:
        text = f"{name}: {message}" if name == "order" else f"{name}= {message}"
        raise ValidationError(
            self._schema.name, [{"loc": (name,), "msg": text, "type": "cursor"}]
        ) from None


def _no_value(value: Any) -> Any:
    # A list on the way: handed on, so that it is refused; anything else has no fields.
    return value if type(value) is list else None


async def numbered_page(query: Query[M], number: int, size: int) -> Page[M]:
    """Load a page by its number, and count them all; see ``Query.page``."""
    if number < 1 or size < 1:
        raise ValueError("page() takes a number and a size from 1")
    total = await query.limit(0).offset(0).count()
    records = await query.offset((number - 1) * size).limit(size)
    return Page(records, number, size, total)


async def cursor_page(
    query: Query[M], size: int, after: str | None, before: str | None
) -> CursorPage[M]:
    """Load the page behind or before a cursor; see ``Query.paginate``.

    Args:
        query: The whole search.
        size: Most records on the page.
        after: The cursor that the page lies behind, or None.
        before: The cursor that it lies before, or None.
    """
    if type(size) is not int or size < 1 or (after is not None and before is not None):
        raise ValueError("paginate() takes a size from 1, and a cursor after or before, not both")
    query._refuse_window("paginate")
    bound, op = query._operation("search", current_env())
    keyset = Keyset(bound.schema, query._order)
    backwards = before is not None
    domain = op.domain
    if after is not None:
        domain &= keyset.beyond(keyset.read("after", after))
    elif before is not None:
        domain &= keyset.beyond(keyset.read("before", before), backwards=True)
    fields = op.options.fields
    options = op.options.replace(
        order=keyset.reversed_order() if backwards else keyset.order,
        limit=size + 1,  # one more tells whether there is another page
        fields=None if fields is None else fields | keyset.fields,
    )
    found: list[Document] = await op.app.execute(op.replace(domain=domain, options=options))
    positions = [keyset.position(document) for document in found][:size]
    is_more = len(found) > size
    found = found[:size]
    if backwards:
        found.reverse()
        positions.reverse()
    has_next = backwards or is_more
    has_previous = is_more if backwards else after is not None
    return CursorPage(
        await query._records(bound, found, options.fields),
        keyset.cursor(positions[-1]) if positions and has_next else None,
        keyset.cursor(positions[0]) if positions and has_previous else None,
    )
