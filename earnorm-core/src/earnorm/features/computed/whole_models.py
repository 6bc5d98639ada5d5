"""Computes stored fields of all records of a model again, as after a change of a formula."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from earnorm.domain import Domain
from earnorm.exceptions import ConfigurationError, nearest
from earnorm.features.computed.computing import formulas_of
from earnorm.features.computed.dependencies import Graph
from earnorm.features.computed.recomputing import NAME, Recomputation
from earnorm.kernel.environment import current_env
from earnorm.kernel.operations import REQUEST, Operation, Options, made_by
from earnorm.kernel.serving.requests import Stream
from earnorm.kernel.transactions.blocks import atomic

if TYPE_CHECKING:
    from earnorm.kernel.binding import BoundModel

_TRANSACTION_SIZE: Final = 2_000
"""The number of records in one transaction."""

_ID: Final = frozenset({"_id"})
Progress: TypeAlias = Callable[["Recomputed"], Awaitable[None] | None]


@dataclass(slots=True)
class Recomputed:
    """The result of a recomputation.

    Attributes:
        model: The model's name.
        fields: The fields that were computed.
        seen: The number of the model's records that were computed.
        changed: The number of records that had another value, with those of other models that
            depend on it.
    """

    model: str
    fields: tuple[str, ...]
    seen: int = 0
    changed: int = 0


async def recompute(
    bound: BoundModel,
    graph: Graph,
    names: Iterable[str] | None,
    domain: Domain,
    *,
    dry_run: bool = False,
    progress: Progress | None = None,
) -> Recomputed:
    """Compute fields of all records that match; see ``App.recompute``."""
    model, env = bound.model._name, current_env()
    bound.need_system(env, "recompute")
    stored_by_class = _stored_by_class(bound)
    stored = list(dict.fromkeys(name for own in stored_by_class.values() for name in own))
    wanted = stored if names is None else list(dict.fromkeys(names))
    for name in wanted:
        if name not in stored:
            raise ConfigurationError(
                f"{model}.{name} is no stored computed field, so there is nothing to recompute"
                f"{nearest(name, stored)}"
            )
    result = Recomputed(model, tuple(wanted))
    if not wanted:
        return result
    stream = Stream(_TRANSACTION_SIZE)
    search = Operation(
        "search",
        bound.model,
        env.as_system(f"recompute {model}"),
        domain,
        options=Options(fields=_ID, order=(("_id", 1),)),
        notes={**made_by(NAME), REQUEST: stream},
    )
    try:
        while documents := await env.app.execute(search):
            pks = [document["_id"] for document in documents]

            async def run(pks: Sequence[Any] = pks) -> int:
                follow = Recomputation(graph, current_env(), write=not dry_run)
                for member, own in stored_by_class.items():
                    for name in own:
                        if name in wanted:
                            follow.mark_ids(member, name, pks)
                return await follow.run()

            result.changed += await (run() if dry_run else atomic(run))
            result.seen += len(pks)
            if progress is not None:
                awaitable = progress(result)
                if inspect.isawaitable(awaitable):
                    await awaitable
    finally:
        await stream.close()
    return result


def _stored_by_class(bound: BoundModel) -> dict[str, list[str]]:
    """Return the stored computed fields of a model and of its subclasses, by the names of the classes."""
    members = [bound]
    if bound.classes is not None:
        members += [member for _, member in bound.classes.below()]
    stored: dict[str, list[str]] = {}
    for member in members:
        formulas = formulas_of(member.schema)
        own = () if formulas is None else formulas.stored
        stored[member.model._name] = [formula.field.name for formula in own]
    return stored
