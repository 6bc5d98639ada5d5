"""Writes the defaults of fields into the documents that lack their keys, batch by batch.

A document is written only if it still lacks the key at that moment, so a value that somebody else
wrote meanwhile stays, and a backfill that was broken off goes on where it stopped.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from earnorm.domain import Domain, condition
from earnorm.exceptions import ConfigurationError, ValidationError, located, nearest
from earnorm.fields.base import Field
from earnorm.kernel.environment import current_env
from earnorm.kernel.left_out import need_feature
from earnorm.kernel.operations import REQUEST, Operation, Options, PerRecord, Update, made_by
from earnorm.kernel.requests import Stream
from earnorm.kernel.steps import WAY, Way

if TYPE_CHECKING:
    from earnorm.kernel.binding import BoundModel
    from earnorm.kernel.environment import Env

NAME: Final = "backfilling"
"""The origin of the operations that the feature makes."""

BATCH: Final = 2_000
"""The number of documents that one command writes."""


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
    """Return the names of the stored fields whose default a document may lack."""
    return [name for name, each in fields.items() if _has_default(each)]


def _has_default(each: Field[Any, Any]) -> bool:
    return each.stored and each.default is not None and not (each.is_derived or each.generated)


async def backfill(
    bound: BoundModel,
    names: Iterable[str],
    *,
    dry_run: bool = False,
    progress: Progress | None = None,
) -> Backfilled:
    """Write defaults into documents that lack them; see ``BaseModel.backfill``."""
    need_feature(NAME, "backfill()", bound.app)
    fields = bound.schema.fields
    known = fields_with_default(fields)
    wanted = list(dict.fromkeys(names)) or known
    for name in wanted:
        if name not in known:
            why = "there is no such field" if name not in fields else "it has no default to store"
            raise ConfigurationError(
                f"backfill of {bound.model._name}.{name}: {why}{nearest(name, known)}"
            )
    env = current_env().replace(
        system=True, reason=f"backfill {bound.model._name}: {', '.join(wanted)}"
    )
    result = Backfilled(bound.model._name)
    for name in wanted:
        result.fields[name] = 0
        await _fill(bound, env, fields[name], result, dry_run=dry_run, progress=progress)
    return result


async def _fill(
    bound: BoundModel,
    env: Env,
    each: Field[Any, Any],
    result: Backfilled,
    *,
    dry_run: bool,
    progress: Progress | None,
) -> None:
    """Write the default of one field."""
    lacks = condition(each.name, "exists", False)
    default = _Default(bound, each)
    stream = Stream(BATCH)
    options = Options(fields=frozenset({"_id"}), order=(("_id", 1),))
    notes = {**made_by(NAME), REQUEST: stream}
    search = Operation("search", bound.model, env, lacks, None, options, notes)
    try:
        while documents := await env.app.execute(search):
            pks = [document["_id"] for document in documents]
            if dry_run:
                result.fields[each.name] += len(pks)
            else:
                result.fields[each.name] += await _write(bound, env, lacks, pks, default)
            if progress is not None:
                awaitable = progress(result)
                if inspect.isawaitable(awaitable):
                    await awaitable
    finally:
        await stream.close()


async def _write(
    bound: BoundModel, env: Env, lacks: Domain, pks: Sequence[Any], default: _Default
) -> int:
    """Write the default to those of the documents that still lack it; return their number."""
    values: Update | PerRecord
    if default.is_constant:
        values = default.update()
    else:
        values = PerRecord({pk: default.update() for pk in pks})
    domain = condition("_id", "in", pks) & lacks
    notes = {**made_by(NAME), WAY: Way.DERIVED}
    written: int = await env.app.execute(
        Operation("write", bound.model, env, domain, values, notes=notes)
    )
    return written


class _Default:
    """The default of a field, as an update.

    A callable is called for each document, because it may give each another value.
    """

    def __init__(self, bound: BoundModel, each: Field[Any, Any]) -> None:
        self._bound, self._field = bound, each
        self.is_constant = not callable(each.default)

    def update(self) -> Update:
        """Return the update that stores the default.

        Raises:
            ValidationError: The field does not accept its own default.
        """
        each = self._field
        try:
            value = self._bound.schema.default_of(each)
        except ValidationError as error:
            details = located(error.errors(), each.name)
            raise ValidationError(self._bound.model._name, details) from None
        return Update({"$set": {each.db_name: each.encode(value)}})
