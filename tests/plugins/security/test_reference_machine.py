"""The machine: random models, rules, rights, users and data, and any calls; EarnORM answers what the reference answers.

reference.py has the semantics, reference_worlds.py what is drawn. The long form is ``nox -s fuzz``.
"""

from __future__ import annotations

import asyncio
import contextvars
import io
import itertools
import os
import tokenize
from collections import Counter
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    rule,
    run_state_machine_as_test,
)
from pymongo import AsyncMongoClient

from earnorm import (
    AccessDenied,
    App,
    FieldNotLoaded,
    Int,
    Many2one,
    Principal,
    String,
    Sum,
    act_as,
    models,
    system,
)
from earnorm_security import FieldRights, Rule, context
from tests.plugins.security import reference
from tests.plugins.security.generated import examples
from tests.plugins.security.reference import BATCHES, World
from tests.plugins.security.reference_declarations import Call, Refused, Who
from tests.plugins.security.reference_worlds import (
    ACTING,
    CHANGES,
    READS,
    Stage,
    calls,
    stored_names,
    worlds,
)

DATABASE: Final = f"refmachine_{os.getpid()}"
EXAMPLES: Final = examples(15)
STEPS: Final = 15


class Server:
    """A loop, and a client on it, that last for all examples."""

    def __init__(self) -> None:
        self._runner = asyncio.Runner()
        self._context = (
            contextvars.copy_context()
        )  # an App is left in the context it was entered in
        self.seen: Counter[str] = Counter()
        self.client: Any = None

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self._runner.run(work, context=self._context)

    async def connect(self) -> None:
        self.client = AsyncMongoClient(os.environ["EARNORM_TEST_MONGO_URI"])

    async def leave(self) -> None:
        await self.client.drop_database(DATABASE)
        await self.client.close()

    def close(self) -> None:
        self.run(self.leave())
        self._runner.close()


class Machine(RuleBasedStateMachine):
    """A world in the reference, and the same on the server; each rule is a call on both."""

    server: Server

    @initialize(drawn=worlds())
    def begin(self, drawn: Any) -> None:
        declared, implied, rows, principals = drawn
        self.world = World(declared, implied, rows)
        self.who = [*principals, *principals, *ACTING]
        self.numbers = itertools.count(100)
        self.stage = Stage(declared, implied)
        self.database = self.server.client[DATABASE]
        self.app: App = self.stage.app(self.server.client, DATABASE)
        self.server.run(self._begun())

    async def _begun(self) -> None:
        await self.app.__aenter__()
        await self.stage.fill(self.database, self.world.rows)

    def teardown(self) -> None:
        if hasattr(self, "app"):
            self.server.run(self._ended())
            self.stage.forget()

    async def _ended(self) -> None:
        await self.app.__aexit__(None, None, None)
        for name in self.stage.models:
            await self.stage.collection(self.database, name).drop()

    @rule(data=st.data(), kind=st.sampled_from([*READS, *CHANGES]))
    def call(self, data: Any, kind: str) -> None:
        who = data.draw(st.sampled_from(self.who), label="who")
        call = data.draw(calls(self.world, kind, self.numbers, who), label="call")
        self.server.run(self.compare(who, call))

    async def compare(self, who: Who, call: Call) -> None:
        """Do a call on both, and compare the answer and what is stored then."""
        expected: Any
        try:
            expected, after = self.world.call(who, call)
        except Refused as refused:
            expected, after = refused, refused.args[1] if refused.args[1:] else self.world
        heard: Any
        try:
            heard = await self.stage.answer(who, call)
        except Refused as refused:
            heard = refused
        self._compare_answers(call, expected, heard)
        stored = await self.stage.stored(self.database)
        if call.how in BATCHES and told(self.world) == stored:
            after = self.world  # a batch that is one transaction is undone as a whole
        if told(after) != stored:
            raise AssertionError(f"expected {told(after)}\n stored {stored}")
        self.world = after

    def _compare_answers(self, call: Call, expected: Any, heard: Any) -> None:
        kind = min(heard.args[0]) if isinstance(heard, Refused) else "done"
        self.server.seen[f"{call.how} {kind}"] += 1
        if isinstance(heard, Refused):
            is_missing = call.how == "get" and expected == []
            allowed = {"NotFound"} if is_missing else getattr(expected, "args", [set()])[0]
            is_same = heard.args[0] <= allowed
        elif isinstance(expected, Refused):
            is_same = False
        elif call.how == "export":  # a table has stored values only
            is_same = heard == [{n: v for n, v in r.items() if n != "live"} for r in expected]
        else:
            is_same = heard == (bool(expected) if call.how == "exists" else expected)
        if not is_same:
            raise AssertionError(f"{call}\n expected {expected!r}\n heard {heard!r}")


def told(world: World) -> dict[str, dict[str, Any]]:
    """Return what is stored of a world."""
    names = {name: ["id", *stored_names(model)] for name, model in world.models.items()}
    return {
        name: {pk: {n: row[n] for n in names[name]} for pk, row in rows.items()}
        for name, rows in world.rows.items()
    }


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    one = Server()
    one.run(one.connect())
    yield one
    one.close()


@pytest.mark.fuzz
def test_the_server_agrees_with_the_reference(server: Server) -> None:
    drawn = settings(
        max_examples=EXAMPLES,
        stateful_step_count=STEPS,
        deadline=None,
        suppress_health_check=[*HealthCheck],
    )
    run_state_machine_as_test(type("Run", (Machine,), {"server": server}), settings=drawn)
    answers = Counter[str]()
    for how_and_kind, number in server.seen.items():
        answers[how_and_kind.split()[1]] += number
    assert {"done", "AccessDenied", "NotFound"} <= answers.keys(), answers
    assert answers["done"] > answers.total() / 4, answers


def test_the_reference_is_small() -> None:
    """At most 200 lines of code: without the imports, docstrings and comments."""
    text = Path(reference.__file__).read_text(encoding="utf-8")
    text = text[text.index("\nKinds = ") :]
    lines: set[int] = set()
    begins_line = True
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type in (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT):
            begins_line = begins_line or token.type == tokenize.NEWLINE
        elif token.type not in (tokenize.DEDENT, tokenize.ENDMARKER):
            if not (begins_line and token.type == tokenize.STRING):
                lines |= {*range(token.start[0], token.end[0] + 1)}
            begins_line = False
    assert 100 < len(lines) <= 200


# -- what the machine found -------------------------------------------------------------------------


class Board(models.BaseModel):
    _name = "refmachine.board"
    owner = String()


class Note(models.BaseModel):
    """Two restrictions; the second one opens nothing without a tenant."""

    _name = "refmachine.note"
    _rules = [
        Rule("board", [("board_id.owner", "=", "ann")], strict=True),
        Rule("tenant", [("text", "=", context.tenant)], operations=["create", "unlink"]),
    ]
    text = String()
    board_id = Many2one(Board)


class Leaf(models.BaseModel):
    """A written record may be hidden afterwards."""

    _name = "refmachine.leaf"
    _rules = [Rule("open", [("state", "!=", "secret")], operations=["read"])]
    code = String(unique=True)
    state = String()


class Total(models.BaseModel):
    """A right of a stored computed field that says nothing of reading."""

    _name = "refmachine.total"
    _field_rights = [FieldRights("pay", read=[]), FieldRights("double", aggregate=["*"])]
    pay = Int()
    double = Int(related="pay", store=True)


async def test_a_strict_rule_that_decides_nothing_needs_no_transaction(opened: Any) -> None:
    async with opened(default="open"):
        with system(reason="test data"):
            board = await Board.create({"owner": "ann"})
            await Note.create({"text": "a", "board_id": board})
        with act_as(Principal("ann")):  # no tenant, so whatever the board is, it is refused
            with pytest.raises(AccessDenied):
                await Note.create_many([{"text": "a", "board_id": board}])
            with pytest.raises(AccessDenied):
                await Note.search().delete()
        with act_as(Principal("ann"), tenant="a"):
            assert await Note.search().delete() == 1


async def test_an_upsert_that_hides_its_record_is_no_error(opened: Any) -> None:
    async with opened(default="open"):
        with act_as(Principal("ann")):
            leaf, is_new = await Leaf.upsert({"code": "a", "state": "open"}, on="code")
            assert is_new and leaf.state == "open"
            same, is_new = await Leaf.upsert({"code": "a", "state": "secret"}, on="code")
            assert same.id == leaf.id and not is_new
            with pytest.raises(FieldNotLoaded):
                assert same.state
            values = [{"code": "b", "state": "secret"}, {"code": "c", "state": "open"}]
            hidden, shown = (await Leaf.upsert_many(values, on="code"))[0]
            assert shown.state == "open"
            with pytest.raises(FieldNotLoaded):
                assert hidden.state
            assert await Leaf.count() == 1
        with system(reason="look"):
            assert await Leaf.count() == 3


async def test_a_right_that_is_not_given_follows_from_what_a_field_depends_on(opened: Any) -> None:
    async with opened(default="open"):
        with system(reason="test data"):
            await Total.create({"pay": 3})
        with act_as(Principal("ann")):
            assert "double" not in (await Total.search())[0].to_dict()
            assert await Total.search().group(n=Sum("double")) == [{"n": 3}]
