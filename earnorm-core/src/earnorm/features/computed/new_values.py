"""Computes the values of stored fields: of documents that are about to be created, of loaded records.

``recomputing`` finds the records whose values have to be computed again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from itertools import repeat
from typing import TYPE_CHECKING, Any

import pydantic

from earnorm.exceptions import (
    ConfigurationError,
    EarnORMError,
    ErrorDetail,
    FieldNotLoaded,
    ValidationError,
)
from earnorm.features.computed.dependencies import Node, Plan
from earnorm.features.computed.existing import hide_gone
from earnorm.features.computed.levels import Levels
from earnorm.kernel.document_steps import DocumentBatch
from earnorm.kernel.environment import Env, use_env
from earnorm.kernel.pauses import parts, pause
from earnorm.model.reading.fetch import Fetch
from earnorm.model.recordset import RecordSet
from earnorm.model.relations.ghosts import target_of
from earnorm.model.relations.prefetch import prefetch
from earnorm.model.slots import Pending, set_fetch, set_state

if TYPE_CHECKING:
    from earnorm.kernel.binding import BoundModel


class NewValues:
    """Computes the stored fields of documents that are about to be created.

    Args:
        bound: The model of the documents.
        plan: The computation of all its stored fields.
    """

    def __init__(self, bound: BoundModel, plan: Plan) -> None:
        self._bound, self._plan = bound, plan
        # Records without relations load nothing together, so one Fetch is enough for all of them.
        self._fetch = None if bound.schema.relations else Fetch(bound.app, plan.loaded)
        # No record points at a record that does not exist yet, so these relations are empty.
        self._empty = [
            (relation.name, target_of(bound.app, relation).model)
            for relation in bound.schema.to_many
            if not relation.stored
        ]

    @property
    def waits(self) -> bool:
        """True if the computation has to await something: related records, or a coroutine."""
        return bool(self._plan.tree) or self._plan.is_async

    def fill(self, batch: DocumentBatch) -> None:
        """Compute the fields of a batch, without awaiting anything."""
        documents, plan = batch.documents, self._plan
        records = self._records(documents)
        with use_env(plan.system(batch.op.env)):
            self._put(batch, documents, map(_value_of_one, records, repeat(plan)))

    async def wait(self, batch: DocumentBatch) -> None:
        """Compute the fields of a batch, and await related records and coroutines."""
        documents, plan = batch.documents, self._plan
        if plan.recursion and len(documents) > 1:
            await self._wait_by_level(batch, documents)
            return
        records: list[Any] = []
        fetch = self._fetch or Fetch(self._bound.app, plan.loaded, records)
        for part in parts(documents):
            records += self._records(part, fetch)
            if part is not documents:
                await pause()
        with use_env(plan.system(batch.op.env)):
            computed = await values_of(self._bound, plan, records)
        for part, values in zip(parts(documents), parts(computed), strict=True):
            self._put(batch, part, values)
            if part is not documents:
                await pause()

    async def _wait_by_level(self, batch: DocumentBatch, documents: list[dict[str, Any]]) -> None:
        """Compute new records that point at each other, the ones pointed at first."""
        plan, levels = self._plan, Levels(self._bound, self._plan.recursion)
        by_id = {document["_id"]: document for document in documents}
        for document in documents:
            levels.learn(document)
        others: Sequence[Any] = list(by_id)
        made: dict[Any, Any] = {}
        while others:
            ready, others = levels.split(dict.fromkeys(others))
            of_level = [by_id[pk] for pk in ready]
            records = self._records(of_level)
            for record in records:
                for name in levels.single:
                    record.__dict__[name] = made.get(value := record.__dict__.get(name), value)
            with use_env(plan.system(batch.op.env)):
                self._put(batch, of_level, await values_of(self._bound, plan, records))
            made.update(zip(ready, records, strict=True))

    def _records(
        self, documents: Iterable[dict[str, Any]], fetch: Fetch | None = None
    ) -> list[Any]:
        states = self._bound.schema.states(list(map(dict, documents)))
        records = _records(self._bound, states, self._plan, fetch or self._fetch)
        for name, model in self._empty:
            for record in records:
                record.__dict__[name] = RecordSet(model, [])
        return records

    def _put(
        self,
        batch: DocumentBatch,
        documents: Iterable[dict[str, Any]],
        computed: Iterable[dict[str, Any]],
    ) -> None:
        fields, back = batch.fields, batch.back
        for document, values in zip(documents, computed, strict=True):
            for name, value in values.items():
                document[fields[name].db_name] = value
            if back is not None:
                back.give(document["_id"], values)


async def computed_of_values(
    bound: BoundModel, plan: Plan, given: Sequence[Mapping[str, Any]], env: Env
) -> list[dict[str, Any]]:
    """Compute the plan's fields of each record from stored values, which are all that they need."""
    states: list[dict[str, Any]] = []
    for part in parts(given):
        states += [dict(bound.schema.state(dict(values))) for values in part]
        if part is not given:
            await pause()
    with use_env(plan.system(env)):
        return await values_of(bound, plan, _records(bound, states, plan))


async def computed_of_documents(
    bound: BoundModel, plan: Plan, documents: Sequence[dict[str, Any]], env: Env
) -> list[dict[str, Any]]:
    """Compute the plan's fields of stored documents, which have all the keys that they need."""
    states = [dict(state) for state in bound.schema.states(list(map(dict, documents)))]
    with use_env(plan.system(env)):
        return await values_of(bound, plan, _records(bound, states, plan))


def _records(
    bound: BoundModel, states: list[dict[str, Any]], plan: Plan, fetch: Fetch | None = None
) -> list[Any]:
    records: list[Any] = list(map(object.__new__, repeat(bound.model, len(states))))
    loaded = plan.loaded
    if fetch is None:
        fetch = Fetch(bound.app, loaded, list(records))
    if loaded is not None:
        for state in states:
            for name in state.keys() - loaded:
                del state[name]
    deque(map(set_state, records, states), maxlen=0)
    deque(map(set_fetch, records, repeat(fetch)), maxlen=0)
    return records


async def values_of(bound: BoundModel, plan: Plan, records: Sequence[Any]) -> list[dict[str, Any]]:
    """Compute the plan's fields of each record, in stored form."""
    if plan.tree:
        await prefetch(bound, records, plan.tree)
        for part in parts(records):
            hide_gone(bound.schema, part, plan.tree)
            if part is not records:
                await pause()
    values: list[dict[str, Any]] = []
    for part in parts(records):
        for record in part:
            values.append(
                await _values_of_async(record, plan)
                if plan.is_async
                else _value_of_one(record, plan)
            )
        if part is not records:
            await pause()
    return values


def _value_of_one(record: Any, plan: Plan) -> dict[str, Any]:
    values: dict[str, Any] = {}
    state = record.__dict__
    for name in plan.names:
        state.pop(name, None)
    for node in plan.nodes:
        try:
            value = node.formula.value(record)
        except Exception as error:
            raise _error_of(node, error) from _cause(error)
        name = node.key[1]
        state[name] = values[name] = _stored_form(node, record, value)
    return values


async def _values_of_async(record: Any, plan: Plan) -> dict[str, Any]:
    values: dict[str, Any] = {}
    state = record.__dict__
    for name in plan.names:
        state.pop(name, None)
    for node in plan.nodes:
        try:
            value = node.formula.value(record)
            if node.formula.is_async:
                value = await value
        except Exception as error:
            raise _error_of(node, error) from _cause(error)
        name = node.key[1]
        state[name] = values[name] = _stored_form(node, record, value)
    return values


def _error_of(node: Node, error: Exception) -> EarnORMError:
    model, name = node.key
    method = node.formula.method
    if isinstance(error, FieldNotLoaded):
        return ConfigurationError(
            f"{model}.{name}: {method}() reads what its @depends does not name: {error}"
        )
    # The error's text is left out: it may show values that the acting principal must not see.
    message = f"{method}() could not compute it: {type(error).__name__}"
    return ValidationError(model, [{"loc": (name,), "msg": message, "type": "compute"}])


def _cause(error: Exception) -> Exception | None:
    return None if isinstance(error, FieldNotLoaded) else error


def _stored_form(node: Node, record: Any, value: Any) -> Any:
    """Validate a computed value by the field's type, and return its stored form."""
    formula = node.formula
    pending: Pending | None = getattr(record, "_pending", None)
    if pending is not None and pending.changes:
        raise TypeError(
            f"{node.key[0]}.{formula.method}: a compute method returns the value and changes nothing"
        )
    field = formula.field
    try:
        value = node.validated(value)
    except pydantic.ValidationError as error:
        details: list[ErrorDetail] = [
            {"loc": (field.name, *p["loc"]), "msg": p["msg"], "type": "compute"}
            for p in error.errors(include_url=False, include_input=False, include_context=False)
        ]
        raise ValidationError(field.model_name, details) from None
    if value is None and field.required:
        message = f"{formula.method or 'its path'} gave None, and a value is required"
        detail: ErrorDetail = {"loc": (node.key[1],), "msg": message, "type": "compute"}
        raise ValidationError(node.key[0], [detail])
    return field.encode(value)
