"""Writes the defaults of fields into the documents that lack their keys, batch by batch.

A document is written only if it still lacks the key at that moment, so a value that somebody else
wrote meanwhile stays, and a backfill that was broken off goes on where it stopped.
"""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from earnorm.domain import Domain, condition
from earnorm.exceptions import (
    ConfigurationError,
    EarnORMError,
    ValidationError,
    located,
    nearest,
)
from earnorm.features.backfilling.inside import InsideOf, has_default, inside_of
from earnorm.fields.base import Field
from earnorm.kernel.contract.left_out import need_feature
from earnorm.kernel.environment import current_env
from earnorm.kernel.operations import REQUEST, Operation, Options, PerRecord, Update, made_by
from earnorm.kernel.serving.requests import Stream
from earnorm.kernel.steps import WAY, Way
from earnorm.model.reading.by_ids import by_ids
from earnorm.model.reading.ordering import texts

if TYPE_CHECKING:
    from earnorm.kernel.binding import BoundModel
    from earnorm.kernel.environment import Env

NAME: Final = "backfilling"
"""The origin of the operations that the feature makes."""

BATCH: Final = 2_000
"""The number of documents that one command writes."""

_TRIES: Final = 5
"""The most times that a value which somebody else keeps changing is filled in again; the next
backfill goes on with it."""


@dataclass(slots=True)
class Backfilled:
    """The result of a backfill.

    Attributes:
        model: The model's name.
        fields: The number of documents that got the default, by field. In a dry run, the number of
            those that lack it.
    """

    model: str
    fields: dict[str, int] = field(default_factory=dict[str, int])

    @property
    def written(self) -> int:
        """The number of values written, of all fields."""
        return sum(self.fields.values())


Progress: TypeAlias = Callable[[Backfilled], Awaitable[None] | None]


def fields_with_default(fields: Mapping[str, Field[Any, Any]]) -> list[str]:
    """Return the names of the stored fields whose default a document may lack.

    A field inside embedded objects is named by its path. Fields that features add for themselves
    (``_revision``) are left out: for them, a key that is missing has a meaning of its own.
    """
    names = [n for n, field in fields.items() if has_default(field) and not n.startswith("_")]
    for inside in _inside(fields):
        names += sorted(inside.paths)
    return names


def _inside(fields: Mapping[str, Field[Any, Any]]) -> list[InsideOf]:
    return [inside for field in fields.values() if field.stored and (inside := inside_of(field))]


async def backfill(
    bound: BoundModel,
    names: Iterable[str],
    *,
    dry_run: bool = False,
    progress: Progress | None = None,
) -> Backfilled:
    """Write defaults into documents that lack them; see ``BaseModel.backfill``."""
    need_feature(NAME, "backfill()", bound.app)
    env = current_env()
    bound.need_system(env, "backfill")
    fields = bound.schema.fields
    known = fields_with_default(fields)
    below = {inside.root.name: sorted(inside.paths) for inside in _inside(fields)}
    names = texts("backfill", names, 'names: backfill("state", "lines.qty")')
    wanted = [path for name in names for path in (name, *below.get(name, ()))] or known
    wanted = [name for name in dict.fromkeys(wanted) if name in known or name not in below]
    for name in wanted:
        if name not in known:
            is_field = name in fields or _is_inside(bound, name)
            why = "it has no default to store" if is_field else "there is no such field"
            raise ConfigurationError(
                f"backfill of {bound.model._name}.{name}: {why}{nearest(name, known)}"
            )
    env = env.as_system(f"backfill {bound.model._name}: {', '.join(wanted)}")
    result = Backfilled(bound.model._name)
    for name in wanted:
        result.fields[name] = 0
        if name in fields:
            await _fill(bound, env, fields[name], result, dry_run=dry_run, progress=progress)
    for inside in _inside(fields):
        mine = inside.only(wanted)
        if mine.paths:
            await _fill_inside(bound, env, mine, result, dry_run=dry_run, progress=progress)
    return result


def _is_inside(bound: BoundModel, path: str) -> bool:
    try:
        bound.schema.resolve(path)
    except EarnORMError:
        return False
    return True


async def _fill(
    bound: BoundModel,
    env: Env,
    field: Field[Any, Any],
    result: Backfilled,
    *,
    dry_run: bool,
    progress: Progress | None,
) -> None:
    """Write the default of one field."""
    lacks = condition(field.name, "exists", False)
    default = _Default(bound, field)
    async for documents in _batches(bound, env, lacks, frozenset({"_id"})):
        pks = [document["_id"] for document in documents]
        if dry_run:
            result.fields[field.name] += len(pks)
        else:
            result.fields[field.name] += await _write(bound, env, lacks, pks, default)
        await _tell(progress, result)


async def _batches(
    bound: BoundModel, env: Env, domain: Domain, names: frozenset[str]
) -> AsyncIterator[list[dict[str, Any]]]:
    """Yield the documents that match, with these fields."""
    stream = Stream(BATCH)
    options = Options(fields=names, order=(("_id", 1),))
    notes = {**made_by(NAME), REQUEST: stream}
    search = Operation("search", bound.model, env, domain, None, options, notes)
    try:
        while documents := await env.app.execute(search):
            yield documents
    finally:
        await stream.close()


async def _tell(progress: Progress | None, result: Backfilled) -> None:
    if progress is not None:
        awaitable = progress(result)
        if inspect.isawaitable(awaitable):
            await awaitable


async def _fill_inside(
    bound: BoundModel,
    env: Env,
    inside: InsideOf,
    result: Backfilled,
    *,
    dry_run: bool,
    progress: Progress | None,
) -> None:
    """Write the defaults inside one field, each value whole and only if it is still as it was read."""
    key, names = inside.root.db_name, frozenset({"_id", inside.root.name})
    async for documents in _batches(bound, env, inside.lacking, names):
        paths: list[str] = []
        for _ in range(_TRIES):
            changes: dict[Any, Update] = {}
            paths = []
            for document in documents:
                value, missing = inside.filled(document.get(key))
                if missing:
                    paths += missing
                    changes[document["_id"]] = Update({"$set": {key: value}}, {key: document[key]})
            if dry_run or not changes:
                break
            pks = list(changes)
            written = await _execute(bound, env, condition("_id", "in", pks), PerRecord(changes))
            if written == len(changes):
                break
            # Somebody else has written some of them meanwhile, so these are read again.
            paths_before = Counter(paths)
            documents = await by_ids(bound, "_id", pks, env=env, fields=names, notes=made_by(NAME))
            left = [path for document in documents for path in inside.filled(document.get(key))[1]]
            for path, number in (paths_before - Counter(left)).items():
                result.fields[path] += number
            paths = []
        for path in paths:
            result.fields[path] += 1
        await _tell(progress, result)


async def _write(
    bound: BoundModel, env: Env, lacks: Domain, pks: Sequence[Any], default: _Default
) -> int:
    """Write the default to those of the documents that still lack it; return their number."""
    values: Update | PerRecord
    if default.is_constant:
        values = default.update()
    else:
        values = PerRecord({pk: default.update() for pk in pks})
    return await _execute(bound, env, condition("_id", "in", pks) & lacks, values)


async def _execute(bound: BoundModel, env: Env, domain: Domain, values: Update | PerRecord) -> int:
    notes = {**made_by(NAME), WAY: Way.DERIVED}
    written: int = await env.app.execute(
        Operation("write", bound.model, env, domain, values, notes=notes)
    )
    return written


class _Default:
    """The default of a field, as an update.

    A callable is called for each document, because it may give each another value.
    """

    def __init__(self, bound: BoundModel, field: Field[Any, Any]) -> None:
        self._bound, self._field = bound, field
        self.is_constant = not callable(field.default)

    def update(self) -> Update:
        """Return the update that stores the default.

        Raises:
            ValidationError: The field does not accept its own default.
        """
        field = self._field
        try:
            value = self._bound.schema.default_of(field)
        except ValidationError as error:
            details = located(error.errors(), field.name)
            raise ValidationError(self._bound.model._name, details) from None
        return Update({"$set": {field.db_name: field.encode(value)}})
