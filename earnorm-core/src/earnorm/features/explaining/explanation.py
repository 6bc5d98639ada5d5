"""``await query.explain()``: asks for the plan of a search after its layers have changed it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from earnorm.features.explaining.query_plan import Plan
from earnorm.kernel import searches
from earnorm.kernel.environment import current_env
from earnorm.kernel.left_out import need_feature
from earnorm.kernel.requests import Request

if TYPE_CHECKING:
    from earnorm.backends.base import Document
    from earnorm.kernel.binding import BoundModel
    from earnorm.kernel.operations import Operation
    from earnorm.model.query import Query


class Explanation(Request):
    """Asks for the query plan of a search instead of its documents, and keeps the plan.

    Args:
        verbosity: MongoDB's name: ``"queryPlanner"``, or ``"executionStats"`` with figures.
    """

    __slots__ = ("plan", "verbosity")
    reads_documents = False

    def __init__(self, verbosity: str) -> None:
        self.verbosity = verbosity
        self.plan: Document = {}

    async def serve(self, bound: BoundModel, op: Operation) -> list[Document]:
        """Ask the database for the plan, and keep it."""
        self.plan = await searches.explain(bound, op, self.verbosity)
        return []


async def explain(query: Query[Any]) -> Plan:
    """Explain a query; see ``Query.explain``."""
    need_feature("explaining", "explain()")
    env = current_env()
    explanation = Explanation("executionStats" if env.system else "queryPlanner")
    _, op = query._operation("search", env, explanation)
    await env.app.execute(op)
    return Plan(explanation.plan)
