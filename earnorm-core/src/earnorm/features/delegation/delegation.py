"""Delegation: ``_inherits = {"partner": "partner_id"}`` gives a model the fields of the record that it points at.

A delegated field is a related one (``related="partner_id.name"``), so it is read through the loaded relation and
searched by a dotted path. What stands here makes these fields, and splits what is created and written: each part goes
to its own record, all in one transaction where there is one. Deleting the record leaves the other one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from bson import ObjectId

from earnorm.exceptions import ErrorDetail, ValidationError, located
from earnorm.fields.identifiers import ObjectIdField
from earnorm.kernel.transactions import atomic
from earnorm.model.relations.ghosts import target_of
from earnorm.model.writing import creating
from earnorm.model.writing import records as writing
from earnorm.model.writing.objectids import object_ids

if TYPE_CHECKING:
    from earnorm.kernel.binding import BoundModel
    from earnorm.model.base import BaseModel

Values = Mapping[str, Any]


def is_split(model: type[BaseModel], values: Values) -> bool:
    """Whether some of the values belong to another record."""
    fields = model._schema.fields
    return any(name in fields and fields[name].delegated for name in values)


def _split(bound: BoundModel, values: Values) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """The record's own values, and those of each relation."""
    fields, own = bound.schema.fields, dict[str, Any]()
    others: dict[str, dict[str, Any]] = {}
    for name, value in values.items():
        link = fields[name].delegated if name in fields else ""
        if link:
            others.setdefault(link, {})[name] = value
        else:
            own[name] = value
    return own, others


async def create(bound: BoundModel, values: Sequence[Any]) -> list[Any]:
    """Create records together with those that they delegate to; see ``creating.create``.

    A record whose relation is given gets no new one: the values are written to the one that is there.
    """
    own: list[Any] = []
    new: dict[str, list[tuple[int, dict[str, Any]]]] = {}
    existing: list[tuple[Any, dict[str, Any], BoundModel]] = []
    for position, value in enumerate(values):
        if not isinstance(value, Mapping):
            own.append(value)
            continue
        mine, others = _split(bound, value)
        own.append(mine)
        for link in bound.model._inherits.values():
            theirs = others.get(link, {})
            if mine.get(link) is None:
                new.setdefault(link, []).append((position, theirs))
            elif theirs:
                existing.append(
                    (mine[link], theirs, target_of(bound.app, bound.schema.fields[link]))
                )
    parents = {link: target_of(bound.app, bound.schema.fields[link]) for link in new}
    await _check(bound, own, new, parents)

    async def run() -> list[Any]:
        for link, each in new.items():
            made = await creating.create(parents[link], [theirs for _, theirs in each])
            for (position, _), parent in zip(each, made, strict=True):
                own[position][link] = parent
        for pk, theirs, parent_bound in existing:
            model = parent_bound.model
            record = (
                pk if isinstance(pk, parent_bound.model._base or model) else model.browse([pk])[0]
            )
            await writing.write([record], theirs)
        return await creating.create_own(bound, own)

    return await atomic(run)


async def _check(
    bound: BoundModel,
    own: Sequence[Any],
    new: Mapping[str, Sequence[tuple[int, dict[str, Any]]]],
    parents: Mapping[str, BoundModel],
) -> None:
    """Hold all of them to their rules before anything is written, with the positions of the batch.

    Raises:
        ValidationError: With every problem found.
    """
    many = len(own) > 1
    problems: list[ErrorDetail] = []
    probes = [dict(each) if isinstance(each, Mapping) else each for each in own]
    is_complete = True
    for link, each in new.items():
        if not isinstance(parents[link].schema.fields["_id"], ObjectIdField):
            is_complete = False  # their ids are not known yet, so the others cannot be checked
        ids: list[ObjectId] = object_ids(len(each))
        for (position, theirs), oid in zip(each, ids, strict=True):
            probes[position][link] = oid
            try:
                if not parents[link].model._inherits:
                    await creating.checked_documents(parents[link], [theirs])
            except ValidationError as error:
                problems += located(error.errors(), position) if many else error.errors()
    if is_complete and not bound.schema.to_many:
        try:
            await creating.checked_documents(bound, probes)
        except ValidationError as error:
            problems += error.errors()
    if problems:
        raise ValidationError(bound.model._name, problems)


async def write(records: Sequence[BaseModel], values: Values) -> int:
    """Write to records and to those that they delegate to; see ``writing.write``."""
    bound = records[0]._fetch.app.bind(type(records[0]))
    own, others = _split(bound, values)
    writing.planned(bound, own)  # what is refused is refused before anything is written
    targets: list[tuple[list[Any], dict[str, Any]]] = []
    for link, theirs in others.items():
        parent = target_of(bound.app, bound.schema.fields[link])
        if not is_split(parent.model, theirs):
            writing.planned(parent, theirs)
        found = {p.pk: p for record in records if (p := getattr(record, link)) is not None}
        missing = [n for n, record in enumerate(records) if getattr(record, link) is None]
        if missing:
            message = f"belongs to {link}, which is not set"
            raise ValidationError(
                bound.model._name,
                [{"loc": (next(iter(theirs)),), "msg": message, "type": "missing"}],
            )
        targets.append((list(found.values()), theirs))

    async def run() -> int:
        for parents, theirs in targets:
            await writing.write(parents, theirs)
        return await writing.write(records, own) if own else len(records)

    return await atomic(run)
