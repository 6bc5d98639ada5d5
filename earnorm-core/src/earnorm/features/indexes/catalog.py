"""``app.indexes``: compares the declared indexes of an App's models with those of its database.

It works on collections, not on models: a collection that several models share has the indexes of
all of them, and the index of one model is not unused because another model does not declare it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from earnorm.backends.base import Collection, Document, IndexSpec, SearchIndexSpec
from earnorm.domain import Domain, DomainSource
from earnorm.exceptions import (
    ConfigurationError,
    DomainError,
    EarnORMError,
    NotSupported,
)
from earnorm.features.indexes.advice import SAMPLE, Advice, advise, try_out
from earnorm.features.indexes.collection_options import (
    create_options,
    declared_options,
    differences,
)
from earnorm.features.indexes.comparison import (
    Comparison,
    ExistingIndex,
    IndexDifference,
    compare,
    shown,
)
from earnorm.features.indexes.declarations import declared_indexes, declared_search_indexes
from earnorm.features.slow_queries.query_shape import QueryShape, shape_of
from earnorm.kernel.contract.left_out import need_feature
from earnorm.kernel.environment import current_env
from earnorm.kernel.naming import nearest_field
from earnorm.model.query import Query

if TYPE_CHECKING:
    from earnorm.kernel.app import App
    from earnorm.kernel.binding import BoundModel
    from earnorm.model.base import BaseModel
    from earnorm.model.reading.ordering import Order

Models = Iterable["type[BaseModel]"]


@dataclass(frozen=True, slots=True)
class IndexDiff:
    """The difference between the declarations of one collection's models and the database.

    Attributes:
        collection: The collection's name.
        models: The names of the models whose records it has.
        exists: True if the collection exists.
        ok: Indexes that are declared and exist.
        missing: Indexes that are declared and do not exist.
        different: Declared indexes in whose place a different one exists.
        unused: Indexes that exist and are not declared.
        options: The differences between the collection and its ``_options``, in words.
        search: Vector-search indexes that are declared and do not exist.
        notes: Things that could not be compared, with the reason.
    """

    collection: str
    models: tuple[str, ...]
    exists: bool
    ok: tuple[IndexSpec, ...] = ()
    missing: tuple[IndexSpec, ...] = ()
    different: tuple[IndexDifference, ...] = ()
    unused: tuple[ExistingIndex, ...] = ()
    options: tuple[str, ...] = ()
    search: tuple[SearchIndexSpec, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def is_in_step(self) -> bool:
        """True if nothing is missing, different or undeclared."""
        return not (self.missing or self.different or self.unused or self.options or self.search)

    def lines(self) -> list[str]:
        """Return the differences, one on each line."""
        return [
            *(f"missing: {described(spec)}" for spec in self.missing),
            *(f"missing: vector-search index {spec.name!r}" for spec in self.search),
            *(f"different: {difference}" for difference in self.different),
            *(f"not declared: {index}" for index in self.unused),
            *(f"collection: {difference}" for difference in self.options),
            *(f"note: {note}" for note in self.notes),
        ]

    def __str__(self) -> str:
        return "\n  ".join([f"{self.collection} ({', '.join(self.models)})", *self.lines()])


@dataclass(frozen=True, slots=True)
class IndexAction:
    """One action that was carried out, or that a dry run would carry out.

    Attributes:
        kind: ``create``, ``modify`` (in place), ``replace`` (drop and create), ``drop``, or
            ``leave`` (a difference that stays).
        collection: The collection's name.
        index: The index's name; empty for the collection itself.
        detail: The index or the options, and the difference, in words.
        is_done: False after a dry run, and for ``leave``.
    """

    kind: Literal["create", "modify", "replace", "drop", "leave"]
    collection: str
    index: str
    detail: str
    is_done: bool

    def __str__(self) -> str:
        return f"{self.kind} {self.collection}: {self.detail}"


def described(spec: IndexSpec) -> str:
    """Describe a declared index in words, without the values of its condition."""
    options = sorted(spec.options.keys() - {"name"})
    return f"{spec.name!r} on {shown(spec.keys)}" + (f" [{', '.join(options)}]" if options else "")


@dataclass(frozen=True, slots=True)
class _CollectionModels:
    """A collection, and the models whose records it has."""

    collection: Collection
    bound: list[BoundModel]

    def indexes(self) -> list[IndexSpec]:
        specs: dict[object, IndexSpec] = {}
        for bound_model in self.bound:
            for spec in declared_indexes(bound_model.model, bound_model.operators):
                known = specs.setdefault((spec.keys, spec.name), spec)
                if known != spec:
                    names = " and ".join(b.model._name for b in self.bound)
                    raise ConfigurationError(
                        f"{self.collection.name}: {names} share the collection and declare the index "
                        f"{spec.name!r} with different options"
                    )
        return list(specs.values())

    def search_indexes(self) -> list[SearchIndexSpec]:
        specs = {
            s.name: s
            for bound_model in self.bound
            for s in declared_search_indexes(bound_model.model)
        }
        return list(specs.values())

    def options(self) -> Mapping[str, Any] | None:
        for bound_model in self.bound:
            declared = declared_options(bound_model.model)
            if declared is not None:
                return create_options(bound_model.model, declared)
        return None


def _need_system(groups: Iterable[_CollectionModels], call: str) -> None:
    """Refuse a change of collections of which a model has rights or rules, unless ``system`` makes it."""
    for group in groups:
        for bound in group.bound:
            bound.need_system(current_env(), call)


class IndexCatalog:
    """The indexes and collections of one App."""

    def __init__(self, app: App) -> None:
        need_feature("indexes", "App.indexes", app)
        self._app = app

    def _by_collection(self, models: Models | None) -> list[_CollectionModels]:
        groups: dict[str, _CollectionModels] = {}
        names = None if models is None else {self._app.bind(m)._collection.name for m in models}
        for model in self._app.known_models():
            try:
                bound = self._app.bind(model)
            except EarnORMError:
                if models is not None and model in models:
                    raise
                continue  # a model that this App cannot use raises the error when it is used
            name = bound._collection.name
            if names is None or name in names:
                groups.setdefault(name, _CollectionModels(bound._collection, [])).bound.append(
                    bound
                )
        return [groups[name] for name in sorted(groups)]

    def declared(self, model: type[BaseModel]) -> list[IndexSpec]:
        """Return the indexes that a model declares, as the database would have them; none is created.

        Raises:
            ConfigurationError: A declaration is malformed.
        """
        bound = self._app.bind(model)
        return declared_indexes(bound.model, bound.operators)

    async def diff(self, models: Models | None = None) -> list[IndexDiff]:
        """Compare each collection with what its models declare; nothing is changed.

        Args:
            models: Only their collections; None means every model of the App.

        Raises:
            ConfigurationError: A declaration is malformed.
        """
        return [(await self._compare(group))[0] for group in self._by_collection(models)]

    async def _compare(self, group: _CollectionModels) -> tuple[IndexDiff, list[Document]]:
        declared, options = group.indexes(), group.options()
        description = await group.collection.describe()
        existing = [] if description is None else await group.collection.list_indexes()
        series = (description or {}).get("options", {}).get("timeseries")
        if series:
            existing = [index for index in existing if not _is_of_series(index, series)]
        collation = (description or {"options": options or {}})["options"].get("collation")
        comparison: Comparison = compare(declared, existing, collation)
        notes: list[str] = []
        search = await self._missing_search_indexes(group, notes)
        option_differences: tuple[str, ...] = ()
        if description is not None and options is not None:
            option_differences = differences(options, description)
        diff = IndexDiff(
            collection=group.collection.name,
            models=tuple(bound_model.model._name for bound_model in group.bound),
            exists=description is not None,
            ok=comparison.ok,
            missing=comparison.missing,
            different=comparison.different,
            unused=comparison.unused,
            options=option_differences,
            search=search,
            notes=tuple(notes),
        )
        return diff, existing

    async def _missing_search_indexes(
        self, group: _CollectionModels, notes: list[str]
    ) -> tuple[SearchIndexSpec, ...]:
        wanted = group.search_indexes()
        if not wanted:
            return ()
        try:
            existing = {index["name"] for index in await group.collection.list_search_indexes()}
        except NotSupported as error:
            notes.append(f"vector search: {error}")
            return ()
        return tuple(index for index in wanted if index.name not in existing)

    async def sync(
        self, models: Models | None = None, *, replace: bool = False, dry_run: bool = False
    ) -> list[IndexAction]:
        """Create what is missing, and with ``replace`` also change what differs.

        Args:
            models: Only their collections; None means every model of the App.
            replace: Change an index that differs: in place if the database can, else by dropping
                and creating it (if the new one cannot be created, the old one is restored).
            dry_run: Only return the actions, without carrying them out.

        Returns:
            Each action, and as ``leave`` each difference that stays.

        Raises:
            ConfigurationError: The database refuses an index.
        """
        actions: list[IndexAction] = []
        groups = self._by_collection(models)
        if not dry_run:
            _need_system(groups, "indexes.sync()")
        for group in groups:
            diff, existing = await self._compare(group)
            by_name = {index["name"]: index for index in existing}
            changes = [_change(diff.collection, d, replace, dry_run) for d in diff.different]
            if not dry_run:
                await _carry_out(group.collection, changes, by_name)
            actions += await self._create(group, diff, dry_run)
            actions += [action for _, action in changes]
            if diff.options:
                detail = f"the collection: {'; '.join(diff.options)}"
                actions.append(IndexAction("leave", diff.collection, "", detail, False))
        return actions

    async def _create(
        self, group: _CollectionModels, diff: IndexDiff, dry_run: bool
    ) -> list[IndexAction]:
        actions: list[IndexAction] = []
        name, options = diff.collection, group.options()
        if not diff.exists and options is not None:
            detail = f"the collection with {', '.join(sorted(options)) or 'no options'}"
            actions.append(IndexAction("create", name, "", detail, not dry_run))
            if not dry_run:
                await group.collection.create(options)
        for spec in diff.missing:
            actions.append(
                IndexAction("create", name, spec.name, f"index {described(spec)}", not dry_run)
            )
        for search in diff.search:
            detail = f"vector-search index {search.name!r}"
            actions.append(IndexAction("create", name, search.name, detail, not dry_run))
        if not dry_run:
            await group.collection.create_indexes(diff.missing)
            if diff.search:
                await group.collection.create_search_indexes(diff.search)
        return actions

    async def drop_unused(
        self, models: Models | None = None, *, dry_run: bool = False
    ) -> list[IndexAction]:
        """Drop every index that no model of the App declares, in the collections of its models.

        Args:
            models: Only their collections; None means every model of the App.
            dry_run: Only return the actions, without dropping an index.
        """
        actions: list[IndexAction] = []
        groups = self._by_collection(models)
        if not dry_run:
            _need_system(groups, "indexes.drop_unused()")
        for group in groups:
            diff, _ = await self._compare(group)
            for index in diff.unused:
                if not dry_run:
                    await group.collection.drop_index(index.name)
                actions.append(
                    IndexAction("drop", diff.collection, index.name, f"index {index}", not dry_run)
                )
        return actions

    async def advise(
        self, shapes: Iterable[QueryShape], *, verify: bool = False, sample: int = SAMPLE
    ) -> list[Advice]:
        """Find the indexes that shapes of queries lack.

        Args:
            shapes: From ``app.services["slow_queries"].shapes()``, a file of them, or ``shape()``.
            verify: Get the server's plans without and with the indexes, on a scratch collection
                with a sample of the documents; see :func:`earnorm.features.indexes.advice.try_out`.
            sample: The number of documents to copy for it.
        """
        result: list[Advice] = []
        for shape in shapes:
            bound = self._app.bind(self._app.model(shape.model))
            if verify:
                bound.need_system(current_env(), "indexes.advise(verify=True)")
            advice = advise(bound, shape, await bound._collection.list_indexes())
            if verify:
                collection = self._app._backend.collection
                advice = await try_out(bound, advice, collection, sample=sample)
            result.append(advice)
        return result

    def shape(
        self, model: type[BaseModel], domain: DomainSource = None, order: Order = None
    ) -> QueryShape:
        """Return the shape of a search.

        Raises:
            DomainError: The domain or the order is malformed.
        """
        bound = self._app.bind(model)
        _, op = Query(bound.model, Domain(domain)).order(order)._operation("search", self._app.env)
        known = {*bound.schema.fields, "id", "pk"}
        for name in sorted(op.domain.paths() - known):
            hint = nearest_field(bound.schema, name, known)
            raise DomainError(f"{bound.model._name} has no field {name!r}{hint}")
        query_shape = shape_of(op)
        assert query_shape is not None  # every search has a shape
        return query_shape


def _is_of_series(index: Document, series: Mapping[str, Any]) -> bool:
    """Return True for the index that MongoDB itself creates for a time series since 6.3."""
    keys = [*index["key"]]
    return keys == [series.get("metaField"), series.get("timeField")] and set(
        index["key"].values()
    ) == {1}


def _is_modifiable(difference: IndexDifference) -> bool:
    # The server can make an index a TTL index in place, but cannot undo that in place.
    was_ttl_only = (
        "expireAfterSeconds" in difference.options
        and "expireAfterSeconds" not in difference.declared.options
    )
    return difference.options <= {"hidden", "expireAfterSeconds"} and not was_ttl_only


def _changed_options(difference: IndexDifference) -> dict[str, Any]:
    options = difference.declared.options
    defaults: dict[str, Any] = {"hidden": False}
    return {name: options.get(name, defaults.get(name)) for name in sorted(difference.options)}


def _change(
    collection: str, difference: IndexDifference, replace: bool, dry_run: bool
) -> tuple[IndexDifference, IndexAction]:
    kind: Literal["modify", "replace", "leave"] = "leave"
    if replace:
        kind = "modify" if _is_modifiable(difference) else "replace"
    detail, is_done = f"index {difference}", replace and not dry_run
    return difference, IndexAction(kind, collection, difference.existing.name, detail, is_done)


async def _carry_out(
    collection: Collection,
    changes: Sequence[tuple[IndexDifference, IndexAction]],
    existing: Mapping[str, Document],
) -> None:
    for difference, action in changes:
        if action.kind == "modify":
            await collection.modify_index(difference.existing.name, _changed_options(difference))
    await _replace(collection, [d for d, action in changes if action.kind == "replace"], existing)


async def _replace(
    collection: Collection, different: Sequence[IndexDifference], existing: Mapping[str, Document]
) -> None:
    """Drop all, then create all: a new index may have the name or the keys of another old one."""
    try:
        for difference in different:
            await collection.drop_index(difference.existing.name)
        await collection.create_indexes([difference.declared for difference in different])
    except BaseException:
        for difference in different:
            try:
                await collection.create_indexes([_spec_of(existing[difference.existing.name])])
            except ConfigurationError:
                continue  # its replacement was created before the server refused another one
        raise


def _spec_of(existing: Document) -> IndexSpec:
    options = {name: value for name, value in existing.items() if name not in ("v", "key", "ns")}
    keys: Sequence[tuple[str, Any]] = [*existing["key"].items()]
    return IndexSpec(tuple(keys), options)
