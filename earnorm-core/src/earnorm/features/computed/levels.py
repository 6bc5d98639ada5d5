"""The levels of records whose stored fields depend on the same fields of others, as along a tree.

``complete_name`` of a record depends on that of its parent: the parent is computed first. Levels
knows the links between the records of one model, and finds the records that are next.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from earnorm.exceptions import ValidationError
from earnorm.fields.relational import Many2one

if TYPE_CHECKING:
    from earnorm.features.computed.dependencies import Step
    from earnorm.kernel.binding import BoundModel

_MOST: Final = 1_000
"""The number of times that one record is computed before its links count as a circle."""


def values_at(document: Mapping[str, Any], key: str) -> list[Any]:
    """Return the ids under a stored key: of a Many2one, or of a list of ids."""
    value = document.get(key)
    if value is None:
        return []
    return list(value) if isinstance(value, list) else [value]


class Levels:
    """The links between records of one model, along which a field depends on itself.

    Args:
        bound: The model.
        recursion: The paths from a record to the records that it depends on. Those of one relation
            are followed here; others only lead to more passes.
    """

    def __init__(self, bound: BoundModel, recursion: Iterable[tuple[Step, ...]]) -> None:
        self._bound = bound
        fields = bound.schema.fields
        own = [steps[0] for steps in recursion if len(steps) == 1]
        own = [step for step in own if step.holder in fields and step.source == step.target]
        # Where fields follow a tree in both directions, no order serves both.
        own = [step for step in own if step.forward] or own
        self._keys = {step.holder: (fields[step.holder].db_name, step.forward) for step in own}
        self.names = frozenset(self._keys)
        """The fields with the links."""
        self.single = frozenset(
            name
            for name, (_, forward) in self._keys.items()
            if forward and isinstance(fields[name], Many2one)
        )
        """The Many2ones of a record to those that it depends on."""
        self._pointed: dict[Any, tuple[list[Any], list[Any]]] = {}
        self._counts: dict[Any, int] = {}

    def learn(self, document: Mapping[str, Any]) -> None:
        """Take the links of a record from its document."""
        ups: list[Any] = []
        downs: list[Any] = []
        for key, forward in self._keys.values():
            (ups if forward else downs).extend(values_at(document, key))
        self._pointed[document["_id"]] = (ups, downs)

    def unknown(self, pks: Iterable[Any]) -> list[Any]:
        """Return the ids of records whose links are not known."""
        return [pk for pk in pks if pk not in self._pointed]

    def split(self, pks: Mapping[Any, None]) -> tuple[list[Any], list[Any]]:
        """Return the records that depend on no other of them, and the rest.

        Raises:
            ValidationError: All of them depend on another.
        """
        waiting = {holder for pk in pks for holder in self._pointed.get(pk, _NO_LINKS)[1]}
        ready: list[Any] = []
        others: list[Any] = []
        for pk in pks:
            ups = self._pointed.get(pk, _NO_LINKS)[0]
            depends = pk in waiting or any(up in pks for up in ups)
            (others if depends else ready).append(pk)
        if others and not ready:
            raise self._circle()
        return ready, others

    def count(self, pks: Iterable[Any]) -> list[Any]:
        """Count a computation of these records; return those that were computed before.

        Raises:
            ValidationError: One was computed so often that its links must form a circle.
        """
        repeated: list[Any] = []
        for pk in pks:
            number = self._counts[pk] = self._counts.get(pk, 0) + 1
            if number > _MOST:
                raise self._circle()
            if number > 1:
                repeated.append(pk)
        return repeated

    def above(self, pks: Iterable[Any]) -> list[Any]:
        """Return all records that these lead to, as far as the links are known."""
        return list(self._walk(pks))

    def _walk(self, pks: Iterable[Any]) -> dict[Any, None]:
        reached: dict[Any, None] = {}
        frontier = list(pks)
        while frontier:
            frontier = [
                up
                for pk in frontier
                for part in self._pointed.get(pk, _NO_LINKS)
                for up in part
                if up not in reached
            ]
            reached.update(dict.fromkeys(frontier))
        return reached

    def forget(self, pks: Iterable[Any]) -> None:
        """Take records that were looked for, and do not exist, as ones without links."""
        for pk in pks:
            self._pointed.setdefault(pk, _NO_LINKS)

    def refuse_circle(self, pks: Sequence[Any]) -> None:
        """Refuse links that lead from one of these records back to it.

        Raises:
            ValidationError: They do.
        """
        for pk in pks:
            above = self._walk([pk])
            if pk in above or any(other in self._walk([other]) for other in above):
                raise self._circle()

    def _circle(self) -> ValidationError:
        names = sorted(self.names)
        message = (
            "a record cannot depend on itself: its stored computed fields follow this link from "
            "record to record, and here it leads back to the record"
        )
        loc = tuple(names[:1])
        name = self._bound.model._name
        return ValidationError(name, [{"loc": loc, "msg": message, "type": "cycle"}])


_NO_LINKS: Final[tuple[list[Any], list[Any]]] = ([], [])
