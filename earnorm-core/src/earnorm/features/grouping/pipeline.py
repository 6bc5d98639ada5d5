"""``Query.aggregate()``: MongoDB's own pipeline over the records that query and rules allow.

Stages, expressions and operators are allowed by name (``vocabulary``). A pipeline names another
collection by its model; that model's layers decide which records it sees. ``joining`` keeps the
server from evaluating a pipeline on other documents.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NoReturn

from earnorm.exceptions import (
    AccessDenied,
    ConfigurationError,
    NotSupported,
    ValidationError,
    nearest,
)
from earnorm.features.grouping.client_pipelines import ClientPipeline, ClientStage, seen_by
from earnorm.features.grouping.inspection import (
    MAX_LEVELS,
    Inspector,
    Loc,
    Stage,
    is_plain,
    names_of,
)
from earnorm.features.grouping.joining import has_risk, joined, with_barriers
from earnorm.features.grouping.probing import refuse_risk
from earnorm.features.grouping.vocabulary import STAGES
from earnorm.kernel.contract.left_out import need_feature
from earnorm.kernel.environment import current_env, refuse_other_actor, use_env
from earnorm.kernel.operations import PURPOSE, REQUEST, Operation, made_by
from earnorm.kernel.serving.requests import PipelineCapture, Stream
from earnorm.kernel.serving.searches import JOIN, Join, Sight, Stages
from earnorm.model.reading.streaming import BATCH

if TYPE_CHECKING:
    from earnorm.kernel.binding import BoundModel
    from earnorm.kernel.environment import Env
    from earnorm.model.base import BaseModel
    from earnorm.model.query import Query

_WRITES = "it writes past every layer; use the rows, or create() and write()"
_FIRST = "it has to be a pipeline's first stage, and there stands the query's own condition"
_REASONS: Final = {
    "$out": _WRITES,
    "$merge": _WRITES,
    "$geoNear": "it has to be a pipeline's first stage",
    "$search": _FIRST,
    "$searchMeta": _FIRST,
    "$vectorSearch": _FIRST,
    "$documents": "it reads no record of the model",
}
_SERVER_FACTS = "it tells of the server, not of the model's records"
EVALUATION: Final = "evaluation"
_MOST_SUSPECTS: Final = 5
_OPTIONS: Final[Mapping[str, frozenset[str]]] = {
    "$lookup": frozenset({"from", "localField", "foreignField", "let", "pipeline", "as"}),
    "$unionWith": frozenset({"coll", "pipeline"}),
    "$graphLookup": frozenset(
        {
            *("from", "startWith", "connectFromField", "connectToField", "as", "maxDepth"),
            *("depthField", "restrictSearchWithMatch"),
        }
    ),
    "$geoNear": frozenset(
        {
            *("near", "key", "distanceField", "spherical", "maxDistance", "minDistance", "query"),
            *("distanceMultiplier", "includeLocs"),
        }
    ),
}


class Aggregation:
    """The rows of a pipeline: ``await`` gives a list, ``async for`` streams them.

    Rows are in stored form: the output of the pipeline, as the driver decodes it (naive UTC
    date-times, ``Decimal128``, ids as ``ObjectId``). It runs as who awaits it.
    """

    __slots__ = ("_batch", "_pipeline", "_query")

    def __init__(self, query: Query[Any], pipeline: Sequence[Stage], batch_size: int) -> None:
        self._query = query
        self._pipeline = pipeline
        self._batch = batch_size

    async def _operation(self) -> Operation:
        env = current_env()
        _, op = self._query._operation("group", env)
        acting = self._query._reader(env)
        with use_env(acting):  # the models that it joins are seen by the same one
            stages = await compiled(acting, op.model, self._pipeline)
        op = op.replace(options=op.options.replace(pipeline=tuple(stages)))
        join: Join = partial(_joined, stages, self._pipeline)
        return op.with_note(JOIN, join)

    def __await__(self) -> Generator[Any, None, list[dict[str, Any]]]:
        return self._run().__await__()

    async def _run(self) -> list[dict[str, Any]]:
        op = await self._operation()
        try:
            rows: list[dict[str, Any]] = await op.env.app.execute(op)
            return rows
        except ValidationError as error:
            located = self._located(error, self._query._reader(op.env))
        raise located

    async def __aiter__(self) -> AsyncIterator[dict[str, Any]]:
        """Stream the rows in batches, so that this process needs constant memory."""
        stream = Stream(self._batch)
        op = (await self._operation()).with_note(REQUEST, stream)
        located: ValidationError | None = None
        try:
            while rows := await op.env.app.execute(op):
                for row in rows:
                    yield row
                refuse_other_actor(op.env)
        except ValidationError as error:
            located = self._located(error, self._query._reader(op.env))
        finally:
            await stream.close()
        if located is not None:
            raise located

    def _located(self, error: ValidationError, env: Env) -> ValidationError:
        """Name the stages of the pipeline that may have failed, in an error of its evaluation.

        The server's words are its cause, but not for a principal: a log of errors shows causes.
        """
        if error.code != EVALUATION:
            return error
        stages = list(enumerate(self._pipeline))
        suspects = [(n, stage) for n, stage in stages if has_risk([stage])] or stages
        names = ", ".join(f"{n} ({next(iter(stage))})" for n, stage in suspects[:_MOST_SUSPECTS])
        which = f"one of the stages {names}" if len(suspects) > 1 else f"the stage {names}"
        [problem] = error.errors()
        message = f"{problem['msg']}: {which}" if stages else problem["msg"]
        located = ValidationError(
            f"{self._query._model._name}.aggregate", [{**problem, "loc": (), "msg": message}]
        ).coded("evaluation")
        if env.system or env.principal is None:
            located.__cause__ = error.__cause__
        return located

    def __repr__(self) -> str:
        return f"<Aggregation of {self._query._model._name} in {len(self._pipeline)} stages>"


def aggregation(query: Query[Any], pipeline: Sequence[Stage]) -> Aggregation:
    """Make the aggregation over the records of a query; see ``Query.aggregate``."""
    need_feature("grouping", "aggregate()")
    if query._order is None and not (query._limit or query._offset):
        query = query.order()  # without a window, a pipeline sorts by itself where it has to
    return Aggregation(query._by_client(isinstance(pipeline, ClientPipeline)), pipeline, BATCH)


def _joined(
    own: Sequence[Stage],
    asked: Sequence[Stage],
    selecting: Stages,
    window: Stages,
    sight: Sight,
) -> list[Stage]:
    return joined(selecting, window, seen_by(asked, sight), own)


async def compiled(env: Env, model: type[BaseModel], pipeline: Sequence[Stage]) -> list[Stage]:
    """Check a pipeline, and replace the names of models by those of their collections.

    Args:
        env: The environment; its principal decides which records of other models are seen.
        model: The model.
        pipeline: MongoDB's stages.

    Raises:
        ValidationError: A stage is not allowed, contains JavaScript, or names an unknown model.
        AccessDenied: The principal may not read another model that the pipeline names.
        NotSupported: The server does not keep a stage that may fail away from other documents.
    """
    compiler = _Compiler(env, model._name)
    stages = await compiler.stages(pipeline, ())
    if not env.system and has_risk(pipeline):
        for bound in (env.app.bind(model), *compiler.others):
            await refuse_risk(bound)
    return stages


class _Compiler:
    """Compiles one pipeline.

    Attributes:
        others: The models that it names.
    """

    def __init__(self, env: Env, subject: str) -> None:
        self._env = env
        self._subject = subject
        self._check = Inspector(self._refuse, strict=not env.system)
        self.others: list[BoundModel] = []
        self._special: dict[str, Callable[[Any, Loc], Awaitable[list[Stage]]]] = {
            "$facet": self._facet,
            "$lookup": self._lookup,
            "$unionWith": self._union_with,
            "$graphLookup": self._graph_lookup,
        }

    async def stages(
        self, pipeline: object, loc: Loc, *, foreign: PipelineCapture | None = None
    ) -> list[Stage]:
        """Check and compile the stages of a pipeline.

        Args:
            pipeline: The stages.
            loc: Their place.
            foreign: What the pipeline of a join sees of the other model; None for all others.
        """
        if not isinstance(pipeline, list | tuple):
            self._refuse(loc, f"a pipeline is a list of stages, not a {type(pipeline).__name__}")
        if len(loc) > MAX_LEVELS:
            self._refuse(loc[:3], "pipelines are nested too deeply")
        compiled_stages: list[Stage] = []
        is_first = not loc or foreign is not None
        for position, stage in enumerate(pipeline):
            stage_loc = (*loc, position)
            if not isinstance(stage, Mapping) or len(stage) != 1:
                self._refuse(stage_loc, 'a stage is a dict of one key, e.g. {"$match": {...}}')
            if type(stage) is ClientStage and (loc or not isinstance(pipeline, ClientPipeline)):
                self._refuse(
                    stage_loc, "hand in what untrusted.pipeline() has read, without other stages"
                )
            ((name, value),) = stage.items()
            compile_value = self._special.get(name)
            if compile_value is not None:
                compiled_stages += await compile_value(value, (*stage_loc, name))
            elif name == "$geoNear" and is_first and not position:
                compiled_stages.append({name: self._geo_near(value, (*stage_loc, name))})
            elif name in STAGES:
                check = self._check.condition if name == "$match" else self._check.expression
                check(value, (*stage_loc, name))
                compiled_stages.append(stage)
            else:
                self._refuse_stage(name, stage_loc)
        if foreign is None:
            return compiled_stages
        stages = joined(foreign.selecting, (), foreign.sight, compiled_stages)
        return stages[1:] if stages[0] == {"$match": {}} else stages

    def _refuse_stage(self, name: object, loc: Loc) -> NoReturn:
        known = {*STAGES, *self._special}
        if not isinstance(name, str):
            self._refuse(loc, "a stage's name is a text")
        reason = _REASONS.get(name)
        if reason is None:
            hint = nearest(name, known) if len(name) < 40 else ""
            reason = hint.removeprefix("; ") or _SERVER_FACTS
        self._refuse(loc, f"the stage {name[:40]} is not allowed here: {reason}")

    def _geo_near(self, value: Any, loc: Loc) -> Stage:
        spec = self._mapping(value, loc)
        self._refuse_unknown(spec, "$geoNear", loc)
        self._check.expression({k: v for k, v in spec.items() if k != "query"}, loc)
        query = self._mapping(spec.get("query", {}), (*loc, "query"))
        self._check.condition(query, (*loc, "query"))
        if not self._env.system:
            if not isinstance(spec.get("key"), str):
                self._refuse(loc, "names its field: 'key': \"place\"")
            if not is_plain(query):
                self._refuse(loc, "its query has no expressions; put them into a $match behind it")
        return spec

    # -- stages with pipelines or other collections inside ------------------------------------

    async def _facet(self, value: Any, loc: Loc) -> list[Stage]:
        facets = self._mapping(value, loc)
        self._check.expression(dict.fromkeys(facets, 1), loc)
        return [
            {
                "$facet": {
                    name: with_barriers(
                        await self.stages(stages, (*loc, str(name))), is_guarded=False
                    )
                    for name, stages in facets.items()
                }
            }
        ]

    async def _lookup(self, value: Any, loc: Loc) -> list[Stage]:
        spec = self._mapping(value, loc)
        self._refuse_unknown(spec, "$lookup", loc)
        rest = {k: v for k, v in spec.items() if k not in ("from", "pipeline")}
        self._check.expression(rest, loc)
        collection, foreign = await self._foreign(spec.get("from"), (*loc, "from"))
        own = spec.get("pipeline", ())
        stages = await self.stages(own, (*loc, "pipeline"), foreign=foreign)
        self._refuse_hidden([spec.get("foreignField")], foreign, loc)
        if stages or "pipeline" in spec:
            rest["pipeline"] = stages
        return [{"$lookup": {"from": collection, **rest}}]

    async def _union_with(self, value: Any, loc: Loc) -> list[Stage]:
        spec = {"coll": value} if isinstance(value, str) else self._mapping(value, loc)
        self._refuse_unknown(spec, "$unionWith", loc)
        collection, foreign = await self._foreign(spec.get("coll"), (*loc, "coll"))
        own = spec.get("pipeline", ())
        stages = await self.stages(own, (*loc, "pipeline"), foreign=foreign)
        return [{"$unionWith": {"coll": collection, "pipeline": stages}}]

    async def _graph_lookup(self, value: Any, loc: Loc) -> list[Stage]:
        spec = self._mapping(value, loc)
        self._refuse_unknown(spec, "$graphLookup", loc)
        own = self._mapping(spec.get("restrictSearchWithMatch") or {}, loc)
        self._check.condition(own, (*loc, "restrictSearchWithMatch"))
        self._check.expression(
            {k: v for k, v in spec.items() if k != "restrictSearchWithMatch"}, loc
        )
        collection, foreign = await self._foreign(spec.get("from"), (*loc, "from"))
        self._refuse_hidden(
            [spec.get("connectFromField"), spec.get("connectToField")], foreign, loc
        )
        sight = foreign.sight
        if not self._env.system:
            if not is_plain(own):
                self._refuse(
                    loc,
                    "restrictSearchWithMatch has no expressions: the server would evaluate them on "
                    "records that you may not see; put them into a $match behind it",
                )
            self._refuse_hidden(list(names_of(own)), foreign, loc)
        if sight.secret and (sight.keys is None or any("." in path for path in sight.secret)):
            raise NotSupported(
                f"{self._subject}: $graphLookup from {spec['from']!r}: some of its values are secret, "
                f"and this stage cannot leave them out; use $lookup"
            )
        conditions = [stage["$match"] for stage in foreign.selecting if "$match" in stage]
        if len(conditions) < len(foreign.selecting):
            raise NotSupported(
                f"{self._subject}: $graphLookup from {spec['from']!r}: its rules ask about more other "
                f"records than a condition can name; use $lookup"
            )
        conditions = [condition for condition in (*conditions, own) if condition]
        result = {**spec, "from": collection}
        result.pop("restrictSearchWithMatch", None)
        if conditions:
            result["restrictSearchWithMatch"] = {"$and": conditions}
        stages: list[Stage] = [{"$graphLookup": result}]
        name = spec.get("as")
        if sight.keys is not None and isinstance(name, str):
            # This stage has no pipeline that could leave keys out.
            keys = [
                *filter(sight.sees, sight.keys),
                *([spec["depthField"]] if "depthField" in spec else ()),
            ]
            item = {str(key): f"$$this.{key}" for key in keys}
            stages.append({"$set": {name: {"$map": {"input": f"${name}", "in": item}}}})
        return stages

    async def _foreign(self, name: Any, loc: Loc) -> tuple[str, PipelineCapture]:
        """Return another model's collection, and what the principal sees of it."""
        if not isinstance(name, str):
            self._refuse(loc, 'names another model by its name, e.g. "core.author"')
        app = self._env.app
        try:
            model = app.model(name)
        except ConfigurationError as error:
            if self._env.system:
                self._refuse(loc, str(error))
            self._refuse(loc, f"no model is named {name[:40]!r}{await self._hint(name)}")
        capture = await self._captured(model)
        bound = app.bind(model)
        self.others.append(bound)
        return bound._collection.name, capture

    async def _captured(self, model: type[BaseModel]) -> PipelineCapture:
        capture = PipelineCapture()
        notes = {**made_by("grouping"), PURPOSE: "aggregate", REQUEST: capture}
        await self._env.app.execute(Operation("search", model, self._env, notes=notes))
        return capture

    async def _hint(self, name: str) -> str:
        """Return a hint that names a model; nothing if the principal may not read the model."""
        models = {model._name: model for model in self._env.app.known_models()}
        hint = nearest(name, models)
        named = next((model for other, model in models.items() if repr(other) in hint), None)
        if named is None or "did you mean" not in hint:
            return ""
        try:
            await self._captured(named)
        except (AccessDenied, ConfigurationError):
            return ""
        return hint

    def _refuse_hidden(self, paths: Sequence[object], foreign: PipelineCapture, loc: Loc) -> None:
        # The server compares these before it runs a stage that would leave them out.
        for path in paths:
            if path is not None and not foreign.sight.sees(str(path)):
                self._refuse(loc, "the foreign field is hidden from you, or no field of the model")

    def _refuse_unknown(self, spec: Mapping[str, Any], stage: str, loc: Loc) -> None:
        known = _OPTIONS[stage]
        for key in spec:
            if key not in known:
                self._refuse(loc, f"no such option {str(key)[:40]!r}{nearest(str(key), known)}")

    def _mapping(self, value: Any, loc: Loc) -> Mapping[str, Any]:
        if not isinstance(value, Mapping):
            self._refuse(loc, f"takes a dict, not a {type(value).__name__}")
        return value

    def _refuse(self, loc: Loc, message: str) -> NoReturn:
        raise ValidationError(
            f"{self._subject}.aggregate", [{"loc": loc, "msg": message, "type": "pipeline"}]
        ) from None
