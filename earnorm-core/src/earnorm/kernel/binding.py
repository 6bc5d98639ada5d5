"""One model in one App: its class with the extensions, its collection, its composed layers."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from earnorm.backends.base import BulkDelete, BulkInsert, BulkUpdate, Collection
from earnorm.backends.refusals import KIND as INVALID_DOCUMENT
from earnorm.concerns import Concerns
from earnorm.domain import Condition, Domain, Operator, Schema, to_filter
from earnorm.domain.ids import split_ids
from earnorm.exceptions import (
    AccessDenied,
    BatchDuplicateKey,
    BatchRefused,
    DuplicateKey,
    ErrorDetail,
    LongList,
    TransactionError,
    ValidationError,
)
from earnorm.kernel import parts, searches
from earnorm.kernel.checked_layers import checked_layers
from earnorm.kernel.declared import DeclaredKeys, SharedKeys
from earnorm.kernel.document_steps import DocumentSteps
from earnorm.kernel.durable import WAITING, settling
from earnorm.kernel.item_updates import ItemUpdates
from earnorm.kernel.layers import Layer, Middleware, PlacedLayer, compose
from earnorm.kernel.loading import LoadedPlugins, settled
from earnorm.kernel.operations import (
    JUDGED,
    Call,
    Operation,
    OperationName,
    PerRecord,
    Update,
)
from earnorm.kernel.reading import combined
from earnorm.kernel.sending import RETURNED, SENDER, Sender
from earnorm.kernel.steps import ALL, Stage, Step, Way, check_order, checked_steps, in_order
from earnorm.kernel.transactions import (
    in_transaction_if,
    may_open_transaction,
    opens_transaction,
)
from earnorm.kernel.value_steps import ValueWays
from earnorm.kernel.views import ModelView

if TYPE_CHECKING:
    from earnorm.kernel.app import App
    from earnorm.model.base import BaseModel

log = logging.getLogger("earnorm")

Observer = tuple[str, Callable[..., Any]]

_NOTHING: Mapping[str, Any] = {}
_ASKING = (Layer.ASK, Layer.RESOLVE)  # no layer at these places uses op.after_durable()


class BoundModel:
    """A model in an App. It composes the layers of an operation on its first use."""

    def __init__(self, app: App, model: type[BaseModel]) -> None:
        self.app = app
        self.model = model
        self.view = ModelView(model)
        readings = app.loaded.collect("register_reading", app=app, model=self.view)
        self.reading = combined(self.view, readings)
        """The changes of features and plugins to how its documents are read; None if there are
        none."""
        self.classes = None if self.reading is None else self.reading.classes
        """The classes of its records; None if all records are of the model's own class."""
        self.schema = (
            model._schema
            if self.classes is None
            else model._schema.widened(self.classes.find_field)
        )
        model._schema.check_own_kinds()
        self.operators: Mapping[str, Operator] = app.operators
        self.concerns = Concerns.of(
            model.__name__,
            read_concern=model._read_concern,
            write_concern=model._write_concern,
            read_preference=model._read_preference,
        )
        self._collection = app._backend.collection(model._collection, self.concerns)
        self.timeout = app.settings.default_timeout
        self.is_prepared = False
        self.declared: DeclaredKeys | SharedKeys = (
            DeclaredKeys(self.schema) if self.classes is None else SharedKeys(self.classes)
        )
        self._preparing = asyncio.Lock()
        self._calls: dict[OperationName, Call] = {}
        self._opening: dict[OperationName, Sequence[Middleware]] = {}
        self.unheard: set[OperationName] = set()
        """The writes of which no layer, no step and no plugin hears when they are durable."""
        self._steps: Sequence[Step] | None = None

    def filter(self, domain: Domain) -> dict[str, Any]:
        """Return the MongoDB filter of a domain.

        Raises:
            DomainError: An unknown field or operator, or a value that cannot be compared.
        """
        return to_filter(domain, self.schema, self.operators)

    async def prepare(self) -> None:
        """Call ``prepare_model`` of features and plugins, before the model's first operation."""
        async with self._preparing:
            if not self.is_prepared:
                await self.app.loaded.notify("prepare_model", app=self.app, model=self.view)
                self.is_prepared = True

    def call(self, name: OperationName) -> Call:
        """Return the function that runs an operation: its layers folded around its core."""
        operation_call = self._calls.get(name)
        if operation_call is None:
            layers = list(_layers(self.app.loaded, self.app, self.model, name))
            if name in _DEFAULT_WAYS:
                layers += _step_layers(self.view, name, self.steps())
            self._opening[name] = [
                placed.middleware for placed in layers if may_open_transaction(placed.middleware)
            ]
            cores: dict[OperationName, Call] = {
                "search": partial(searches.search, self),
                "count": partial(searches.count, self),
                "group": partial(searches.group, self),
                "create": self._create,
                "write": self._write,
                "unlink": self._unlink,
            }
            core = cores[name]
            if name in _OBSERVED:
                core = _naming_fields(core, self.schema.renamed_paths)
            core = compose(core, [placed for placed in layers if placed.layer >= Layer.RESOLVE])
            if name in _OBSERVED:
                core = _recording_writes(core)
            call = compose(core, [placed for placed in layers if placed.layer < Layer.RESOLVE])
            if name in _OBSERVED and (
                self.app.hears_commits or any(placed.layer not in _ASKING for placed in layers)
            ):
                call = settling(call)
            elif name in _OBSERVED:
                self.unheard.add(name)
            operation_call = self._calls[name] = _announcing_denials(
                call, self.app.loaded.implementations("access_denied")
            )
        return operation_call

    def needs_transaction(self, op: Operation) -> bool:
        """Return whether a layer runs the operation in a transaction."""
        self.call(op.name)
        return any(opens_transaction(layer, op) for layer in self._opening[op.name])

    def steps(self) -> Sequence[Step]:
        """Return the steps of features and plugins in the model's write path, in order."""
        if self._steps is None:
            by_plugin = self.app.loaded.collect("register_steps", app=self.app, model=self.view)
            steps = [s for plugin, given in by_plugin for s in checked_steps(plugin, given or ())]
            check_order(steps, self.app.built_in_steps)
            self._steps = in_order(steps)
        return self._steps

    # Every write reads both of them; as cached attributes of the instance they cost no call.
    @cached_property
    def ways(self) -> ValueWays:
        """The value steps for each way of writing."""
        return ValueWays.of(self.steps())

    @cached_property
    def has_document_steps(self) -> bool:
        """True if a step may work on created or written values in stored form.

        If there are several classes of records, a class that is defined later may have such steps.
        """
        return self.classes is not None or any(
            step.stage >= Stage.IDENTITY for step in self.steps()
        )

    def recompose(self) -> None:
        """Discard the composed layers and steps; the next use composes them again."""
        self._calls.clear()
        self.unheard.clear()
        self._steps = None
        for name in ("ways", "has_document_steps"):
            self.__dict__.pop(name, None)

    # -- the core of the layers, which calls the backend --------------------------------------

    def _collection_of(self, op: Operation) -> Collection:
        """Return the collection with the read and write concerns of the operation."""
        concerns = op.options.concerns
        if concerns is None:
            return self._collection
        if op.env.transaction is not None:
            raise TransactionError(
                f"{self.model._name}: a transaction has one read concern, write concern and read "
                f"preference for everything in it: earnorm.transaction(read_concern=...)"
            )
        return self.app._backend.collection(self.model._collection, concerns.over(self.concerns))

    async def _create(self, op: Operation) -> list[Any]:
        documents = op.values
        assert isinstance(documents, list)
        sender: Sender | None = op.notes.get(SENDER)
        collection = self._collection_of(op)
        if sender is not None and sender.is_open:
            inserts = [BulkInsert(document) for document in documents]
            await sender.park(collection, op, inserts)
            return [document["_id"] for document in documents]
        await collection.insert(
            documents,
            # The first failure ends a transaction; an error of a later document would hide it.
            ordered=op.options.ordered or op.env.transaction is not None,
            session=op.env.database_session,
            timeout=op.options.timeout or self.timeout,
        )
        return [document["_id"] for document in documents]

    async def _write(self, op: Operation) -> int:
        values, options = op.values, op.options
        sender: Sender | None = op.notes.get(SENDER)
        collection = self._collection if options.concerns is None else self._collection_of(op)
        session, timeout = op.env.database_session, options.timeout or self.timeout
        if isinstance(values, PerRecord):
            # The domain stays a part of each filter, since a layer may have narrowed it. Its list
            # of ids is left out: each filter has its own id, and 1,000 lists of 1,000 are 20 MB.
            rest = self.filter(_without_ids(op.domain, self.schema, values))
            updates = [
                BulkUpdate(self._narrowed(rest, update, {"_id": pk}), update.statement)
                for pk, update in values.items()
            ]
            for update in values.values():  # a loop makes no function call of its own
                if update.items:
                    items = ItemUpdates(self, collection, op, timeout)
                    updates = await items.fitted(updates, values)
                    break
            if sender is not None and sender.is_open:
                return (await sender.park(collection, op, updates)).matched
            return await collection.bulk_update(updates, session=session, timeout=timeout)
        assert isinstance(values, Update)
        try:
            condition = self._narrowed(to_filter(op.domain, self.schema, self.operators), values)
        except LongList as refused:
            return await parts.change(self._write, self, op, refused)
        if values.items:
            return await ItemUpdates(self, collection, op, timeout).write(condition, values)
        returned = op.notes.get(RETURNED)
        if returned is not None:
            fields = self.schema.fields
            returned.document = await collection.find_and_update(
                condition,
                values.statement,
                projection={"_id": 1, **{fields[name].db_name: 1 for name in returned.fields}},
                session=session,
                timeout=timeout,
            )
            return int(returned.document is not None)
        return await collection.update(
            condition,
            values.statement,
            many=op.options.many,
            session=session,
            timeout=timeout,
        )

    def _narrowed(
        self, condition: Mapping[str, Any], update: Update, exact: Mapping[str, Any] = _NOTHING
    ) -> dict[str, Any]:
        """Add the update's own demands on a record to a condition."""
        condition = _and(condition, {**exact, **update.expect})
        if update.where is not Domain.TRUE:
            condition = {"$and": [condition, self.filter(update.where)]}
        return condition

    async def _unlink(self, op: Operation) -> int:
        sender: Sender | None = op.notes.get(SENDER)
        collection = self._collection_of(op)
        try:
            condition = self.filter(op.domain)
        except LongList as refused:
            return await parts.change(self._unlink, self, op, refused)
        if sender is not None and sender.is_open:
            request = BulkDelete(condition, many=op.options.many)
            return (await sender.park(collection, op, [request])).deleted
        return await collection.delete(
            condition,
            many=op.options.many,
            session=op.env.database_session,
            timeout=op.options.timeout or self.timeout,
        )

    def __repr__(self) -> str:
        return f"<BoundModel {self.model._name} of {self.app!r}>"


def _without_ids(domain: Domain, schema: Schema, pks: PerRecord) -> Domain:
    """Return the part of the domain that these records must still match.

    That is the domain without its list of ids, if the list contains all of these records.
    """
    named = split_ids(domain, schema)
    if named is None:
        return domain
    ids, rest = named
    return rest if pks.keys() <= set(ids) else rest & Condition("_id", "in", ids)


def _and(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    if not one or not other:
        return dict(one or other)
    # $eq, because a stored value that is a document must not be read as operators
    exact = {key: {"$eq": value} for key, value in other.items()}
    return {"$and": [dict(one), exact]}


# -- layers ---------------------------------------------------------------------------------------

_OBSERVED: Mapping[OperationName, tuple[str, str]] = {
    "create": ("before_create", "after_create"),
    "write": ("before_write", "after_write"),
    "unlink": ("before_unlink", "after_unlink"),
}


def _layers(
    plugins: LoadedPlugins, app: App, model: type[BaseModel], name: OperationName
) -> Iterator[PlacedLayer]:
    of_plugins = frozenset(plugins.names())
    for plugin, pairs in plugins.collect("wrap_operation", app=app, model=model, operation=name):
        for layer, middleware in checked_layers(plugin, pairs, name):
            yield PlacedLayer(layer, plugin, middleware, plugin in of_plugins)
    if name in _OBSERVED:
        is_bookkeeping = model._bookkeeping is not None
        before, after = (
            plugins.observers(hook, bookkeeping=is_bookkeeping) for hook in _OBSERVED[name]
        )
        if before or after:
            yield PlacedLayer(Layer.OBSERVE, "", _Observation(_OBSERVED[name], before, after))


_DEFAULT_WAYS: Mapping[str, Way] = {"create": Way.CREATE, "write": Way.UPDATE}
_STEP_WAYS: Mapping[str, Way] = {
    "create": Way.CREATE | Way.CREATE_MANY | Way.UPSERT | Way.BULK,
    "write": ALL & ~(Way.CREATE | Way.CREATE_MANY),
}


def _step_layers(
    view: ModelView, name: OperationName, steps: Sequence[Step]
) -> Iterator[PlacedLayer]:
    """Yield the layer of the model's document steps, and of the transaction that they may need."""
    document_steps = [
        step
        for step in steps
        if step.stage >= Stage.IDENTITY and step.on in (None, name) and step.ways & _STEP_WAYS[name]
    ]
    if not document_steps:
        return
    layer = DocumentSteps(view, _DEFAULT_WAYS[name], document_steps)
    yield PlacedLayer(Layer.STEPS, "", layer)
    if layer.may_need_transaction:
        yield PlacedLayer(Layer.TRANSACTION, "", in_transaction_if(layer.needs_transaction))


class _Observation:
    """The layer of the before and after hooks; every way to the database passes it."""

    def __init__(
        self, hooks: tuple[str, str], before: Sequence[Observer], after: Sequence[Observer]
    ) -> None:
        self._hooks, self._before, self._after = hooks, before, after

    async def __call__(self, op: Operation, call_next: Call) -> Any:
        if self._before:
            seen = _read_only(op)
            for plugin, observe in self._before:
                await settled(observe(op=seen), plugin, self._hooks[0])
        result = await call_next(op)
        for plugin, observe in self._after:
            try:
                await settled(observe(op=op, result=result), plugin, self._hooks[1])
            except Exception as error:
                # The write is done, so it is not reported as failed. In a transaction such an error
                # of the database means that the write is not done, and that another try may help.
                is_transient = isinstance(error, TransactionError) and error.transient
                if is_transient and op.env.transaction is not None:
                    raise
                log.exception(
                    "plugin %r failed in its hook %s; the %s of %s is done",
                    plugin,
                    self._hooks[1],
                    op.name,
                    op.model._name,
                )
        return result


def _read_only(op: Operation) -> Operation:
    """Return the operation with documents and changes that an observer cannot change.

    What is changed in them would reach the records in memory or not, by the model's fields.
    """
    values = op.values
    if isinstance(values, list):
        return op.replace(values=[MappingProxyType(document) for document in values])
    if values is None:
        return op
    return op.map_updates(
        lambda update: replace(
            update,
            operators=MappingProxyType(
                {name: MappingProxyType(spec) for name, spec in update.operators.items()}
            ),
        )
    )


def _recording_writes(core: Call) -> Call:
    """Record each write for its transaction, or report it to ``after_commit`` if there is none."""

    def call(op: Operation) -> Awaitable[Any]:
        transaction = op.env.transaction
        if transaction is not None:
            transaction.operations.append(op)
        elif op.env.app.hears_commits:
            return recording(op)
        return core(op)

    async def recording(op: Operation) -> Any:
        waiting = op.note(WAITING)
        try:
            return await core(op)
        finally:
            tell = partial(op.env.app.committed, [op])
            if waiting is None:  # a layer passed on an operation of its own making
                await tell()
            else:
                waiting.news += (tell,)

    return call


def _naming_fields(core: Call, renamed: Mapping[str, str]) -> Call:
    """Replace stored keys by field names in an error."""
    if not renamed:
        return core

    async def call(op: Operation) -> Any:
        try:
            return await core(op)
        except DuplicateKey as error:
            names = [renamed.get(key, key) for key in error.fields]
            if not isinstance(error, BatchDuplicateKey):
                raise DuplicateKey(error.subject, names) from error.__cause__
            details = [_renamed_detail(detail, renamed) for detail in error.errors()]
            raise BatchDuplicateKey(
                error.subject, details, fields=names, written=error.written
            ) from error.__cause__
        except ValidationError as error:
            if not any(detail["type"] == INVALID_DOCUMENT for detail in error.errors()):
                raise
            details = [_renamed_detail(detail, renamed) for detail in error.errors()]
            if isinstance(error, BatchRefused):
                raise BatchRefused(error.subject, details, written=error.written) from None
            raise ValidationError(error.subject, details) from None

    return call


def _renamed_detail(detail: ErrorDetail, renamed: Mapping[str, str]) -> ErrorDetail:
    loc = tuple(
        renamed.get(part, part) if isinstance(part, str) else part for part in detail["loc"]
    )
    if detail["type"] != "duplicate_key":
        return {**detail, "loc": loc}
    position = tuple(part for part in loc if isinstance(part, int))
    names = [part for part in loc if isinstance(part, str)]
    return {**DuplicateKey("", names).errors()[0], "loc": (*position, *names)}


def _announcing_denials(call: Call, observers: Sequence[Observer]) -> Call:
    if not observers:
        return call

    async def announcing(op: Operation) -> Any:
        try:
            return await call(op)
        except AccessDenied as error:
            if not op.note(JUDGED):  # a denied part is announced by the whole operation
                for plugin, observe in observers:
                    try:
                        await settled(observe(op=op, error=error), plugin, "access_denied")
                    except Exception:  # it must not replace the refusal
                        log.exception("plugin %r failed in its hook access_denied", plugin)
            raise

    return announcing
