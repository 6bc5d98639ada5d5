"""``app.indexes``: what an App's models declare against what its database has, and how to bring them together.

Works on collections, not on models: models that share one have their indexes there side by side, and none
of them is another's surplus.
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
    nearest,
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
from earnorm.model.query import Query

if TYPE_CHECKING:
    from earnorm.kernel.app import App
    from earnorm.kernel.binding import BoundModel
    from earnorm.model.base import BaseModel
    from earnorm.model.reading.ordering import Order

Models = Iterable["type[BaseModel]"]


@dataclass(frozen=True, slots=True)
class IndexDiff:
    """One collection: what its models declare against what is there.

    Attributes:
        collection: The collection's name.
        models: The names of the models that are kept in it.
        exists: Whether it exists.
        ok: Declared, and there.
        missing: Declared, and not there.
        different: Declared, and something else stands in its place.
        unused: There, and not declared.
        options: In words, where the collection is not kept as declared (``_options``).
        search: Vector-search indexes that are declared and not there.
        notes: What could not be compared, and why.
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
        """Nothing is missing, different or undeclared."""
        return not (self.missing or self.different or self.unused or self.options or self.search)

    def lines(self) -> list[str]:
        """The differences, a line each."""
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
    """One step that was taken, or would be.

    Attributes:
        kind: ``create``, ``modify`` (in place), ``replace`` (drop and create), ``drop``, or ``leave``: a
            difference that was not to be touched.
        collection: The collection's name.
        index: The index's name; empty for the collection itself.
        detail: What and why, in words.
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
    """A declared index in words, without the values of its condition."""
    options = sorted(spec.options.keys() - {"name"})
    return f"{spec.name!r} on {shown(spec.keys)}" + (f" [{', '.join(options)}]" if options else "")


@dataclass(frozen=True, slots=True)
class _Kept:
    """A collection and the models in it."""

    collection: Collection
    bound: list[BoundModel]

    def indexes(self) -> list[IndexSpec]:
        found: dict[object, IndexSpec] = {}
        for each in self.bound:
            for spec in declared_indexes(each.model, each.operators):
                known = found.setdefault((spec.keys, spec.name), spec)
                if known != spec:
                    names = " and ".join(b.model._name for b in self.bound)
                    raise ConfigurationError(
                        f"{self.collection.name}: {names} share the collection and declare the index "
                        f"{spec.name!r} with different options"
                    )
        return list(found.values())

    def search_indexes(self) -> list[SearchIndexSpec]:
        found = {s.name: s for each in self.bound for s in declared_search_indexes(each.model)}
        return list(found.values())

    def options(self) -> Mapping[str, Any] | None:
        for each in self.bound:
            declared = declared_options(each.model)
            if declared is not None:
                return create_options(each.model, declared)
        return None


class IndexCatalog:
    """The indexes and collections of one App."""

    def __init__(self, app: App) -> None:
        self._app = app

    def _kept(self, models: Models | None) -> list[_Kept]:
        found: dict[str, _Kept] = {}
        chosen = None if models is None else {self._app.bind(m).collection.name for m in models}
        for model in self._app.known_models():
            try:
                bound = self._app.bind(model)
            except EarnORMError:
                if models is not None and model in models:
                    raise
                continue  # a model that cannot be used here says so when it is used
            name = bound.collection.name
            if chosen is None or name in chosen:
                found.setdefault(name, _Kept(bound.collection, [])).bound.append(bound)
        return [found[name] for name in sorted(found)]

    async def diff(self, models: Models | None = None) -> list[IndexDiff]:
        """Compare each collection with what its models declare; nothing is changed.

        Args:
            models: Only their collections; None means every model of the App.

        Raises:
            ConfigurationError: A declaration is malformed.
        """
        return [(await self._look(kept))[0] for kept in self._kept(models)]

    async def _look(self, kept: _Kept) -> tuple[IndexDiff, list[Document]]:
        declared, options = kept.indexes(), kept.options()
        description = await kept.collection.describe()
        existing = [] if description is None else await kept.collection.list_indexes()
        series = (description or {}).get("options", {}).get("timeseries")
        if series:
            existing = [index for index in existing if not _is_of_series(index, series)]
        collation = (description or {"options": options or {}})["options"].get("collation")
        found: Comparison = compare(declared, existing, collation)
        notes: list[str] = []
        search = await self._missing_search_indexes(kept, notes)
        unlike: tuple[str, ...] = ()
        if description is not None and options is not None:
            unlike = differences(options, description)
        diff = IndexDiff(
            collection=kept.collection.name,
            models=tuple(each.model._name for each in kept.bound),
            exists=description is not None,
            ok=found.ok,
            missing=found.missing,
            different=found.different,
            unused=found.unused,
            options=unlike,
            search=search,
            notes=tuple(notes),
        )
        return diff, existing

    async def _missing_search_indexes(
        self, kept: _Kept, notes: list[str]
    ) -> tuple[SearchIndexSpec, ...]:
        wanted = kept.search_indexes()
        if not wanted:
            return ()
        try:
            existing = {each["name"] for each in await kept.collection.list_search_indexes()}
        except NotSupported as error:
            notes.append(f"vector search: {error}")
            return ()
        return tuple(each for each in wanted if each.name not in existing)

    async def sync(
        self, models: Models | None = None, *, replace: bool = False, dry_run: bool = False
    ) -> list[IndexAction]:
        """Create what is missing. What differs stays as it is unless ``replace`` asks for more.

        Args:
            models: Only their collections; None means every model of the App.
            replace: Change an index that differs: in place where the database can, else dropped and
                created again (and put back if the new one cannot be created).
            dry_run: Only say what would be done.

        Returns:
            Each step, and as ``leave`` each difference that was not touched.

        Raises:
            ConfigurationError: The database refuses an index.
        """
        actions: list[IndexAction] = []
        for kept in self._kept(models):
            diff, existing = await self._look(kept)
            by_name = {index["name"]: index for index in existing}
            settled = [_settling(diff.collection, d, replace, dry_run) for d in diff.different]
            if not dry_run:
                await _settle(kept.collection, settled, by_name)
            actions += await self._create(kept, diff, dry_run)
            actions += [action for _, action in settled]
            if diff.options:
                said = f"the collection: {'; '.join(diff.options)}"
                actions.append(IndexAction("leave", diff.collection, "", said, False))
        return actions

    async def _create(self, kept: _Kept, diff: IndexDiff, dry_run: bool) -> list[IndexAction]:
        actions: list[IndexAction] = []
        name, options = diff.collection, kept.options()
        if not diff.exists and options is not None:
            said = f"the collection with {', '.join(sorted(options)) or 'no options'}"
            actions.append(IndexAction("create", name, "", said, not dry_run))
            if not dry_run:
                await kept.collection.create(options)
        for spec in diff.missing:
            actions.append(
                IndexAction("create", name, spec.name, f"index {described(spec)}", not dry_run)
            )
        for search in diff.search:
            said = f"vector-search index {search.name!r}"
            actions.append(IndexAction("create", name, search.name, said, not dry_run))
        if not dry_run:
            await kept.collection.create_indexes(diff.missing)
            if diff.search:
                await kept.collection.create_search_indexes(diff.search)
        return actions

    async def drop_unused(
        self, models: Models | None = None, *, dry_run: bool = False
    ) -> list[IndexAction]:
        """Drop every index that no model of the App declares, in the collections of its models.

        Args:
            models: Only their collections; None means every model of the App.
            dry_run: Only say what would be dropped.
        """
        actions: list[IndexAction] = []
        for kept in self._kept(models):
            diff, _ = await self._look(kept)
            for index in diff.unused:
                if not dry_run:
                    await kept.collection.drop_index(index.name)
                actions.append(
                    IndexAction("drop", diff.collection, index.name, f"index {index}", not dry_run)
                )
        return actions

    async def advise(
        self, shapes: Iterable[QueryShape], *, verify: bool = False, sample: int = SAMPLE
    ) -> list[Advice]:
        """Which indexes these shapes of queries lack.

        Args:
            shapes: From ``app.services["slow_queries"].shapes()``, a file of them, or ``shape()``.
            verify: Ask the server's planner before and after, on a scratch collection with a sample of
                the documents; see :func:`earnorm.features.indexes.advice.try_out`.
            sample: How many documents to copy for it.
        """
        found: list[Advice] = []
        for shape in shapes:
            bound = self._app.bind(self._app.model(shape.model))
            advice = advise(bound, shape, await bound.collection.list_indexes())
            if verify:
                collection = self._app.backend.collection
                advice = await try_out(bound, advice, collection, sample=sample)
            found.append(advice)
        return found

    def shape(
        self, model: type[BaseModel], domain: DomainSource = None, order: Order = None
    ) -> QueryShape:
        """The shape of a search.

        Raises:
            DomainError: The domain or the order is malformed.
        """
        bound = self._app.bind(model)
        _, op = Query(bound.model, Domain(domain)).order(order)._operation("search", self._app.env)
        known = {*bound.schema.fields, "id", "pk"}
        for name in sorted(op.domain.paths() - known):
            raise DomainError(f"{bound.model._name} has no field {name!r}{nearest(name, known)}")
        found = shape_of(op)
        assert found is not None  # a search has one
        return found


def _is_of_series(index: Document, series: Mapping[str, Any]) -> bool:
    """Since MongoDB 6.3 the server gives a time series an index of its own."""
    keys = [*index["key"]]
    return keys == [series.get("metaField"), series.get("timeField")] and set(
        index["key"].values()
    ) == {1}


def _is_modifiable(difference: IndexDifference) -> bool:
    # An index becomes a TTL index in place, and never again another.
    was_ttl_only = (
        "expireAfterSeconds" in difference.options
        and "expireAfterSeconds" not in difference.declared.options
    )
    return difference.options <= {"hidden", "expireAfterSeconds"} and not was_ttl_only


def _changes(difference: IndexDifference) -> dict[str, Any]:
    options = difference.declared.options
    defaults: dict[str, Any] = {"hidden": False}
    return {name: options.get(name, defaults.get(name)) for name in sorted(difference.options)}


def _settling(
    collection: str, difference: IndexDifference, replace: bool, dry_run: bool
) -> tuple[IndexDifference, IndexAction]:
    kind: Literal["modify", "replace", "leave"] = "leave"
    if replace:
        kind = "modify" if _is_modifiable(difference) else "replace"
    said, is_done = f"index {difference}", replace and not dry_run
    return difference, IndexAction(kind, collection, difference.existing.name, said, is_done)


async def _settle(
    collection: Collection,
    settled: Sequence[tuple[IndexDifference, IndexAction]],
    existing: Mapping[str, Document],
) -> None:
    for difference, action in settled:
        if action.kind == "modify":
            await collection.modify_index(difference.existing.name, _changes(difference))
    await _replace(collection, [d for d, action in settled if action.kind == "replace"], existing)


async def _replace(
    collection: Collection, different: Sequence[IndexDifference], existing: Mapping[str, Document]
) -> None:
    """Drop all, then create all: a new one may want the name or the keys of another old one."""
    try:
        for difference in different:
            await collection.drop_index(difference.existing.name)
        await collection.create_indexes([difference.declared for difference in different])
    except BaseException:
        for difference in different:
            try:
                await collection.create_indexes([_spec_of(existing[difference.existing.name])])
            except ConfigurationError:
                continue  # its successor was created before another one was refused
        raise


def _spec_of(existing: Document) -> IndexSpec:
    options = {name: value for name, value in existing.items() if name not in ("v", "key", "ns")}
    keys: Sequence[tuple[str, Any]] = [*existing["key"].items()]
    return IndexSpec(tuple(keys), options)
