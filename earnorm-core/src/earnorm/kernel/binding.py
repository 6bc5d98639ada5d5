"""One model in one App: its class with the extensions, its collection, its composed layers."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from functools import cached_property, partial
from operator import is_
from typing import TYPE_CHECKING, Any, cast

from bson import ObjectId

from earnorm.backends.base import BulkDelete, BulkInsert, BulkUpdate, Collection
from earnorm.backends.refusals import KIND as INVALID_DOCUMENT
from earnorm.concerns import Concerns
from earnorm.domain import Condition, Domain, Operator, Schema, to_filter
from earnorm.domain.ids import ids_of, split_ids
from earnorm.exceptions import (
    AccessDenied,
    BatchDuplicateKey,
    BatchRefused,
    DuplicateKey,
    ErrorDetail,
    LongList,
    NotFound,
    PluginError,
    TransactionError,
    ValidationError,
)
from earnorm.fields.identifiers import ObjectIdField
from earnorm.fields.secrets import secret_paths
from earnorm.kernel import pauses
from earnorm.kernel.contract.checked_layers import checked_layers, note_layer
from earnorm.kernel.contract.guarded_steps import guarded
from earnorm.kernel.contract.handed_in import checked_functions
from earnorm.kernel.document_steps import DocumentSteps
from earnorm.kernel.layers import (
    Layer,
    PlacedLayer,
    Watch,
    compose,
    watched,
)
from earnorm.kernel.life.preparing import Preparation
from earnorm.kernel.observing.denials import announce_refusal
from earnorm.kernel.observing.event_hooks import Observation
from earnorm.kernel.observing.observers import tell_layer, tell_sent
from earnorm.kernel.operations import (
    Call,
    Operation,
    OperationName,
    Options,
    PerRecord,
    Update,
)
from earnorm.kernel.pauses import pause
from earnorm.kernel.plugins import tracing
from earnorm.kernel.plugins.loading import LoadedPlugins
from earnorm.kernel.serving import parts, searches
from earnorm.kernel.serving.declared import DeclaredKeys, SharedKeys
from earnorm.kernel.serving.item_updates import ItemUpdates
from earnorm.kernel.serving.reading import combined
from earnorm.kernel.serving.sending import ARRIVAL, RETURNED, SENDER, Arrival, Sender
from earnorm.kernel.steps import ALL, Stage, Step, Way, check_order, checked_steps, in_order
from earnorm.kernel.transactions.durable import WAITING, settling
from earnorm.kernel.transactions.layer import (
    in_transaction_if,
    may_open_transaction,
    opens_transaction,
)
from earnorm.kernel.transactions.units import unit_of_call
from earnorm.kernel.value_steps import ValueWays
from earnorm.kernel.views import ModelView

if TYPE_CHECKING:
    from earnorm.kernel.app import App
    from earnorm.kernel.environment import Env
    from earnorm.model.base import BaseModel

log = logging.getLogger("earnorm")

_NOTHING: Mapping[str, Any] = {}
_BEFOREHAND = "a change that is asked for beforehand: the record that it is about"
_ONE = Options(limit=1, fields=frozenset({"_id"}))
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
        self.withholding = None if self.reading is None else self.reading.withholding
        """The classes of its records; None if all records are of the model's own class."""
        self.schema = (
            model._schema
            if self.classes is None
            else model._schema.widened(self.classes.find_field)
        )
        self._has_object_ids = type(self.schema.fields["_id"]) is ObjectIdField
        self.schema.resolve("_id")  # what is resolved already is known to be in the document itself
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
        self.has_collection = (
            not app.settings.create_indexes or "transactions" not in app.capabilities
        )
        """True if no transaction needs to make the collection before it begins."""
        self.making = asyncio.Lock()
        self.declared: DeclaredKeys | SharedKeys = (
            DeclaredKeys(self.schema) if self.classes is None else SharedKeys(self.classes)
        )
        self._preparation = Preparation(app, self.view)
        self.composed: dict[OperationName, Call] = {}
        self._beneath: dict[tuple[OperationName, int], Call] = {}
        self._opening: dict[OperationName, Sequence[PlacedLayer]] = {}
        self._queueing: dict[OperationName, Sequence[PlacedLayer]] = {}
        self.unheard: set[OperationName] = set()
        """The writes of which no layer, no step and no plugin hears when they are durable."""
        self._steps: Sequence[Step] | None = None

    def shown(self, env: Env, names: frozenset[str] | None = None) -> frozenset[str] | None:
        """Return the names of the fields that a search for these reads for an Env; None means all."""
        return names if self.withholding is None else self.withholding.shown(env, names)

    def filter(self, domain: Domain) -> dict[str, Any]:
        """Return the MongoDB filter of a domain.

        Raises:
            DomainError: An unknown field or operator, or a value that cannot be compared.
        """
        if (
            type(domain) is Condition
            and domain.path == "_id"
            and type(domain.value) is ObjectId
            and domain.operator == "="
            and self._has_object_ids
        ):
            return {"_id": domain.value}  # of each save() and get(): it needs no compiler
        return to_filter(domain, self.schema, self.operators)

    async def prepare(self) -> None:
        """Call ``prepare_model`` of features and plugins, before the model's first operation."""
        await self._preparation.run()
        self.is_prepared = True

    def call(self, name: OperationName, watch: Watch | None = None) -> Call:
        """Return the function that runs an operation: its layers folded around its core.

        Args:
            name: The name of the operation.
            watch: Is told what each layer makes of the operation; they are composed anew for it.
        """
        if watch is not None:
            return self._composed(name, [watched(placed, watch) for placed in self.layers(name)])
        operation_call = self.composed.get(name)
        if operation_call is None:
            layers = self.layers(name)
            self._opening[name] = [
                placed for placed in layers if may_open_transaction(placed.middleware)
            ]
            self._queueing[name] = [
                placed
                for placed in layers
                if getattr(placed.middleware, "queues_for", None) is not None
            ]
            if name in _OBSERVED and not self._settles(layers):
                self.unheard.add(name)
            told = layers
            if any(observer.sees_layers for observer in self.app.observers):
                told = [each for placed in layers for each in (placed, self._telling(placed))]
                told.append(PlacedLayer(sys.maxsize, "", partial(tell_sent, self.app)))
            operation_call = self.composed[name] = self._composed(name, told)
            if tracing.is_on():
                steps = self.document_steps(name)
                tracing.tell_layers(self.app, self.model._name, name, layers, steps)
        return operation_call

    def beneath(self, name: OperationName, layer: int) -> Call:
        """Return the function that runs a search, a count or a group from inside of a place on.

        Raises:
            PluginError: It is another operation.
        """
        if name in _OBSERVED:
            raise PluginError(f"a {name} passes all layers: app.execute()")
        call = self._beneath.get((name, layer))
        if call is None:
            inside = [placed for placed in self.layers(name) if placed.layer > layer]
            call = self._beneath[name, layer] = self._composed(name, inside)
        return call

    def _telling(self, placed: PlacedLayer) -> PlacedLayer:
        """Return a layer right outside of another one that tells of it."""
        tell = tell_layer(self.app, placed.plugin, placed.layer)
        return PlacedLayer(placed.layer, placed.plugin, tell)

    def layers(self, name: OperationName) -> list[PlacedLayer]:
        """Ask features and plugins for the layers of an operation, which come in no order."""
        layers = list(_layers(self.app.loaded, self.app, self.model, name))
        if name in _DEFAULT_WAYS:
            layers += _step_layers(self.view, name, self.document_steps(name))
        return layers

    @cached_property
    def is_restricted(self) -> bool:
        """True if a layer at ``Layer.SECURITY`` decides what each principal may read."""
        return any(placed.layer == Layer.SECURITY for placed in self.layers("search"))

    def need_system(self, env: Env, call: str) -> None:
        """Refuse a call that works on all records with access rules off, unless ``system`` makes it.

        Args:
            env: The Env of the caller.
            call: The call, for the message.

        Raises:
            AccessDenied: The model is restricted, and a principal or nobody acts.
        """
        if not env.system and self.is_restricted:
            raise AccessDenied(
                f"{call} on model {self.model._name!r} is denied: it works on the whole collection with "
                f'access rules off, so call it inside earnorm.system(reason="...")'
            )

    async def ask_beforehand(self, op: Operation) -> None:
        """Ask the layers that decide on access whether they let a change through; it is not done.

        Work that cannot be undone, an upload say, goes on only if the write behind it is allowed.

        Args:
            op: The change of one record, which its domain names.

        Raises:
            AccessDenied: A layer refuses it.
            NotFound: Who acts does not find the record.
        """
        layers = [placed for placed in self.layers(op.name) if placed.layer <= Layer.SECURITY]
        if all(placed.layer != Layer.SECURITY for placed in layers):
            return  # nobody is refused anything

        async def found(allowed: Operation) -> int:
            env = allowed.env.as_system(_BEFOREHAND)
            search = Operation("search", self.model, env, allowed.domain, None, _ONE, allowed.notes)
            return len(await self.app.execute(search))

        try:
            number = await compose(found, layers)(op)
        except AccessDenied as error:
            await announce_refusal(op, error)
            raise
        if not number:
            raise NotFound(f"{self.model._name}: the record to write does not exist")

    def document_steps(self, name: OperationName) -> list[Step]:
        """Return the document steps of an operation, in order."""
        if name not in _DEFAULT_WAYS:
            return []
        return [
            step
            for step in self.steps()
            if step.stage >= Stage.IDENTITY
            and step.on in (None, name)
            and step.ways & _STEP_WAYS[name]
        ]

    def _settles(self, layers: Sequence[PlacedLayer]) -> bool:
        """Return whether a layer, a step or a plugin may hear when a write is durable."""
        return self.app.hears_commits or any(placed.layer not in _ASKING for placed in layers)

    def _composed(self, name: OperationName, layers: Sequence[PlacedLayer]) -> Call:
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
        if name in _OBSERVED and name not in self.unheard:
            call = settling(call)
        return call

    def needs_transaction(self, op: Operation) -> bool:
        """Return whether a layer runs the operation in a transaction."""
        self.call(op.name)
        for placed in self._opening[op.name]:
            try:
                if opens_transaction(placed.middleware, op):
                    return True
            except Exception as error:
                note_layer(placed, op, error)
                raise
        return False

    def changed_by(self, op: Operation) -> Iterator[tuple[str, Any]]:
        """Yield the records that a write or a deletion names, each with the name of the model."""
        if op.name != "create":
            values, name = op.values, self.model._name
            pks = values if isinstance(values, PerRecord) else ids_of(op.domain, self.schema)
            for pk in pks or ():
                yield name, pk

    def names_others(self, name: OperationName) -> bool:
        """Return whether a layer or step can tell, by ``queues_for``, what else is written."""
        self.call(name)
        return bool(self._queueing[name])

    def queues_for(self, op: Operation) -> Iterator[tuple[str, Any]]:
        """Yield the records that an operation will write, as far as they are known beforehand.

        These are its own, and those that its layers and steps name. An operation waits for others
        with the same records before it begins a transaction of its own.
        """
        self.call(op.name)
        yield from self.changed_by(op)
        for placed in self._queueing[op.name]:
            try:
                yield from cast("Any", placed.middleware).queues_for(op)
            except Exception as error:
                note_layer(placed, op, error)
                raise

    def steps(self) -> Sequence[Step]:
        """Return the steps of features and plugins in the model's write path, in order."""
        if self._steps is None:
            by_plugin = self.app.loaded.collect("register_steps", app=self.app, model=self.view)
            steps = [s for plugin, given in by_plugin for s in checked_steps(plugin, given or ())]
            of_plugins = frozenset(self.app.loaded.names())
            steps = [guarded(step) if step.plugin in of_plugins else step for step in steps]
            check_order(steps, self.app.built_in_steps)
            self._steps = in_order(steps)
        return self._steps

    # Every write reads both of them; as cached attributes of the instance they cost no call.
    @cached_property
    def ways(self) -> ValueWays:
        """The value steps for each way of writing."""
        return ValueWays.of(self.steps())

    @property
    def secret_paths(self) -> tuple[str, ...]:
        """The stored paths of secret values in the documents, also in those of subclasses."""
        if self.classes is None:
            return self._own_secret_paths
        bounds = (self, *(subclass for _, subclass in self.classes.below()))
        return tuple(dict.fromkeys(path for bound in bounds for path in bound._own_secret_paths))

    @cached_property
    def _own_secret_paths(self) -> tuple[str, ...]:
        schema = self.schema
        return tuple(secret_paths(schema.stored)) if schema.secrets else ()

    @cached_property
    def hides_records(self) -> Sequence[Callable[[Env], bool]]:
        """The functions that tell whether some of its records may be hidden from who acts."""
        by_plugin = self.app.loaded.collect("hides_records", app=self.app, model=self.view)
        return tuple(checked_functions("hides_records", by_plugin, "env"))

    @cached_property
    def unnamed_fields(self) -> Sequence[Callable[[Env], frozenset[str]]]:
        """The functions that tell which fields no error may name to who acts."""
        by_plugin = self.app.loaded.collect("unnamed_fields", app=self.app, model=self.view)
        return tuple(checked_functions("unnamed_fields", by_plugin, "env"))

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
        self.composed.clear()
        self._beneath.clear()
        self.unheard.clear()
        self._steps = None
        for name in (
            "ways",
            "has_document_steps",
            "hides_records",
            "unnamed_fields",
            "is_restricted",
        ):
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
        notes = op.notes
        sender: Sender | None = notes.get(SENDER) if notes else None
        collection = self._collection if op.options.concerns is None else self._collection_of(op)
        if sender is not None and sender.is_open:
            inserts = [BulkInsert(document) for document in documents]
            await sender.park(collection, op, inserts)
        else:
            await collection.insert(
                documents,
                # The first failure ends a transaction; an error of a later document would hide it.
                ordered=op.options.ordered or op.env.transaction is not None,
                session=op.env._database_session,
                timeout=op.options.timeout or self.timeout,
            )
        unit = unit_of_call()
        if unit is not None:
            unit.created.append(op)
        arrival: Arrival | None = notes.get(ARRIVAL) if notes else None
        if arrival is not None:
            arrival.has_arrived, arrival.transaction = True, op.env.transaction
        return [document["_id"] for document in documents]

    async def _write(self, op: Operation) -> int:
        values, options, notes = op.values, op.options, op.notes
        sender: Sender | None = notes.get(SENDER) if notes else None
        collection = self._collection if options.concerns is None else self._collection_of(op)
        session, timeout = op.env._database_session, options.timeout or self.timeout
        if isinstance(values, PerRecord):
            # The domain stays a part of each filter, since a layer may have narrowed it. Its list
            # of ids is left out: each filter has its own id, and 1,000 lists of 1,000 are 20 MB.
            rest = self.filter(_without_ids(op.domain, self.schema, values))
            updates: list[BulkUpdate] = []
            changes, has_items = list(values.items()), False
            for part in pauses.parts(changes):
                for pk, update in part:
                    exact = {"_id": pk}
                    if rest or update.expect or update.where is not Domain.TRUE:
                        exact = self._narrowed(rest, update, exact)
                    updates.append(BulkUpdate(exact, update.statement))
                    if update.items:
                        has_items = True
                if part is not changes:
                    await pause()
            if has_items:
                items = ItemUpdates(self, collection, op, timeout)
                updates = await items.fitted(updates, values)
            if sender is not None and sender.is_open:
                return (await sender.park(collection, op, updates)).matched
            return await collection.bulk_update(updates, session=session, timeout=timeout)
        assert isinstance(values, Update)
        try:
            condition = self.filter(op.domain)
            if values.expect or values.where is not Domain.TRUE:
                condition = self._narrowed(condition, values)
        except LongList as refused:
            return await parts.change(self._write, self, op, refused)
        if values.items:
            return await ItemUpdates(self, collection, op, timeout).write(condition, values)
        returned = notes.get(RETURNED) if notes else None
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
            session=op.env._database_session,
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
    # Most lists are those of the records themselves, which is seen without hashing any id.
    are_these = len(ids) == len(pks) and all(map(is_, ids, pks))
    if are_these or pks.keys() <= set(ids):
        return rest
    return rest & Condition("_id", "in", ids)


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
            yield PlacedLayer(Layer.OBSERVE, "", Observation(_OBSERVED[name], before, after))


_DEFAULT_WAYS: Mapping[str, Way] = {"create": Way.CREATE, "write": Way.UPDATE}
_STEP_WAYS: Mapping[str, Way] = {
    "create": Way.CREATE | Way.CREATE_MANY | Way.UPSERT | Way.BULK,
    "write": ALL & ~(Way.CREATE | Way.CREATE_MANY),
}


def _step_layers(
    view: ModelView, name: OperationName, document_steps: Sequence[Step]
) -> Iterator[PlacedLayer]:
    """Yield the layer of the model's document steps, and of the transaction that they may need."""
    if not document_steps:
        return
    layer = DocumentSteps(view, _DEFAULT_WAYS[name], document_steps)
    yield PlacedLayer(Layer.STEPS, "", layer)
    if layer.may_need_transaction:
        yield PlacedLayer(Layer.TRANSACTION, "", in_transaction_if(layer.needs_transaction))


def _recording_writes(core: Call) -> Call:
    """Record each write for its transaction, and what it has stored for ``after_commit``."""

    def call(op: Operation) -> Awaitable[Any]:
        transaction = op.env.transaction
        if transaction is not None:
            transaction.operations.append(op)
        return recording(op) if op.env.app.hears_commits else core(op)

    async def recording(op: Operation) -> Any:
        try:
            result = await core(op)
        except BatchRefused as error:
            written = _written_part(op, error)
            if written is not None:
                await _note_done(written)
            raise
        if result:  # else it has found no record
            await _note_done(op)
        return result

    return call


def _written_part(op: Operation, error: BatchRefused) -> Operation | None:
    """Return the operation with what the database has stored of it; None if that is nothing."""
    if not error.written:
        return None
    if isinstance(op.values, PerRecord):
        items = list(op.values.items())
        return op.replace(values=PerRecord(items[number] for number in error.written))
    if isinstance(op.values, list):
        return op.replace(values=[op.values[number] for number in error.written])
    return op


async def _note_done(op: Operation) -> None:
    """Note for ``after_commit`` a write that the database has carried out."""
    transaction, waiting = op.env.transaction, op.note(WAITING)
    if transaction is not None:
        transaction.done.append(op)
        return
    tell = partial(op.env.app.committed, [op])
    if waiting is None:  # a layer passed on an operation of its own making
        await tell()
    else:
        waiting.news += (tell,)


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
