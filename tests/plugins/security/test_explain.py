"""A query plan must not tell of records that a rule hides, nor of the values in a rule."""

from __future__ import annotations

from typing import Any

import pytest

from earnorm import Index, Principal, act_as, models, system
from earnorm.fields import Int, Many2one, String
from earnorm_security import Access, Rule


class Letter(models.BaseModel):
    _name = "security.letter"
    _rules = [Rule("open", [("state", "=", "open")])]
    state = String(required=True)
    number = Int(required=True)


class Contract(models.BaseModel):
    _name = "security.contract"
    _access: list[Access] = []  # nobody may read it
    secret = String()


class Memo(models.BaseModel):
    _name = "security.memo"
    _access = [Access("clerk", read=True)]
    _rules = [
        Rule(
            "own",
            lambda env: [
                ("state", "in", ["fraud-watch", "fraud-past"]),
                ("contract_id.secret", "=", "TOPSECRET"),
            ],
        )
    ]
    _indexes = [Index("state", "text")]
    text = String()
    state = String()
    contract_id = Many2one(Contract)


class Note(models.BaseModel):
    _name = "security.note_without_rules"
    text = String()


ALLOWED = {"queryPlanner", "winningPlan", "stages", "stage", "inputStage", "inputStages"}
ALLOWED |= {"queryPlan", "indexName", "keyPattern", "direction", "sortPattern"}


def names_in(plan: object) -> set[str]:
    """Return every name in a plan but those in the patterns of indexes and sorts."""
    if isinstance(plan, list):
        return set().union(*map(names_in, plan))
    if not isinstance(plan, dict):
        return set()
    deeper = (names_in(v) for k, v in plan.items() if k not in ("keyPattern", "sortPattern"))
    return set(plan).union(*deeper)


@pytest.mark.parametrize("order", [None, "-text", "contract_id"])
async def test_a_plan_tells_a_principal_nothing_of_the_values_in_a_rule(
    opened: Any, order: str | None
) -> None:
    async with opened():
        with system(reason="to have something to hide"):
            contracts = await Contract.create([{"secret": "TOPSECRET"}] * 3)
            await Memo.create(
                [{"text": "x", "state": "fraud-watch", "contract_id": c.id} for c in contracts]
            )
        query = Memo.search([("text", "=", "x")], order=order)
        with act_as(Principal("eve", roles=["clerk"])):
            plan = await query.explain()
        shown = f"{dict(plan)} {plan.raw} {plan!r} {plan} {plan.layers}"
        for secret in ("fraud", "TOPSECRET", *(str(contract.id) for contract in contracts)):
            assert secret not in shown
        assert names_in(plan.raw) <= ALLOWED
        assert plan.indexes == ("state_1_text_1",)
        with system(reason="system sees everything"):
            whole = await query.explain(principal=Principal("eve", roles=["clerk"]))
        assert "fraud-watch" in str(whole.raw)
        assert whole.indexes == plan.indexes
        assert whole.sorts_in_memory == plan.sorts_in_memory


async def test_a_guessed_rule_gets_the_answer_of_any_other_search(opened: Any) -> None:
    async with opened():
        for guess in ("open", "shut"):
            assert set((await Letter.search([("state", "=", guess)]).explain()).raw) == {
                "queryPlanner"
            }


async def test_a_plan_stays_whole_where_nothing_restricts_the_search(opened: Any) -> None:
    async with opened():
        plan = await Note.search([("text", "=", "mine")]).explain()
        assert plan["command"]["filter"] == {"text": "mine"}


async def test_explain_shows_no_figure_of_what_a_rule_hides(opened):
    async with opened():
        with system(reason="to have something to hide"):
            await Letter.create([{"state": s, "number": n} for n, s in enumerate(["open", "shut"])])
        plan = await Letter.search([("number", ">=", 0)]).explain()
        assert "open" not in str(plan.raw)
        assert "executionStats" not in plan
        assert plan.documents_examined is plan.returned is plan.keys_examined is None
        assert "examined" not in str(plan)
        with system(reason="to see what the search costs"):
            whole = await Letter.search([("number", ">=", 0)]).explain()
        assert whole["executionStats"]["nReturned"] == whole.returned == 2
        assert "examined 2 documents" in str(whole)
