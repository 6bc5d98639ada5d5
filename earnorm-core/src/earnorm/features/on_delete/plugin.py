"""``on_delete``: what a deletion means for the records that point at what is deleted.

A layer of ``unlink``, so that every way to delete passes it: a record, a RecordSet, a query, a batch.
Where a model is pointed at by a field that says ``on_delete``, its deletions are looked through to the
end first: whatever is restricted stops all of it. Then ids are taken out, then records deleted, those
that point before those that are pointed at. All is one transaction where the backend has them.

What follows from a deletion is done as the system, for a reason that names its origin: who may delete
a customer deletes what hangs on it, and every other layer (an audit, a cache) sees each operation.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from earnorm.domain import condition
from earnorm.domain.long_lists import chunks
from earnorm.exceptions import EarnORMError, ValidationError
from earnorm.fields.reference import Reference
from earnorm.fields.relational import Relation
from earnorm.fields.structured import List
from earnorm.kernel import registry
from earnorm.kernel.hookspecs import API, hookimpl
from earnorm.kernel.layers import Layer, Middleware
from earnorm.kernel.operations import Call, Operation, Options, PerRecord, Update
from earnorm.kernel.transactions import in_transaction_if
from earnorm.kernel.views import ModelView
from earnorm.model.relations.prefetch import relations_of

if TYPE_CHECKING:
    from earnorm.fields.base import Field
    from earnorm.kernel.app import App
    from earnorm.kernel.binding import BoundModel
    from earnorm.kernel.operations import OperationName
    from earnorm.model.base import BaseModel

_ORIGIN: Final = "on_delete"
_ID = frozenset({"_id"})


@dataclass(frozen=True, slots=True)
class Pointer:
    """A field that points at a model and says what a deletion means.

    Attributes:
        bound: The model that has the field.
        path: The field's path.
        field: The field.
        in_list: A list of embedded objects lies on the way.
    """

    bound: BoundModel
    path: str
    field: Relation[Any, Any]
    in_list: bool

    def values(self, model: str, pks: Sequence[Any]) -> list[Any]:
        """What the field holds where it points at these records."""
        if isinstance(self.field, Reference):
            return [{"model": model, "id": pk} for pk in pks]
        return list(pks)

    def __str__(self) -> str:
        return f"{self.bound.model._name}.{self.path}"


class OnDeletePlugin:
    """Carries out what ``on_delete`` says."""

    api = API
    name = "on_delete"

    @staticmethod
    @hookimpl
    def needed_by(model: ModelView) -> str | None:
        """Models with a relation that says what a deletion of its target means."""
        on_delete = (path for path, f in relations_of(model.fields) if f.on_delete is not None)
        return next((f"on_delete of the field {path!r}" for path in on_delete), None)

    def __init__(self) -> None:
        self._pointers: dict[str, list[Pointer]] = {}
        self._any: list[Pointer] = []
        self._version = -1

    @hookimpl
    def wrap_operation(
        self, app: App, model: type[BaseModel], operation: OperationName
    ) -> Iterable[tuple[int, Middleware]]:
        """Deletions of every model: one that points at it may be defined later."""
        if operation == "unlink":
            return [
                # Outside of the audit, so that its entries are part of the transaction.
                (Layer.TRANSACTION, in_transaction_if(self._concerns)),
                (Layer.CONSEQUENCES, self._enforce),
            ]
        return ()

    def pointers(self, app: App, model: type[BaseModel]) -> Sequence[Pointer]:
        """The fields that point at a model and say what its deletion means."""
        if self._version != registry.version():
            self._pointers, self._any = {}, []
            self._version = registry.version()
            for each in app.known_models():
                try:
                    bound = app.bind(each)
                except EarnORMError:
                    continue  # a model that cannot be used here says so when it is used
                for pointer in _pointers_of(bound, bound.schema.fields):
                    for name in pointer.field.names():
                        self._pointers.setdefault(name, []).append(pointer)
                    if not pointer.field.names():
                        self._any.append(pointer)
        named = (p for name in ModelView(model).names for p in self._pointers.get(name, ()))
        return [*named, *self._any]

    def _concerns(self, op: Operation) -> bool:
        # The consequences of what the feature deletes itself are taken care of already.
        return op.origin != _ORIGIN and bool(self.pointers(op.app, op.model))

    async def _enforce(self, op: Operation, call_next: Call) -> Any:
        if not self._concerns(op):
            return await call_next(op)
        env = op.env.replace(system=True, reason=f"on_delete: {op.model._name} is deleted")
        make = partial(op.child, origin=_ORIGIN, env=env)
        limit = 0 if op.options.many else 1
        look = make("search", op.model, op.domain, options=Options(fields=_ID, limit=limit))
        pks = [document["_id"] for document in await op.app.execute(look)]
        if not pks:
            return await call_next(op)
        consequences = await Consequences.of(self, op.app, make, op.model, pks)
        await consequences.carry_out()
        deleted = 0
        for chunk in chunks(pks):
            # Only what was looked at: a record that came in between may be pointed at.
            deleted += await call_next(op.replace(domain=op.domain & condition("_id", "in", chunk)))
        return deleted


def _pointers_of(
    bound: BoundModel,
    fields: Mapping[str, Field[Any, Any]],
    prefix: str = "",
    in_list: bool = False,
) -> Iterator[Pointer]:
    for name, each in fields.items():
        if isinstance(each, Relation):
            if each.on_delete is None:
                continue
            yield Pointer(bound, prefix + name, each, in_list)
        elif each.structure is not None:
            inside = each.structure._schema.fields
            listed = in_list or isinstance(each, List)
            yield from _pointers_of(bound, inside, f"{prefix}{name}.", listed)


@dataclass(eq=False)
class Consequences:
    """Everything that follows from a deletion."""

    app: App
    make: Callable[..., Operation]
    """Makes an operation for the sake of the deletion."""
    doomed: dict[str, dict[Any, None]]
    """Ids that will be deleted, by the model's name."""
    batches: list[tuple[type[BaseModel], list[Any]]] = field(default_factory=list[Any])
    """What is deleted beside the records themselves, what is pointed at before what points."""
    emptied: list[tuple[Pointer, list[Any], list[Any]]] = field(default_factory=list[Any])
    """Fields to empty, in which records, and the values to take out."""

    @classmethod
    async def of(
        cls,
        plugin: OnDeletePlugin,
        app: App,
        make: Callable[..., Operation],
        model: type[BaseModel],
        pks: Sequence[Any],
    ) -> Consequences:
        """Look through all that points at the records, and at what is deleted with them.

        Raises:
            ValidationError: A field restricts the deletion.
        """
        found = cls(app, make, {model._name: dict.fromkeys(pks)})
        restricted: list[tuple[Pointer, list[Any]]] = []
        queue: list[tuple[type[BaseModel], list[Any]]] = [(model, list(pks))]
        for target, ids in queue:
            for pointer in plugin.pointers(app, target):
                values = pointer.values(target._name, ids)
                pointing = await found._pointing(pointer, values)
                if not pointing:
                    continue
                if pointer.field.on_delete == "restrict":
                    restricted.append((pointer, pointing))
                elif pointer.field.on_delete == "set_null":
                    found.emptied.append((pointer, pointing, values))
                else:
                    known = found.doomed.setdefault(pointer.bound.model._name, {})
                    new = [pk for pk in pointing if pk not in known]
                    if new:
                        known.update(dict.fromkeys(new))
                        found.batches.append((pointer.bound.model, new))
                        queue.append((pointer.bound.model, new))
        for pointer, pointing in restricted:
            if found._survivors(pointer, pointing):
                # Neither whose it is nor how many: the acting principal may not see them.
                raise ValidationError(
                    model._name,
                    [{"loc": (), "msg": f"{pointer} still points at it", "type": "restricted"}],
                )
        return found

    def _survivors(self, pointer: Pointer, pks: Iterable[Any]) -> list[Any]:
        doomed = self.doomed.get(pointer.bound.model._name, {})
        return [pk for pk in pks if pk not in doomed]

    async def _pointing(self, pointer: Pointer, values: Sequence[Any]) -> list[Any]:
        found: dict[Any, None] = {}
        for chunk in chunks(values):
            domain = condition(pointer.path, "in", chunk)
            op = self.make("search", pointer.bound.model, domain, options=Options(fields=_ID))
            found.update((document["_id"], None) for document in await self.app.execute(op))
        return list(found)

    async def carry_out(self) -> None:
        """Empty fields, then delete: the last found first, so that nothing points at what is gone."""
        for pointer, pointing, values in self.emptied:
            survivors = self._survivors(pointer, pointing)
            for pks in chunks(survivors):
                await self._empty(pointer, pks, values)
        for model, pks in reversed(self.batches):
            for chunk in chunks(pks):
                await self.app.execute(self.make("unlink", model, condition("_id", "in", chunk)))

    async def _empty(self, pointer: Pointer, pks: Sequence[Any], values: Sequence[Any]) -> None:
        bound = pointer.bound
        domain = condition("_id", "in", pks)
        op = self.make("write", bound.model, domain)
        path = bound.schema.path_of(pointer.path)
        if pointer.in_list:
            await self._empty_in_lists(op, path, pointer, values)
        elif pointer.field.to_many:
            for chunk in chunks(values):
                update = Update({"$pull": {path: {"$in": list(chunk)}}})
                await self.app.execute(op.replace(values=update))
        else:
            # It may point elsewhere by now.
            for chunk in chunks(values):
                still = domain & condition(pointer.path, "in", chunk)
                update = Update({"$set": {path: None}})
                await self.app.execute(op.replace(domain=still, values=update))

    async def _empty_in_lists(
        self, op: Operation, path: str, pointer: Pointer, values: Sequence[Any]
    ) -> None:
        """The elements that point there, and no others: read, changed, and written where unchanged."""
        root, _, rest = path.partition(".")
        name = pointer.path.partition(".")[0]
        options = Options(fields=frozenset({"_id", name}))
        look = op.replace(name="search", options=options)
        updates = PerRecord()
        gone = frozenset(map(_key, values))
        for document in await self.app.execute(look):
            new = _without(document.get(root), rest.split("."), gone)
            updates[document["_id"]] = Update({"$set": {root: new}}, {root: document.get(root)})
        await self.app.execute(op.replace(values=updates))


def _key(value: Any) -> Hashable:
    """What two ids, or two values of a ``Reference``, have in common exactly where they are equal."""
    if isinstance(value, dict):
        return frozenset((name, _key(each)) for name, each in value.items())
    if isinstance(value, Hashable):
        return value
    return repr(value)  # no id of a record


def _without(value: Any, path: Sequence[str], gone: AbstractSet[Hashable]) -> Any:
    """A copy of a stored value in which what lies at the path no longer points at these (their keys)."""
    if isinstance(value, list) and path:
        return [_without(item, path, gone) for item in value]
    if isinstance(value, dict) and path:
        name, *rest = path
        return {k: _without(v, rest, gone) if k == name else v for k, v in value.items()}
    if path:
        return value
    if isinstance(value, list):
        return [item for item in value if _key(item) not in gone]
    return None if _key(value) in gone else value
