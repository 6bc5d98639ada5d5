"""``@cached``: keeps what an async function gave, until something that it depends on is written.

A result is kept with the tokens of what it depends on, as the result of a query is. They are read before the function
is called, and a result is given only while they are the same. So none is older than a write that was acknowledged
before the call began.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, ParamSpec, TypeAlias, TypeVar

from earnorm import BaseModel, ConfigurationError
from earnorm.plugin import ModelView, find_env, from_bson, name_of, nearest, to_bson
from earnorm_cache.calls import Calls
from earnorm_cache.change import ANYTHING, MEMBERS, field_token
from earnorm_cache.in_progress import IN_FUNCTION, Reads
from earnorm_cache.options import levels_of

if TYPE_CHECKING:
    from earnorm import App, Env
    from earnorm_cache.closing import Shelf
    from earnorm_cache.levels import Levels

log = logging.getLogger("earnorm.cache")

P = ParamSpec("P")
T = TypeVar("T")

Dependency: TypeAlias = type[BaseModel] | tuple[type[BaseModel], Iterable[str]]
"""A model, or a model with the only fields whose changes count."""

MOST_BYTES: Final = 2**20
"""The largest results that are kept."""


def cached(
    *depends: Dependency, ttl: float | None = None, shared: bool = False
) -> Callable[[Callable[P, Awaitable[T]]], Callable[P, Awaitable[T]]]:
    """Keep what an async function gives, until something that it depends on is written.

    Args:
        depends: The models that the function reads. ``(Partner, ["name"])`` says that of that model only
            records that come or go, and changes of these stored fields, count.
        ttl: The most seconds that a result is kept; that of the settings if none is said.
        shared: The result is the same for whoever acts. Otherwise each principal has results of its own.

    Returns:
        A decorator. The function then takes and gives the same.

    Raises:
        ConfigurationError: It depends on nothing, or is no async function.
    """
    wanted = _Wanted(tuple(map(_parsed, depends)))
    if not wanted.parts:
        raise ConfigurationError(
            "cached() needs the models that the function reads: @cached(Order, (Partner, ['name']))"
        )
    if ttl is not None and not 0 < ttl < float("inf"):
        raise ConfigurationError(f"cached(ttl={ttl}): a ttl is a number of seconds above 0")

    def decorate(function: Callable[P, Awaitable[T]]) -> Callable[P, Awaitable[T]]:
        if not inspect.iscoroutinefunction(function) or isinstance(function, functools.partial):
            raise ConfigurationError(
                f"cached(): {function!r} is no async function; write @cached below @classmethod"
            )
        owner: object = getattr(function, "__self__", None)
        if owner is not None and not isinstance(owner, type):
            raise ConfigurationError(
                f"cached(): {function!r} is a method of an object, which no key tells from others; write a function that "
                f"takes as arguments what it needs of the object"
            )
        calls = Calls(function, shared)

        @functools.wraps(function)
        async def call(*arguments: P.args, **named: P.kwargs) -> T:
            env = find_env()
            functions = None if env is None else _functions_of(env.app)
            if env is None or functions is None or env.is_in_session:
                return await function(*arguments, **named)
            plan = functions.plan(calls.name, wanted)
            if plan is None:
                return await function(*arguments, **named)
            key = calls.key(env, arguments, named, plan.shape)
            load = functools.partial(function, *arguments, **named)
            result: T = await functions.give(plan, key, env, load, ttl, is_shared=shared)
            return result

        return call

    return decorate


@dataclass(frozen=True, slots=True, eq=False)
class _Wanted:
    """The models that a function depends on, each with the fields that count; None for all."""

    parts: tuple[tuple[type[BaseModel], tuple[str, ...] | None], ...]


_DEPENDED: Final[set[str]] = set()
"""The names of the models that functions depend on. Their writes pass the cache, also if they are not cached."""


def are_used(app: App) -> bool:
    """Return whether functions of this program depend on a model of an App."""
    return bool(_DEPENDED) and any(name_of(model) in _DEPENDED for model in app.usable_models())


def is_depended_on(model: ModelView) -> bool:
    """Return whether a function of this program depends on a model."""
    return model.name in _DEPENDED


def _parsed(depends: Dependency) -> tuple[type[BaseModel], tuple[str, ...] | None]:
    model, names = depends if isinstance(depends, tuple) else (depends, None)
    if not (isinstance(model, type) and issubclass(model, BaseModel)) or isinstance(names, str):
        raise ConfigurationError(
            f"cached(): {depends!r} is neither a model nor a model with a list of its fields"
        )
    _DEPENDED.add(name_of(model))
    return model, None if names is None else tuple(names)


def _functions_of(app: App) -> Functions | None:
    from earnorm_cache.service import CacheService

    for service in app.services.values():
        if isinstance(service, CacheService):
            return service.functions
    return None


@dataclass(frozen=True, slots=True)
class _Part:
    """The tokens of one collection that a function depends on."""

    collection: str
    shelf: Shelf
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """The dependencies of a function in one App.

    Attributes:
        name: The name of the function.
        parts: The tokens by collection.
        models: The models.
        shape: Differs where two programs read these models differently.
        in_memory: All of the models may be kept in the memory of the process, or say nothing of it.
        in_redis: They may be kept in Redis, likewise.
    """

    name: str
    parts: tuple[_Part, ...]
    models: tuple[type[BaseModel], ...]
    shape: list[object]
    in_memory: bool
    in_redis: bool

    def vector(self) -> tuple[tuple[int, ...], ...]:
        """Return the tokens in this process."""
        return tuple(part.shelf.vector(part.names) for part in self.parts)

    @property
    def is_written(self) -> bool:
        """True while this process writes something that the function depends on."""
        return any(part.shelf.is_written(part.names) for part in self.parts)


class Functions:
    """The results of functions in one App.

    Args:
        app: The App.
        levels: Its levels.
        shelf_of: Returns the shelf of a model's collection; None if its writes do not pass the cache.
    """

    def __init__(
        self, app: App, levels: Levels, shelf_of: Callable[[ModelView], Shelf | None]
    ) -> None:
        self._app, self._levels, self._shelf_of = app, levels, shelf_of
        self._plans: dict[_Wanted, Plan | None] = {}
        self._said: set[str] = set()
        self._kept: dict[str, set[Any]] = {}
        self.hits: Counter[str] = Counter()
        """The calls that were answered with a kept result, by the name of the function."""
        self.calls: Counter[str] = Counter()
        """The times that it was called."""
        self._flights: dict[tuple[bytes, object], asyncio.Future[bytes | None]] = {}
        """The calls of this process that others may join, by key and vector."""

    def forget(self) -> None:
        """Forget what functions depend on, since models came or went."""
        self._plans.clear()

    def plan(self, name: str, wanted: _Wanted) -> Plan | None:
        """Return what a function depends on in this App; None if it cannot be known when that is written.

        Raises:
            ConfigurationError: A field is not there, or is not stored.
        """
        if wanted not in self._plans:
            self._plans[wanted] = self._planned(name, wanted)
        return self._plans[wanted]

    def _planned(self, name: str, wanted: _Wanted) -> Plan | None:
        tokens: dict[str, set[str]] = {}
        shelves: dict[str, Shelf] = {}
        shape: list[object] = []
        models: list[type[BaseModel]] = []
        for declared, names in wanted.parts:
            model = self._app.bind(declared).model
            view = ModelView(model)
            shelf = self._shelf_of(view)
            if shelf is None:
                log.info(
                    "%s is not cached: its module was imported after %s was first used",
                    name,
                    view.name,
                )
                return None
            models.append(model)
            shelves[view.collection] = shelf
            own = {ANYTHING} if names is None else _tokens(name, view, names)
            tokens.setdefault(view.collection, set()).update(own)
            fields = sorted(f"{field.db_name}" for field in view.fields.values())
            shape.append([view.name, fields])
        parts = tuple(
            _Part(collection, shelves[collection], tuple(sorted(names)))
            for collection, names in sorted(tokens.items())
        )
        levels = [levels_of(ModelView(model)) for model in models]
        return Plan(
            name,
            parts,
            tuple(models),
            shape,
            in_memory="redis" not in levels,
            in_redis="memory" not in levels,
        )

    async def give(
        self,
        plan: Plan,
        key: bytes,
        env: Env,
        load: Callable[[], Awaitable[Any]],
        ttl: float | None,
        *,
        is_shared: bool,
    ) -> Any:
        """Return a kept result, or call the function, once for all who wait for the same."""
        levels = self._levels
        seconds = levels.settings.default_ttl if ttl is None else ttl
        # A right that was taken away must not last as long as the memory may be old: then only Redis is asked.
        is_open = plan.in_memory and (
            is_shared
            or env.system
            or not any(self._app.bind(model).is_restricted for model in plan.models)
        )
        in_redis = levels.shared is not None and plan.in_redis
        while not plan.is_written and (is_open or in_redis):
            flight = None
            if is_open and await levels.are_heard(part.collection for part in plan.parts):
                data = self._in_memory(plan, key)
                if data is not None:
                    self.hits[plan.name] += 1
                    return from_bson(data)[""]
                # A write that this process knows of has changed the vector: such a call is not joined.
                flight = self._flights.get((key, plan.vector()))
            if flight is None:
                return await self._called(plan, key, load, seconds, is_open=is_open)
            data = await asyncio.shield(flight)
            if data is not None:  # else it failed, was cancelled, or is too large
                self.hits[plan.name] += 1
                return from_bson(data)[""]
        if not (is_open or in_redis):
            self._say(
                plan.name,
                "is not kept for who acts under access rules: that takes Redis, and models that may be there",
            )
        self.calls[plan.name] += 1
        return await load()

    async def _called(
        self,
        plan: Plan,
        key: bytes,
        load: Callable[[], Awaitable[Any]],
        ttl: float,
        *,
        is_open: bool,
    ) -> Any:
        """Take what Redis has, or call the function; others of this process join."""
        vector, results = plan.vector(), self._levels.results if plan.in_redis else None
        flight: asyncio.Future[bytes | None] = asyncio.get_running_loop().create_future()
        if is_open:
            self._flights[key, vector] = flight
        given: list[Any] = []
        packed: bytes | None = None

        async def loaded() -> bytes | None:
            nonlocal packed
            reads = Reads(frozenset(part.collection for part in plan.parts))
            token = IN_FUNCTION.set(reads)
            try:
                given.append(await load())
            finally:
                IN_FUNCTION.reset(token)
            packed = _packed(plan.name, given[0])
            if reads.unknown is not None:
                packed = None
                self._say(
                    plan.name,
                    f"is not kept, because it also depends on {reads.unknown}: a relation or an access rule leads there; "
                    f"name that model, too",
                )
            return packed

        try:
            data = await (loaded() if results is None else self._fetch(plan, key, loaded, ttl))
            data = packed if data is None else data
            if data is not None and is_open:
                self._keep(plan, key, vector, data, ttl)
            flight.set_result(data)
        finally:
            if self._flights.get((key, vector)) is flight:
                del self._flights[key, vector]
            if not flight.done():
                flight.set_result(None)
        if given:
            self.calls[plan.name] += 1
            return given[0]
        assert data is not None
        self.hits[plan.name] += 1
        return from_bson(data)[""]

    def _say(self, name: str, what: str) -> None:
        """Warn once why the results of a function are not kept."""
        if name not in self._said:
            self._said.add(name)
            log.warning("@cached %s: what it gives %s", name, what)

    async def _fetch(
        self, plan: Plan, key: bytes, loaded: Callable[[], Awaitable[bytes | None]], ttl: float
    ) -> bytes | None:
        results = self._levels.results
        assert results is not None
        first, *others = plan.parts
        vectors = await asyncio.gather(
            *(results.vector(part.collection, part.names) for part in others)
        )
        if None in vectors:  # Redis is away
            return await loaded()
        more = b"".join(vector for vector in vectors if vector is not None)
        return await results.fetch(first.collection, b"f" + key, first.names, loaded, ttl, more)

    def _in_memory(self, plan: Plan, key: bytes) -> bytes | None:
        kept = self._levels.shelves.memory.get((plan.name, key))
        if kept is None or plan.is_written:
            return None
        head = _head(plan.vector())
        return kept[len(head) :] if kept.startswith(head) else None

    def _keep(
        self, plan: Plan, key: bytes, vector: tuple[tuple[int, ...], ...], data: bytes, ttl: float
    ) -> None:
        if plan.vector() == vector and not plan.is_written:
            among = self._kept.setdefault(plan.name, set())
            ttl = min(ttl, self._levels.settings.default_ttl)
            memory = self._levels.shelves.memory
            memory.put((plan.name, key), _head(vector) + data, among, ttl)


def _tokens(function: str, model: ModelView, names: Iterable[str]) -> set[str]:
    tokens = {MEMBERS}
    for name in names:
        field = model.fields.get(name)
        if field is None:
            raise ConfigurationError(
                f"cached function {function}: model {model.name!r} has no field {name!r}"
                f"{nearest(name, model.fields)}"
            ).coded("cached_field")
        if not field.stored:
            raise ConfigurationError(
                f"cached function {function}: field {name!r} of model {model.name!r} is not stored; name the fields that "
                f"it is made of"
            ).coded("cached_field")
        tokens.add(field_token(field.db_name))
    return tokens


def _packed(function: str, result: object) -> bytes | None:
    """Return the BSON of a result; None if it is too large to be kept.

    Raises:
        ConfigurationError: It would not come back as it is.
    """
    try:
        data = to_bson({"": result})
        same = from_bson(data)[""]
    except Exception as error:
        raise _not_kept(function, result) from error
    if type(same) is not type(result) or same != result:
        raise _not_kept(function, result)
    return data if len(data) <= MOST_BYTES else None


def _not_kept(function: str, result: object) -> ConfigurationError:
    return ConfigurationError(
        f"cached function {function} gave a {type(result).__qualname__} that does not come back from BSON as it is; give "
        f"texts, numbers, ids, moments without a time zone and to the millisecond, and lists and dicts of them (not "
        f"records, tuples or sets)"
    ).coded("cached_result")


def _head(vector: tuple[tuple[int, ...], ...]) -> bytes:
    return b"".join(number.to_bytes(8, "little") for part in vector for number in part)
