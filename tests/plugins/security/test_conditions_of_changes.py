"""A change or deletion by a condition on hidden values does and tells the same, whatever they are."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import earnorm
from earnorm import (
    App,
    Inc,
    Int,
    Many2one,
    One2many,
    Principal,
    String,
    act_as,
    depends,
    models,
    system,
)
from earnorm_audit import AuditPlugin
from earnorm_security import Rule


class Secret(models.BaseModel):
    _name = "conditions.secret"
    _rules = [Rule("own", lambda env: [("owner", "=", env.principal.id)])]
    owner = String()
    word = String()


class Box(models.BaseModel):
    """Open to everybody, with all that looks at the records of a change before it is made."""

    _name = "conditions.box"
    _versioned = True
    _parent_store = True
    name = String()
    n = Int(default=0)
    secret_id = Many2one(Secret)
    parent_id = Many2one("conditions.box", on_delete="cascade")
    line_ids = One2many("conditions.line", "box_id")
    total = Int(compute="_total", store=True)

    @depends("line_ids.n", "n")
    def _total(self) -> int:
        return (self.n or 0) + sum(line.n or 0 for line in self.line_ids)


class Line(models.BaseModel):
    _name = "conditions.line"
    n = Int(default=0)
    box_id = Many2one(Box, on_delete="cascade")
    secret_id = Many2one(Secret, on_delete="set_null")


HIDDEN: list[Any] = [("secret_id.word", "=", "alpha")]
OF_LINES: list[Any] = [("line_ids", "any", HIDDEN)]


async def _lock() -> int:
    async with earnorm.transaction():
        return len(await Box.search(HIDDEN).lock())


CHANGES: dict[str, Callable[[], Awaitable[Any]]] = {
    "delete": lambda: Box.search(HIDDEN).delete(),
    "delete across two": lambda: Line.search([("box_id.secret_id.word", "=", "alpha")]).delete(),
    "delete by lines": lambda: Box.search(OF_LINES).delete(),
    "delete by parent": lambda: Box.search([("parent_id", "any", HIDDEN)]).delete(),
    "update": lambda: Box.search(HIDDEN).update({"n": Inc(5)}),
    "update of the others": lambda: Box.search(["!", *HIDDEN]).update({"n": 7}),
    "update by no line": lambda: Box.search(["!", *OF_LINES]).update({"n": 8}),
    "move": lambda: Box.search(HIDDEN).update({"parent_id": None}),
    "move of lines": lambda: Line.search(HIDDEN).update({"box_id": None}),
    "lock": _lock,
}


async def fill(word: str) -> None:
    with system(reason="test data"):
        for model in (Line, Box, Secret):
            await model.search().delete()
        secret = await Secret.create({"owner": "ann", "word": word})
        box = await Box.create({"name": "b", "secret_id": secret, "n": 1})
        await Box.create({"name": "c", "parent_id": box, "n": 2, "secret_id": secret})
        await Line.create({"n": 3, "box_id": box, "secret_id": secret})


async def stored(app: App) -> list[Any]:
    """Return what is stored, without ids, which differ from one filling to the next."""
    raw = app.dangerous_raw("to look at what is stored")
    names = ("name", "n", "total", "_revision")
    rows: list[Any] = []
    for model in (Box, Line):
        for document in await raw[model._collection].find({}).sort("_id", 1).to_list(None):
            links = [key for key in ("parent_id", "box_id", "secret_id") if document.get(key)]
            depth = document.get("_parent_path", "").count("/")
            rows.append((model._name, [document.get(name) for name in names], links, depth))
    return rows


async def test_hidden_values_decide_nothing_of_a_change(opened):
    differing: list[Any] = []
    async with opened(plugins=(AuditPlugin(),)) as app:
        for name, change in CHANGES.items():
            seen: list[Any] = []
            for word in ("alpha", "beta"):
                await fill(word)
                with act_as(Principal("eve")):
                    seen.append((await change(), await stored(app)))
            if seen[0] != seen[1]:
                differing.append((name, *seen))
        await fill("alpha")
        with act_as(Principal("ann")):
            assert await Box.search(HIDDEN).update({"n": Inc(5)}) == 2  # who sees it may ask it
    assert differing == []
