"""``Query.aggregate()``: MongoDB's own pipeline over the records that query and rules allow.

Stages are allowed by name. No allowed stage writes, runs JavaScript or gives facts about the
server. A pipeline names another collection by its model; that model's layers decide which records
it sees.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, NoReturn

from bson import Code

from earnorm.domain.values import encodable
from earnorm.exceptions import ConfigurationError, NotSupported, ValidationError, nearest
from earnorm.kernel.environment import current_env
from earnorm.kernel.left_out import need_feature
from earnorm.kernel.operations import REQUEST, Operation, made_by
from earnorm.kernel.requests import PipelineCapture, Stream
from earnorm.model.reading.streaming import BATCH

if TYPE_CHECKING:
    from earnorm.kernel.environment import Env
    from earnorm.model.query import Query

Stage = Mapping[str, Any]

MAX_LEVELS: Final = 80
"""The most levels of nesting; a server allows 200, and the leading stages need some of them."""

_ALLOWED: Final = (
    *("$addFields", "$bucket", "$bucketAuto", "$count", "$densify", "$fill", "$group", "$limit"),
    *("$match", "$project", "$redact", "$replaceRoot", "$replaceWith", "$sample", "$set"),
    *("$setWindowFields", "$skip", "$sort", "$sortByCount", "$unset", "$unwind"),
)
_WRITES = "it writes past every layer; use the rows, or create() and write()"
_FIRST = "it has to be a pipeline's first stage, and there stands the query's own condition"
_REASONS: Final = {
    "$out": _WRITES,
    "$merge": _WRITES,
    "$geoNear": _FIRST,
    "$search": _FIRST,
    "$searchMeta": _FIRST,
    "$vectorSearch": _FIRST,
    "$documents": "it reads no record of the model",
}
_SERVER_FACTS = "it tells of the server, not of the model's records"
_JAVASCRIPT: Final = frozenset({"$where", "$function", "$accumulator"})


class Aggregation:
    """The rows of a pipeline: ``await`` gives a list, ``async for`` streams them.

    Rows are in stored form: the output of the pipeline, as the driver decodes it (naive UTC
    date-times, ``Decimal128``, ids as ``ObjectId``).
    """

    __slots__ = ("_batch", "_env", "_op", "_pipeline")

    def __init__(self, env: Env, op: Operation, pipeline: Sequence[Stage], batch_size: int) -> None:
        self._env = env
        self._op = op
        self._pipeline = pipeline
        self._batch = batch_size

    async def _operation(self) -> Operation:
        stages = await compiled(self._env, self._op.model._name, self._pipeline)
        return self._op.replace(options=self._op.options.replace(pipeline=tuple(stages)))

    def __await__(self) -> Generator[Any, None, list[dict[str, Any]]]:
        return self._run().__await__()

    async def _run(self) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = await self._env.app.execute(await self._operation())
        return rows

    async def __aiter__(self) -> AsyncIterator[dict[str, Any]]:
        """Stream the rows in batches, so that this process needs constant memory."""
        stream = Stream(self._batch)
        op = (await self._operation()).with_note(REQUEST, stream)
        try:
            while rows := await self._env.app.execute(op):
                for row in rows:
                    yield row
        finally:
            await stream.close()

    def __repr__(self) -> str:
        return f"<Aggregation of {self._op.model._name} in {len(self._pipeline)} stages>"


def aggregation(query: Query[Any], pipeline: Sequence[Stage]) -> Aggregation:
    """Make the aggregation over the records of a query; see ``Query.aggregate``."""
    need_feature("grouping", "aggregate()")
    env = current_env()
    if query._order is None and not (query._limit or query._offset):
        query = query.order()  # without a window, a pipeline sorts by itself where it has to
    _, op = query._operation("group", env)
    return Aggregation(env, op, pipeline, BATCH)


async def compiled(env: Env, subject: str, pipeline: Sequence[Stage]) -> list[Stage]:
    """Check a pipeline, and replace the names of models by those of their collections.

    Args:
        env: The environment; its principal decides which records of other models are seen.
        subject: The model's name, for messages.
        pipeline: MongoDB's stages.

    Raises:
        ValidationError: A stage is not allowed, contains JavaScript, or names an unknown model.
        AccessDenied: The principal may not read another model that the pipeline names.
    """
    return await _Compiler(env, subject).stages(pipeline, ())


class _Compiler:
    def __init__(self, env: Env, subject: str) -> None:
        self._env = env
        self._subject = subject
        self._special: dict[str, Callable[[Any, tuple[str | int, ...]], Awaitable[Any]]] = {
            "$facet": self._facet,
            "$lookup": self._lookup,
            "$unionWith": self._union_with,
            "$graphLookup": self._graph_lookup,
        }

    async def stages(self, pipeline: object, loc: tuple[str | int, ...]) -> list[Stage]:
        if not isinstance(pipeline, list | tuple):
            self._refuse(loc, f"a pipeline is a list of stages, not a {type(pipeline).__name__}")
        if len(loc) > MAX_LEVELS:
            self._refuse(loc[:3], "pipelines are nested too deeply")
        compiled_stages: list[Stage] = []
        for position, stage in enumerate(pipeline):
            stage_loc = (*loc, position)
            if not isinstance(stage, Mapping) or len(stage) != 1:
                self._refuse(stage_loc, 'a stage is a dict of one key, e.g. {"$match": {...}}')
            ((name, value),) = stage.items()
            compile_value = self._special.get(name)
            if compile_value is not None:
                value = await compile_value(value, (*stage_loc, name))
            elif name in _ALLOWED:
                self._check(value, (*stage_loc, name))
            else:
                self._refuse_stage(name, stage_loc)
            compiled_stages.append({name: value})
        return compiled_stages

    def _refuse_stage(self, name: object, loc: tuple[str | int, ...]) -> NoReturn:
        known = {*_ALLOWED, *self._special}
        if not isinstance(name, str):
            self._refuse(loc, "a stage's name is a text")
        reason = _REASONS.get(name)
        if reason is None:
            hint = nearest(name, known) if len(name) < 40 else ""
            reason = hint.removeprefix("; ") or _SERVER_FACTS
        self._refuse(loc, f"the stage {name[:40]} is not allowed here: {reason}")

    def _check(self, value: Any, loc: tuple[str | int, ...], level: int = 0) -> None:
        if level > MAX_LEVELS:
            self._refuse(loc, "it is nested too deeply")
        if isinstance(value, Mapping):
            for key, item in value.items():
                if not isinstance(key, str) or "\0" in key:
                    self._refuse(loc, "a key is a text without NUL")
                self._check_text(key, loc)
                if key in _JAVASCRIPT:
                    self._refuse(loc, f"{key} runs JavaScript on the server, which is not allowed")
                self._check(item, loc, level + 1)
        elif isinstance(value, list | tuple):
            for item in value:
                self._check(item, loc, level + 1)
        elif isinstance(value, Code):
            self._refuse(loc, "JavaScript is not allowed")
        elif isinstance(value, str):
            self._check_text(value, loc)
        elif isinstance(value, int) and not -(2**63) <= value < 2**63:
            self._refuse(loc, "a number of more than 64 bits cannot be sent")

    def _check_text(self, text: str, loc: tuple[str | int, ...]) -> None:
        try:
            encodable(text)
        except ValueError as error:
            self._refuse(loc, str(error))

    # -- stages with pipelines or other collections inside ------------------------------------

    async def _facet(self, value: Any, loc: tuple[str | int, ...]) -> Any:
        facets = self._mapping(value, loc)
        return {
            name: await self.stages(stages, (*loc, str(name))) for name, stages in facets.items()
        }

    async def _lookup(self, value: Any, loc: tuple[str | int, ...]) -> Any:
        spec = self._mapping(value, loc)
        rest = {k: v for k, v in spec.items() if k not in ("from", "pipeline")}
        self._check(rest, loc)
        collection, leading = await self._foreign(spec.get("from"), (*loc, "from"))
        own = await self.stages(spec.get("pipeline", ()), (*loc, "pipeline"))
        self._refuse_hidden(spec.get("foreignField"), leading, loc)
        stages = [*leading, *own]
        if stages or "pipeline" in spec:
            rest["pipeline"] = stages
        return {"from": collection, **rest}

    async def _union_with(self, value: Any, loc: tuple[str | int, ...]) -> Any:
        spec = {"coll": value} if isinstance(value, str) else self._mapping(value, loc)
        self._refuse_unknown(spec, {"coll", "pipeline"}, loc)
        collection, leading = await self._foreign(spec.get("coll"), (*loc, "coll"))
        own = await self.stages(spec.get("pipeline", ()), (*loc, "pipeline"))
        return {"coll": collection, "pipeline": [*leading, *own]}

    async def _graph_lookup(self, value: Any, loc: tuple[str | int, ...]) -> Any:
        spec = self._mapping(value, loc)
        self._check(spec, loc)
        collection, leading = await self._foreign(spec.get("from"), (*loc, "from"))
        conditions = [stage["$match"] for stage in leading if "$match" in stage]
        if len(conditions) < len(leading):
            raise NotSupported(
                f"{self._subject}: $graphLookup from {spec['from']!r}: some of its fields are hidden "
                f"from you, and this stage cannot leave them out; use $lookup"
            )
        own = spec.get("restrictSearchWithMatch")
        conditions += [own] if own else []
        result = {**spec, "from": collection}
        if conditions:
            result["restrictSearchWithMatch"] = {"$and": conditions}
        return result

    async def _foreign(self, name: Any, loc: tuple[str | int, ...]) -> tuple[str, list[Stage]]:
        """Return another model's collection, and the leading stages that its layers add."""
        if not isinstance(name, str):
            self._refuse(loc, 'names another model by its name, e.g. "core.author"')
        env = self._env
        try:
            model = env.app.model(name)
        except ConfigurationError as error:
            self._refuse(loc, str(error))
        capture = PipelineCapture()
        notes = {**made_by("grouping"), REQUEST: capture}
        await env.app.execute(Operation("search", model, env, notes=notes))
        stages = [stage for stage in capture.stages if stage != {"$match": {}}]
        return env.app.bind(model)._collection.name, stages

    def _refuse_hidden(
        self, field: object, leading: Sequence[Stage], loc: tuple[str | int, ...]
    ) -> None:
        # The server compares the foreign field before it runs the pipeline that would hide the
        # field.
        shown = next((stage["$project"] for stage in leading if "$project" in stage), None)
        if shown is not None and field is not None and str(field).partition(".")[0] not in shown:
            self._refuse(loc, "the foreign field is hidden from you")

    def _refuse_unknown(
        self, spec: Mapping[str, Any], known: set[str], loc: tuple[str | int, ...]
    ) -> None:
        for key in spec:
            if key not in known:
                self._refuse(loc, f"no such option {str(key)[:40]!r}{nearest(str(key), known)}")

    def _mapping(self, value: Any, loc: tuple[str | int, ...]) -> Mapping[str, Any]:
        if not isinstance(value, Mapping):
            self._refuse(loc, f"takes a dict, not a {type(value).__name__}")
        return value

    def _refuse(self, loc: tuple[str | int, ...], message: str) -> NoReturn:
        raise ValidationError(
            f"{self._subject}.aggregate", [{"loc": loc, "msg": message, "type": "pipeline"}]
        ) from None
