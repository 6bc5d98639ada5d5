"""Limits to what a principal's own reads and writes cost; ``system`` has none.

The core bounds what must be bounded for everybody: the length of a path, the levels of a condition,
its sub-queries. These limits are an application's own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pydantic

from earnorm import Domain, LimitExceeded
from earnorm.domain import And, Condition
from earnorm.plugin import EXTENT, Operation


class Limits(pydantic.BaseModel):
    """``init(..., security={"limits": {"records": 1_000}})``; None is no limit.

    They hold for what a program asks for itself, on models with rights or rules.

    Attributes:
        conditions: The conditions of a domain; those about related records are counted as values.
        values: The values in the lists of a domain: ids, say.
        text: The characters of one text in a domain.
        records: The records that one search may return; a stream is not limited.
        page: The records of one page, of ``page()`` and of ``paginate()``; never more than ``records``.
        fields: The fields that a search names, by ``only()``, with those that these need.
        depth: The levels of relations that ``prefetch()`` loads along, and that ``to_dict(depth=)`` and
            ``to_json(depth=)`` of a query show.
        seconds: The time of one read.
    """

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)

    conditions: pydantic.PositiveInt | None = 5_000
    values: pydantic.PositiveInt | None = 100_000
    text: pydantic.PositiveInt | None = 100_000
    records: pydantic.PositiveInt | None = None
    page: pydantic.PositiveInt | None = None
    fields: pydantic.PositiveInt | None = None
    depth: pydantic.PositiveInt | None = None
    seconds: pydantic.PositiveFloat | None = None

    def check(self, domain: Domain) -> None:
        """Refuse a domain that is too large.

        Raises:
            LimitExceeded: It is.
        """
        if self._is_small(domain):
            return
        conditions = values = 0
        for condition in domain.conditions():
            conditions += 1
            value = condition.value
            if isinstance(value, str):
                self._check_text(value)
            elif isinstance(value, tuple | list | Mapping):
                values += self._number_in(value)
        if self.conditions is not None and conditions > self.conditions:
            raise _too_many("conditions", self.conditions)
        if self.values is not None and values > self.values:
            raise _too_many("values in its lists", self.values)

    def check_extent(self, op: Operation) -> None:
        """Refuse a query for a page that is too large, for too many fields, or too deep a one.

        Raises:
            LimitExceeded: It is.
        """
        options, extent = op.options, op.note(EXTENT)
        if self.fields is not None and options.fields is not None:
            number = len((options.fields | options.inside) - {"_id"})
            if number > self.fields:
                raise LimitExceeded(f"a search names at most {self.fields:,} fields")
        if extent is None:
            return
        page = min((most for most in (self.page, self.records) if most is not None), default=None)
        if page is not None and extent.page > page:
            raise LimitExceeded(f"a page has at most {page:,} records")
        if self.depth is not None and extent.depth > self.depth:
            raise LimitExceeded(
                f"a query loads and shows at most {self.depth:,} levels of relations along with its records"
            )

    def _is_small(self, domain: Domain) -> bool:
        """Return whether a domain is one condition, or a few, with short texts and numbers: most are."""
        nodes = domain.children if type(domain) is And else (domain,)
        conditions, text = self.conditions, self.text
        if conditions is not None and len(nodes) > conditions:
            return False
        for node in nodes:
            if node is Domain.TRUE:
                continue
            if type(node) is not Condition:
                return False
            value = node.value
            if type(value) is str:
                if text is not None and len(value) > text:
                    return False
            elif isinstance(value, tuple | list | Mapping):
                return False
        return True

    def _check_text(self, text: str) -> None:
        if self.text is not None and len(text) > self.text:
            raise LimitExceeded(f"a text in a condition has at most {self.text:,} characters")

    def _number_in(self, value: object) -> int:
        """Return the number of values in a list; conditions about related records are lists, too."""
        number, waiting = 0, [value]
        while waiting:
            item = waiting.pop()
            if isinstance(item, str):
                self._check_text(item)
            elif isinstance(item, Mapping):
                waiting += item.values()
            elif isinstance(item, Sequence) and not isinstance(item, bytes):
                waiting += item
                continue
            number += 1
        return number

    def narrowed(self, op: Operation) -> Operation:
        """Return the operation with the time and the number of records that it may take."""
        options, changes = op.options, dict[str, float]()
        if self.seconds is not None:
            changes["timeout"] = min(self.seconds, options.timeout or self.seconds)
        if self.records is not None and op.name == "search" and op.request is None:
            # One more than it may return tells that there are more.
            changes["limit"] = min(self.records + 1, options.limit or self.records + 1)
        return op.replace(options=options.replace(**changes)) if changes else op

    def check_answer(self, op: Operation, documents: object) -> None:
        """Refuse an answer that has too many records.

        Raises:
            LimitExceeded: It has.
        """
        most = self.records
        if most is None or op.name != "search" or op.request is not None:
            return
        extent = op.note(EXTENT)
        if extent is not None and extent.page:
            return  # no more than the page, and one that tells whether there is another
        if isinstance(documents, Sequence) and len(documents) > most:
            raise LimitExceeded(
                f"a search returns at most {most:,} records; give it a limit, or stream it"
            )


def _too_many(what: str, most: int) -> LimitExceeded:
    return LimitExceeded(f"the domain has more than {most:,} {what}")
