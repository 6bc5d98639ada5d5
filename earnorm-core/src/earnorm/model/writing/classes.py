"""Finds the own class of each record to write, where subclasses have a say in what is written.

A base class writes records of its subclasses too: as ghosts, by their ids, by a domain. The bounds of
a field, the rules and the steps that hold for such a record are those of its own class.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from earnorm.domain import Domain
from earnorm.kernel.operations import made_by
from earnorm.model.reading.by_ids import by_ids
from earnorm.model.reading.hydrate import change_class
from earnorm.model.validation.constraints import declared_rules

if TYPE_CHECKING:
    from earnorm.kernel.binding import BoundModel
    from earnorm.kernel.steps import Stage
    from earnorm.model.base import BaseModel


def deciding(bound: BoundModel, paths: Iterable[str]) -> list[tuple[Domain, BoundModel]]:
    """Return the subclasses that may judge values of these fields otherwise than a model does.

    Args:
        bound: The model.
        paths: Names of fields, and paths into fields.

    Returns:
        Each with the domain of its records and of those of its own subclasses.
    """
    if bound.classes is None:
        return []
    name_of = bound.schema.name_of
    names = {name_of(path.partition(".")[0]) for path in paths if isinstance(path, str)}
    return [
        (domain, member)
        for domain, member in bound.classes.below()
        if _differs(bound, member, names)
    ]


def _differs(bound: BoundModel, member: BoundModel, names: set[str]) -> bool:
    fields, others = bound.schema.fields, member.schema.fields
    if any(fields.get(name) is not others.get(name) for name in names):
        return True
    # What turns the value of a derived field into others is a method, and a rule may call methods and
    # read attributes: a subclass may override them, so these always count.
    if any(fields[name].is_derived for name in names & fields.keys()):
        return True
    if _has_rules(bound, names) or _has_rules(member, names):
        return True
    return _steps(bound, names) != _steps(member, names)


def _has_rules(bound: BoundModel, names: set[str]) -> bool:
    return bound.schema.rules is not None and any(
        "write" in rule.on and (not rule.fields or not names.isdisjoint(rule.fields))
        for rule in declared_rules(bound.model).values()
    )


def _steps(bound: BoundModel, names: set[str]) -> set[tuple[Stage, str]]:
    ways = bound.ways
    return {
        (prepared.step.stage, prepared.step.name)
        for steps in (ways.save, ways.write, ways.each, ways.update, ways.upsert, ways.bulk)
        if steps is not None
        for prepared in (*steps.before, *steps.valid, *steps.plan)
        if prepared.step.names is None or not names.isdisjoint(prepared.step.names)
    }


def parts_of(
    bound: BoundModel, deciders: Sequence[tuple[Domain, BoundModel]]
) -> Iterator[tuple[Domain, BoundModel]]:
    """Yield the model that judges, with the domain of its records, for each part of a model's records.

    Args:
        bound: The model; it judges all records that are of no other part.
        deciders: The subclasses that judge their own records.
    """
    rest = Domain.TRUE
    for domain, member in deciders:
        assert member.classes is not None
        inner = Domain.FALSE
        for below, other in member.classes.below():
            if any(other is decider for _, decider in deciders):
                inner |= below
        yield (domain if inner is Domain.FALSE else domain & ~inner), member
        rest &= ~domain
    yield rest, bound


async def own_classes(
    bound: BoundModel, rows: Sequence[tuple[BaseModel | None, Any]], paths: Iterable[str]
) -> list[BoundModel]:
    """Return the model that judges the write of each record, and give ghosts the class they are of.

    Args:
        bound: The model that writes them.
        rows: Each record with its stored id; None where only the id is known.
        paths: Names of the fields that are written, and paths into fields.
    """
    if not deciding(bound, paths):
        return [_model_of(bound, record) for record, _ in rows]
    unknown = list(dict.fromkeys(pk for record, pk in rows if record is None or _is_ghost(record)))
    model_of_id: dict[Any, type[BaseModel]] = {}
    if unknown:
        assert bound.classes is not None and bound.reading is not None
        fields = frozenset({"_id", *bound.reading.needs})
        documents = await by_ids(bound, "_id", unknown, fields=fields, notes=made_by("model"))
        models = bound.classes.of(documents)
        model_of_id = {d["_id"]: model for d, model in zip(documents, models, strict=True)}
    for record, pk in rows:
        if record is not None and _is_ghost(record) and pk in model_of_id:
            change_class(record, model_of_id[pk])
    bind = bound.app.bind
    return [
        bind(model_of_id[pk]) if record is None and pk in model_of_id else _model_of(bound, record)
        for record, pk in rows
    ]


async def know_classes(records: Sequence[BaseModel], paths: Iterable[str]) -> None:
    """Give each ghost the class that its document names, where that class has a say in the write."""
    ghosts = [record for record in records if _is_ghost(record)]
    by_class: dict[type[BaseModel], list[BaseModel]] = {}
    for ghost in ghosts:
        by_class.setdefault(type(ghost), []).append(ghost)
    paths = list(paths)
    for model, group in by_class.items():
        bound = group[0]._fetch.app.bind(model)
        if bound.classes is not None:
            await own_classes(bound, [(ghost, ghost.pk) for ghost in group], paths)


def _is_ghost(record: BaseModel) -> bool:
    return record.is_stored and record._fetch.is_ghost


def _model_of(bound: BoundModel, record: BaseModel | None) -> BoundModel:
    """Return the model of a record of the same family; the record may be of an older class."""
    if record is None or bound.classes is None:
        return bound
    return bound.app.bind(type(record))
