"""``on_delete``: a deletion restricts, empties or deletes the records that point at deleted ones.

It is a layer of ``unlink``, so that it sees every deletion: of a record, a RecordSet, a query, a
batch. If a field with ``on_delete`` points at a model, the layer first collects all consequences of
a deletion; one restricted record stops the whole deletion. Then the layer empties fields, and then
it deletes records, each one before the records that it points at. All this is one transaction if
the backend has them.

The system carries out the consequences, for a reason that names the deleted model: a principal that
may delete a customer also deletes the records that depend on it. Every other layer (an audit, a
cache) sees each operation.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from earnorm.domain import condition
from earnorm.domain.long_lists import chunks
from earnorm.exceptions import EarnORMError, ValidationError
from earnorm.fields.places import places
from earnorm.fields.reference import Reference
from earnorm.fields.relational import Relation
from earnorm.kernel import pauses, registry
from earnorm.kernel.hookspecs import API, hookimpl
from earnorm.kernel.layers import Layer, Middleware
from earnorm.kernel.operations import Call, Operation, Options, PerRecord, Update
from earnorm.kernel.pauses import pause
from earnorm.kernel.transactions.layer import in_transaction_if
from earnorm.kernel.views import ModelView

if TYPE_CHECKING:
    from earnorm.domain import Domain
    from earnorm.kernel.app import App
    from earnorm.kernel.binding import BoundModel
    from earnorm.kernel.operations import OperationName
    from earnorm.model.base import BaseModel

_ORIGIN: Final = "on_delete"
_ID = frozenset({"_id"})


class Pointer(NamedTuple):
    """A field with ``on_delete`` that points at a model.

    Attributes:
        bound: The model that has the field.
        path: The field's path.
        field: The field.
        in_list: True if the path leads through a list of embedded objects.
        many: True if the value at the path is a list of links.
    """

    bound: BoundModel
    path: str
    field: Relation[Any, Any]
    in_list: bool
    many: bool

    def values(self, model: str, pks: Sequence[Any]) -> list[Any]:
        """Return the values of the field that point at these records."""
        if isinstance(self.field, Reference):
            return [{"model": model, "id": pk} for pk in pks]
        return list(pks)

    def __str__(self) -> str:
        return f"{self.bound.model._name}.{self.path}"


class OnDeletePlugin:
    """Carries out the ``on_delete`` of fields."""

    api = API
    name = "on_delete"

    @staticmethod
    @hookimpl
    def needed_by(model: ModelView) -> str | None:
        """Return the model's first relation with ``on_delete``."""
        with_option = (
            place.path
            for place in places(model.fields.values())
            if getattr(place.field, "on_delete", None) is not None
        )
        return next((f"on_delete of the field {path!r}" for path in with_option), None)

    def __init__(self) -> None:
        self._pointers: dict[str, list[Pointer]] = {}
        self._to_any_model: list[Pointer] = []
        self._version = -1

    @hookimpl
    def wrap_operation(
        self, app: App, model: type[BaseModel], operation: OperationName
    ) -> Iterable[tuple[int, Middleware]]:
        """Return the layers for every model: a model that points at it may be defined later."""
        if operation == "unlink":
            return [
                # The transaction lies outside the audit, so that it contains the audit's entries.
                (Layer.TRANSACTION, in_transaction_if(self._has_consequences)),
                (Layer.CONSEQUENCES, self._enforce),
            ]
        return ()

    @hookimpl
    def model_forgotten(self) -> None:
        """Drop the fields, which hold their models; the next deletion collects them anew."""
        self._pointers, self._to_any_model, self._version = {}, [], -1

    def pointers(self, app: App, model: type[BaseModel]) -> Sequence[Pointer]:
        """Return the fields with ``on_delete`` that point at a model."""
        if self._version != registry.version():
            self._pointers, self._to_any_model = {}, []
            self._version = registry.version()
            for model_class in app.known_models():
                try:
                    bound = app.bind(model_class)
                except EarnORMError:
                    continue  # a model that this App cannot use raises the error when it is used
                for pointer in _pointers_of(bound):
                    for name in pointer.field.names():
                        self._pointers.setdefault(name, []).append(pointer)
                    if not pointer.field.names():
                        self._to_any_model.append(pointer)
        named = (p for name in ModelView(model).names for p in self._pointers.get(name, ()))
        return [*named, *self._to_any_model]

    def _has_consequences(self, op: Operation) -> bool:
        # The consequences of a deletion that the feature makes itself are collected already.
        return op.origin != _ORIGIN and bool(self.pointers(op.app, op.model))

    async def _enforce(self, op: Operation, call_next: Call) -> Any:
        if not self._has_consequences(op):
            return await call_next(op)
        env = op.env.as_system(f"on_delete: {op.model._name} is deleted")
        make = partial(op.child, origin=_ORIGIN, env=env)
        limit = 0 if op.options.many else 1
        search = make("search", op.model, op.domain, options=Options(fields=_ID, limit=limit))
        pks = [document["_id"] for document in await op.app.execute(search)]
        if not pks:
            return await call_next(op)
        consequences = await Consequences.of(self, op.app, make, op.model, pks)
        await consequences.carry_out()
        deleted = 0
        for chunk in chunks(pks):
            # Delete only the records that were checked: others may point at one that was added
            # since.
            deleted += await call_next(op.replace(domain=op.domain & condition("_id", "in", chunk)))
        return deleted


def _pointers_of(bound: BoundModel) -> Iterator[Pointer]:
    for place in places(bound.schema.fields.values()):
        field = place.field
        if isinstance(field, Relation) and field.on_delete is not None:
            # A list's items have the path of the list, which is no list on the way to it.
            in_list = place.lists > (1 if place.is_item else 0)
            yield Pointer(bound, place.path, field, in_list, field.to_many or place.is_item)


@dataclass(eq=False)
class Consequences:
    """All changes that follow from a deletion."""

    app: App
    make: Callable[..., Operation]
    """Makes an operation that is part of the deletion."""
    doomed: dict[str, dict[Any, None]]
    """The ids that will be deleted, by the model's name."""
    batches: list[tuple[type[BaseModel], list[Any]]] = field(default_factory=list[Any])
    """The other records to delete; each one stands after the records that it points at."""
    emptied: list[tuple[Pointer, list[Any], list[Any]]] = field(default_factory=list[Any])
    """The fields to empty, each with the ids of its records and the values to remove."""

    @classmethod
    async def of(
        cls,
        plugin: OnDeletePlugin,
        app: App,
        make: Callable[..., Operation],
        model: type[BaseModel],
        pks: Sequence[Any],
    ) -> Consequences:
        """Collect the records that point at the deleted ones, and at those deleted with them.

        Raises:
            ValidationError: A field restricts the deletion.
        """
        consequences = cls(app, make, {model._name: dict.fromkeys(pks)})
        restricted: list[tuple[Pointer, list[Any]]] = []
        queue: list[tuple[type[BaseModel], list[Any]]] = [(model, list(pks))]
        for target, ids in queue:
            for pointer in plugin.pointers(app, target):
                values = pointer.values(target._name, ids)
                pointing = await consequences._find_pointing(pointer, values)
                if not pointing:
                    continue
                if len(pointing) > pauses.EVERY:
                    await pause()
                if pointer.field.on_delete == "restrict":
                    restricted.append((pointer, pointing))
                elif pointer.field.on_delete == "set_null":
                    consequences.emptied.append((pointer, pointing, values))
                else:
                    known = consequences.doomed.setdefault(pointer.bound.model._name, {})
                    new = [pk for pk in pointing if pk not in known]
                    if new:
                        known.update(dict.fromkeys(new))
                        consequences.batches.append((pointer.bound.model, new))
                        queue.append((pointer.bound.model, new))
        for pointer, pointing in restricted:
            if consequences._kept(pointer, pointing):
                # The message gives no ids and no number: the acting principal may not see the
                # records.
                raise ValidationError(
                    model._name,
                    [{"loc": (), "msg": f"{pointer} still points at it", "type": "restricted"}],
                )
        return consequences

    def _kept(self, pointer: Pointer, pks: Iterable[Any]) -> list[Any]:
        doomed = self.doomed.get(pointer.bound.model._name, {})
        return [pk for pk in pks if pk not in doomed]

    async def _find_pointing(self, pointer: Pointer, values: Sequence[Any]) -> list[Any]:
        pks: dict[Any, None] = {}
        for chunk in chunks(values):
            domain = condition(pointer.path, "in", chunk)
            op = self.make("search", pointer.bound.model, domain, options=Options(fields=_ID))
            pks.update((document["_id"], None) for document in await self.app.execute(op))
            if len(pks) > pauses.EVERY:
                await pause()
        return list(pks)

    async def carry_out(self) -> None:
        """Empty fields, then delete the batches, last one first, so that no reference breaks."""
        for pointer, pointing, values in self.emptied:
            survivors = self._kept(pointer, pointing)
            for pks in chunks(survivors):
                await self._empty(pointer, pks, values)
        for model, pks in reversed(self.batches):
            for chunk in chunks(pks):
                await self.app.execute(self.make("unlink", model, condition("_id", "in", chunk)))

    async def _empty(self, pointer: Pointer, pks: Sequence[Any], values: Sequence[Any]) -> None:
        bound = pointer.bound
        domain = condition("_id", "in", pks)
        path = bound.schema.path_of(pointer.path)
        if pointer.in_list:
            await self._empty_in_lists(pointer, path, domain, values)
        else:
            # The record may point at another one by now, so the condition checks the old value.
            for chunk in chunks(values):
                pointing = domain & condition(pointer.path, "in", chunk)
                pull = {"$pull": {path: {"$in": list(chunk)}}}
                update = Update(pull if pointer.many else {"$set": {path: None}})
                await self.app.execute(self.make("write", bound.model, pointing, update))

    async def _empty_in_lists(
        self, pointer: Pointer, path: str, domain: Domain, values: Sequence[Any]
    ) -> None:
        """Read lists of embedded objects, remove the values, and write the lists if unchanged."""
        root, _, rest = path.partition(".")
        name = pointer.path.partition(".")[0]
        options = Options(fields=frozenset({"_id", name}))
        model = pointer.bound.model
        search = self.make("search", model, domain, options=options)
        updates = PerRecord()
        gone = frozenset(map(_key, values))
        for document in await self.app.execute(search):
            new = _without_references(document.get(root), rest.split("."), gone)
            updates[document["_id"]] = Update({"$set": {root: new}}, {root: document.get(root)})
        await self.app.execute(self.make("write", model, domain, updates))


def _key(value: Any) -> Hashable:
    """Return a hashable key that is equal for equal ids, or equal values of a ``Reference``."""
    if isinstance(value, dict):
        return frozenset((name, _key(part)) for name, part in value.items())
    if isinstance(value, Hashable):
        return value
    return repr(value)  # such a value is no record's id


def _without_references(value: Any, path: Sequence[str], gone: AbstractSet[Hashable]) -> Any:
    """Copy a stored value without the references at a path whose keys are in ``gone``."""
    if isinstance(value, list) and path:
        return [_without_references(item, path, gone) for item in value]
    if isinstance(value, dict) and path:
        name, *rest = path
        return {k: _without_references(v, rest, gone) if k == name else v for k, v in value.items()}
    if path:
        return value
    if isinstance(value, list):
        return [item for item in value if _key(item) not in gone]
    return None if _key(value) in gone else value
