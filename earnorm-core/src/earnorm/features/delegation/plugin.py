"""Splits the values of models with ``_inherits``: each part is written to its own record.

All writes are in one transaction if the backend has them. Deleting the record does not delete the
other one.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from earnorm.exceptions import ValidationError
from earnorm.fields.base import not_written
from earnorm.kernel.hookspecs import API, hookimpl
from earnorm.kernel.operations import made_by
from earnorm.kernel.pauses import parts, pause
from earnorm.kernel.serving.projecting import head_of
from earnorm.kernel.steps import TAKING_MORE, Stage, Step, Way
from earnorm.kernel.value_steps import ValueBatch, ValueRow
from earnorm.model.relations.ghosts import target_of
from earnorm.model.writing import creating
from earnorm.model.writing import records as writing
from earnorm.model.writing.copying import NewRecord, prepared_copies, read_stored
from earnorm.model.writing.planning import loc_of

if TYPE_CHECKING:
    from earnorm.kernel.app import App
    from earnorm.kernel.binding import BoundModel
    from earnorm.kernel.views import ModelView

_NOTES = made_by("delegation")
_CREATING_ONLY = Way.CREATE_MANY | Way.BULK
"""The ways on which new records can have no other operation beside them."""

Links = Mapping[str, frozenset[str]]
"""The names of the delegated fields, by the relation that they come from."""


class DelegationPlugin:
    """Writes the values of delegated fields to the records that they belong to."""

    api = API
    name = "delegation"

    @staticmethod
    @hookimpl
    def needed_by(model: ModelView) -> str | None:
        """Return ``_inherits`` if the model has it."""
        return "_inherits" if model.attribute("_inherits") else None

    @hookimpl
    def register_steps(self, app: App, model: ModelView) -> Iterable[Step]:
        """Return the steps, for models with ``_inherits``."""
        links: dict[str, set[str]] = {link: set() for link in model.attribute("_inherits").values()}
        for field in model.fields.values():
            if field.delegated:
                links[field.delegated].add(field.name)
        if not links:
            return ()
        delegated = {link: frozenset(names) for link, names in links.items()}
        split = _Split(delegated)
        names = frozenset[str]().union(*delegated.values())
        return [
            # A new record also needs new parent records, even if no delegated value is given.
            Step(Stage.SPLIT, "delegation", split.create, Way.CREATE),
            Step(Stage.SPLIT, "delegation", split.write, TAKING_MORE & ~Way.CREATE, names=names),
            Step(Stage.SPLIT, "delegation", split.refuse_new, _CREATING_ONLY, in_parts=True),
            Step(
                Stage.SPLIT,
                "delegation",
                split.refuse,
                ~(TAKING_MORE | _CREATING_ONLY),
                names=names,
                in_parts=True,
            ),
        ]


class _Split:
    def __init__(self, links: Links) -> None:
        self._links = links

    def refuse(self, batch: ValueBatch) -> None:
        """Refuse delegated values on ways that can make one operation only."""
        for row in batch.rows:
            for names in self._links.values():
                for path in _take(row, names):
                    detail = not_written(batch.model.fields[head_of(path)])
                    row.refuse(loc_of(path), detail["msg"], detail["type"])

    def refuse_new(self, batch: ValueBatch) -> None:
        """Refuse new records that point at no stored record to delegate to.

        The error takes the place of the one for a required relation.
        """
        if not batch.is_new:
            self.refuse(batch)
            return
        for row in batch.rows:
            if row.record is not None:
                continue  # the constructor made the record, and it takes no delegated values
            for link, names in self._links.items():
                if row.values.get(link) is None:
                    _take(row, names)
                    parent = target_of(batch.env.app, batch.model.fields[link]).model
                    message = (
                        f"create_many() and bulk() make no {parent._name} for a new record: "
                        f"give one that is stored, or use create()"
                    )
                    row.refuse(link, message, "missing")
                    row.values[link] = object.__new__(parent)
        self.refuse(batch)

    async def create(self, batch: ValueBatch) -> None:
        """Create the records that new records delegate to.

        If a relation has a value already, the delegated values are written to that existing record.
        One that is not stored, as after a rollback, is stored along.
        """
        bound = batch.env.app.bind(batch.model.cls)
        for link, names in self._links.items():
            parent = target_of(bound.app, bound.schema.fields[link])
            new: list[tuple[ValueRow, NewRecord]] = []
            unsaved: dict[int, _Unsaved] = {}
            for part in parts(batch.rows):
                for row in part:
                    given = row.values.get(link)
                    # The constructor made a record, and it takes no delegated values.
                    parent_values = _take(row, names) if row.record is None else {}
                    if _is_unsaved(parent, given):
                        unsaved.setdefault(id(given), _Unsaved(given, row, {})).values.update(
                            parent_values
                        )
                    elif row.record is not None:
                        continue
                    elif given is None:
                        new.append((row, NewRecord(parent, parent_values, {}, ())))
                    elif isinstance(
                        given, NewRecord
                    ):  # a copy of the parent of a record's original
                        values = {**given.values, **parent_values}
                        new.append((row, given._replace(values=values)))
                    elif parent_values:
                        await _write_existing(batch, row, parent, given, parent_values)
                if part is not batch.rows:
                    await pause()
            # A parent may be of a subclass, and each is created as one of its own class.
            for model in dict.fromkeys(record.bound for _, record in new):
                rows = [(row, record) for row, record in new if record.bound is model]
                await _create_parents(batch, link, model, rows)
            for each in unsaved.values():
                await each.create(batch)

    async def write(self, batch: ValueBatch) -> None:
        """Write the delegated values to the records that they belong to.

        As in Odoo, that is the record to which the link leads after the write: the values of a link
        and of delegated fields in one write go together. A link that was assigned and is not saved
        leads there, too: it is what the record shows.
        """
        bound = batch.env.app.bind(batch.model.cls)
        taken = {
            link: [(row, values) for row in batch.rows if (values := _take(row, names))]
            for link, names in self._links.items()
        }
        source = await _read_links(
            batch,
            {
                link: [row.record for row, _ in rows if link not in row.values]
                for link, rows in taken.items()
            },
        )
        for link, rows in taken.items():
            # Records that get the same values form a group, so that each parent is written once.
            groups: list[tuple[dict[str, Any], dict[Any, Any]]] = []
            for part in parts(rows):
                for row, parent_values in part:
                    if link in row.values:
                        target = target_of(bound.app, bound.schema.fields[link])
                        parent = _stored_parent(target, row.values[link])
                        if parent is None and row.values[link] is not None:
                            continue  # the relation's own validation raises the error
                    else:
                        parent = getattr(source(row.record, link), link)
                    if parent is None:
                        message = f"belongs to {link}, which is not set"
                        row.refuse(loc_of(next(iter(parent_values))), message, "missing")
                    elif groups and _is_same(groups[-1][0], parent_values):
                        groups[-1][1][parent.pk] = parent
                    else:
                        groups.append((parent_values, {parent.pk: parent}))
                if part is not rows:
                    await pause()
            for parent_values, parents in groups:
                try:
                    run, _ = await writing.prepared_write(
                        list(parents.values()), parent_values, _NOTES
                    )
                except ValidationError as error:
                    batch.add_problems(error.errors())
                else:
                    batch.before(run)
                    batch.along.add(link)


def _take(row: ValueRow, names: Collection[str]) -> dict[str, Any]:
    """Remove the values of these fields, and those by paths into them, from a row; return them."""
    paths = [path for path in row.values if isinstance(path, str) and head_of(path) in names]
    return {path: row.values.pop(path) for path in paths}


async def _read_links(
    batch: ValueBatch, records: Mapping[str, Sequence[Any]]
) -> Callable[[Any, str], Any]:
    """Read the links that were not fetched, with one query for all records.

    Args:
        batch: The batch.
        records: For each link, the records whose link is needed.

    Returns:
        A function that returns the object to read a link of a record from.

    Raises:
        NotFound: Some of the records do not exist any more.
    """
    missing = {
        link: [record for record in own if _lacks(record, link)] for link, own in records.items()
    }
    names = frozenset(link for link, own in missing.items() if own)
    if not names:
        return lambda record, link: record
    bound = batch.env.app.bind(batch.model.cls)
    incomplete = list(dict.fromkeys(record for own in missing.values() for record in own))
    stored = await read_stored(bound, incomplete, names | {"_id"}, _NOTES)
    return lambda record, link: stored[record.pk] if _lacks(record, link) else record


def _lacks(record: Any, link: str) -> bool:
    return link not in record.__dict__ and not record._fetch.has(link)


def _is_same(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    return one.keys() == other.keys() and all(other[name] is value for name, value in one.items())


async def _create_parents(
    batch: ValueBatch, link: str, parent: BoundModel, new: list[tuple[ValueRow, NewRecord]]
) -> None:
    """Check and make the records to delegate to, and set the relation to them."""
    try:
        creation = await prepared_copies(
            [record for _, record in new], [row.loc for row, _ in new], _NOTES
        )
    except ValidationError as error:
        batch.add_problems(error.errors())
        records: list[Any] = [object.__new__(parent.model) for _ in new]
    else:
        records = creation.make()
        batch.made += records
        batch.before(creation.run)
    for (row, _), record in zip(new, records, strict=True):
        row.values[link] = record


def _is_unsaved(parent: BoundModel, given: Any) -> bool:
    """Return whether a link leads to a record that is not stored."""
    return isinstance(given, parent.model._base or parent.model) and not given.is_stored


class _Unsaved(NamedTuple):
    """A record to delegate to that is not stored, with the first row that points at it.

    Attributes:
        record: The record.
        row: The row.
        values: The delegated values for it, of all rows.
    """

    record: Any
    row: ValueRow
    values: dict[str, Any]

    async def create(self, batch: ValueBatch) -> None:
        """Check the record, and store it before the rows."""
        bound = batch.env.app.bind(type(self.record))
        try:
            creation = await creating.prepared_with(
                bound, self.record, self.values, [self.row.loc], _NOTES
            )
        except ValidationError as error:
            batch.add_problems(error.errors())
        else:
            batch.made += creation.make()
            batch.before(creation.run)


async def _write_existing(
    batch: ValueBatch, row: ValueRow, parent: BoundModel, given: Any, values: dict[str, Any]
) -> None:
    record = _stored_parent(parent, given)
    if record is None:
        return  # the relation's own validation raises the error
    try:
        run, _ = await writing.prepared_write([record], values, _NOTES)
    except ValidationError as error:
        row.add_problems(error.errors())
    else:
        batch.before(run)


def _stored_parent(parent: BoundModel, given: Any) -> Any:
    """Return the stored record that a link is given; None if the value leads to none."""
    if isinstance(given, parent.model._base or parent.model):
        return given if given.is_stored else None
    if given is None:
        return None
    try:
        (record,) = parent.model.browse([given])
    except ValueError:
        return None
    return record
