"""Orders and group keys that lie in other records: ``order("author_id.name")``.

The server looks the values up with the filter of the other model's layers, so a record that may not
be read counts as one without a value. This costs one lookup per matching record, so a domain should
leave few records; docs/performance.md has figures.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from earnorm.exceptions import DomainError
from earnorm.kernel.notes import Note
from earnorm.kernel.operations import PURPOSE, REQUEST, Operation, Options
from earnorm.kernel.serving.projecting import head_of
from earnorm.model.relations.ghosts import target_of

if TYPE_CHECKING:
    from earnorm.kernel.binding import BoundModel

_NAME = "__across"

ACROSS: Note[tuple[tuple[str, str], ...]] = Note("across")
"""The keys in an operation's order and group that stand for paths into other records.

Each key is paired with its path.
"""


class Across:
    """The paths of one operation that lead into other records, each with its own key.

    Args:
        bound: The model of the operation.
    """

    def __init__(self, bound: BoundModel) -> None:
        self._bound = bound
        self._keys: dict[str, str] = {}

    @property
    def paths(self) -> tuple[tuple[str, str], ...]:
        """The keys with their paths, in the form of ``ACROSS``."""
        return tuple([(key, path) for path, key in self._keys.items()])

    def leads_away(self, path: str) -> bool:
        """Return whether the value at the end of a path lies in another record."""
        schema = self._bound.schema
        crossing = schema.crossing(path) if schema.may_cross else None
        return crossing is not None and bool(crossing.rest)

    def links_of(self, path: str) -> str | None:
        """Return the stored list of links through which a path leads, if it begins with one."""
        crossing = self._bound.schema.crossing(path) if self.leads_away(path) else None
        return None if crossing is None or crossing.single else crossing.local

    def key(self, path: str, *, each: bool = False) -> str:
        """Return the stored path of a path, or the key under which the server looks it up.

        Args:
            path: The path.
            each: True if a record stands for several, one for each record that a list of links names.

        Raises:
            DomainError: No such field, or the path leads to several records.
        """
        if not self.leads_away(path):
            return self._bound.schema.order_path_of(path)
        self.field(path, each=each)
        return self._keys.setdefault(path, f"{_NAME}{len(self._keys)}")

    def field(self, path: str, *, each: bool = False) -> Any:
        """Return the field at the end of a path.

        Raises:
            DomainError: As for ``key``.
        """
        bound, rest = self._bound, path
        while (crossing := bound.schema.crossing(rest)) is not None and crossing.rest:
            is_first = bound is self._bound and rest == path
            if not crossing.single and not (each and is_first and crossing.owned):
                raise DomainError(
                    f"{path!r} leads to several records, which have no one value", loc=(path,)
                )
            bound, rest = target_of(bound.app, crossing.field), crossing.rest
        return bound.schema.resolve(rest).field


async def lookups(
    bound: BoundModel, op: Operation, paths: tuple[tuple[str, str], ...]
) -> list[Mapping[str, Any]]:
    """Return the stages that add the value of each path under its key.

    Raises:
        AccessDenied: A model on the way may not be read.
    """
    return [stage for key, path in paths for stage in await _lookup(bound, op, key, path)]


async def _lookup(bound: BoundModel, op: Operation, key: str, path: str) -> list[Mapping[str, Any]]:
    crossing = bound.schema.crossing(path)
    if crossing is None or not crossing.rest:
        return [{"$set": {key: f"${bound.schema.order_path_of(path)}"}}]
    from earnorm.kernel.serving.requests import PipelineCapture  # few searches need it

    target = target_of(bound.app, crossing.field)
    capture = PipelineCapture()
    # The layers of the other model see which of its fields the records are ordered or grouped by.
    head = target.schema.fields[target.schema.name_of(head_of(crossing.rest))]
    by = Options(order=((head.db_name, 1),))
    search = op.child("search", target.model, options=by, origin="model")
    if op.name == "group":
        search = search.with_note(PURPOSE, "aggregate")
    await op.app.execute(search.with_note(REQUEST, capture))
    pipeline = [
        *capture.stages,
        *await _lookup(target, op, key, crossing.rest),
        {"$project": {"_id": 0, key: 1 if crossing.single else {"$ifNull": [f"${key}", None]}}},
    ]
    lookup = {
        "from": target._collection.name,
        "localField": crossing.local,
        "foreignField": "_id",
        "pipeline": pipeline,
        "as": key,
    }
    if not crossing.single:  # a group by each of the records that a list names
        each = {"path": f"${key}", "preserveNullAndEmptyArrays": True}
        return [{"$lookup": lookup}, {"$set": {key: f"${key}.{key}"}}, {"$unwind": each}]
    return [{"$lookup": lookup}, {"$set": {key: {"$first": f"${key}.{key}"}}}]
