"""A query plan must not tell of records that a rule hides."""

from __future__ import annotations

from earnorm import models, system
from earnorm.fields import Int, String
from earnorm_security import Rule


class Letter(models.BaseModel):
    _name = "security.letter"
    _rules = [Rule("open", [("state", "=", "open")])]
    state = String(required=True)
    number = Int(required=True)


async def test_explain_shows_the_rule_and_no_figure_of_what_it_hides(opened):
    async with opened():
        with system(reason="to have something to hide"):
            await Letter.create([{"state": s, "number": n} for n, s in enumerate(["open", "shut"])])
        plan = await Letter.search([("number", ">=", 0)]).explain()
        assert "open" in str(plan["queryPlanner"]["parsedQuery"])
        assert "executionStats" not in plan
        assert plan.documents_examined is plan.returned is plan.keys_examined is None
        assert "examined" not in str(plan)
        with system(reason="to see what the search costs"):
            whole = await Letter.search([("number", ">=", 0)]).explain()
        assert whole["executionStats"]["nReturned"] == whole.returned == 2
        assert "examined 2 documents" in str(whole)
