"""``await query.explain()``: asks for the plan of a search after its layers have changed it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from earnorm.exceptions import AccessDenied
from earnorm.features.explaining.layer_effects import Effects, LayerEffect
from earnorm.features.explaining.query_plan import Plan, reduced, without_facts
from earnorm.kernel.acting import principal_of
from earnorm.kernel.contract.left_out import need_feature
from earnorm.kernel.environment import Env, Principal, current_env, use_env
from earnorm.kernel.operations import PURPOSE
from earnorm.kernel.serving import searches
from earnorm.kernel.serving.requests import Request
from earnorm.kernel.serving.searches import STAGES

if TYPE_CHECKING:
    from earnorm.backends.base import Document
    from earnorm.domain import Domain
    from earnorm.kernel.binding import BoundModel
    from earnorm.kernel.operations import Operation
    from earnorm.model.query import Query


class Explanation(Request):
    """Asks for the query plan of a search instead of its documents, and keeps the plan.

    Args:
        verbosity: MongoDB's name: ``"queryPlanner"``, or ``"executionStats"`` with figures.
        asked: The domain that the principal knows; None for ``system``, who may see everything.
    """

    __slots__ = ("asked", "plan", "verbosity")
    reads_documents = False

    def __init__(self, verbosity: str, asked: Domain | None) -> None:
        self.verbosity = verbosity
        self.asked = asked
        self.plan: Document = {}

    async def serve(self, bound: BoundModel, op: Operation) -> list[Document]:
        """Ask the database for the plan, and keep of it what the asker may see."""
        plan = await searches.explain(bound, op, self.verbosity)
        # The same object, not an equal one: a principal who guesses a rule gets the same answer.
        if self.asked is not None:
            is_changed = op.domain is not self.asked or STAGES in op.notes
            plan = reduced(plan) if is_changed else without_facts(plan)
        self.plan = plan
        return []


async def explain(query: Query[Any], principal: Principal | str | None) -> Plan:
    """Explain a query; see ``Query.explain``."""
    need_feature("explaining", "explain()")
    env = current_env()
    if not env.system:
        if principal is not None:
            raise AccessDenied(
                "explain(principal=) shows the rules of somebody else: "
                'only inside earnorm.system(reason="...")'
            )
        explanation = Explanation("queryPlanner", query._domain)
        await _explain(query, env, explanation)
        return Plan(explanation.plan)
    if principal is not None:
        env = env.replace(principal=principal_of(env, principal), system=False, reason="")
    explanation, effects = Explanation("executionStats", None), Effects()
    with use_env(env):
        await _explain(query, env, explanation, effects)
    return Plan(explanation.plan, (*_base_domains(query, env), *effects.noted()))


async def _explain(
    query: Query[Any], env: Env, explanation: Explanation, effects: Effects | None = None
) -> None:
    _, op = query._operation("search", env, explanation)
    await env.app.execute(op.with_note(PURPOSE, "explain"), effects)


def _base_domains(query: Query[Any], env: Env) -> Iterator[LayerEffect]:
    """Yield the effects of ``register_reading``, which come before all layers."""
    reading = env.app.bind(query._model).reading
    if reading is None or query._is_whole:
        return
    for plugin, before, after in reading.narrowings(query._domain):
        yield LayerEffect(plugin, "base_domain", None, before, after, {})
