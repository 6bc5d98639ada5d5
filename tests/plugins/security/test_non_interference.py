"""Non-interference: two databases that differ only in what somebody does not see answer alike.

The worlds and calls are those of the reference machine. A twin differs in hidden records and hidden values; where the reference answers a call
alike for both, so does EarnORM: values, order, counts, the texts of errors, the number of queries of a read and what the cache keeps and
counts in memory. What is kept then is what a later reader of the same rights gets.
"""

from __future__ import annotations

import copy
import itertools
import os
from collections import Counter
from collections.abc import Sequence
from typing import Any, Final

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from earnorm.testing import count_queries
from earnorm_cache import CachePlugin, CacheSettings
from tests.plugins.security.generated import examples
from tests.plugins.security.guards import GUARDS
from tests.plugins.security.reference import World
from tests.plugins.security.reference_declarations import Call, Refused, Row, Who
from tests.plugins.security.reference_worlds import CHANGES, READS, Stage, calls, values, worlds
from tests.plugins.security.test_reference_machine import Server, server

__all__ = ["server"]

DATABASES: Final = [f"refmachine_twin_{os.getpid()}_{side}" for side in "ab"]
EXAMPLES: Final = examples(12)
STEPS: Final = 10


class Interference(AssertionError):
    """Both databases answered differently."""


def seen(world: World, who: Who) -> dict[str, list[Row]]:
    """Return what somebody sees of a world."""
    return {
        name: [world.view(who, name, row) for row in rows.values() if world.sees(who, name, row)]
        for name, rows in world.rows.items()
    }


def twin(draw: Any, world: World, who: Who) -> World:
    """Draw a world that differs in what somebody does not see; the same one where it cannot."""
    other = copy.deepcopy(world)
    for name, model in world.models.items():
        drawn = values(world.models, name)
        for pk, row in world.rows[name].items():
            if not world.sees(who, name, row):
                if draw(st.booleans()):
                    del other.rows[name][pk]
                    continue
                hidden = [n for n in drawn if n != "key"]
            else:
                hidden = [n for n in drawn if n != "key" and not world.may(who, name, n, "read")]
                hidden = [n for n in hidden if not any(r.mask for r in model.rights if r.name == n)]
            other.rows[name][pk].update({n: draw(drawn[n]) for n in hidden})
    other.recompute()
    return other if seen(other, who) == seen(world, who) else world


def expected(world: World, who: Who, call: Call) -> tuple[Any, World]:
    try:
        return world.call(who, call)
    except Refused as refused:
        after = refused.args[1] if refused.args[1:] else world
        return sorted(refused.args[0]), after


async def heard(app: Any, stage: Stage, who: Who, call: Call) -> list[Any]:
    """Return the answer of a call with the text of its error, its queries, and the cache's figures."""
    with app.activate(), count_queries(app=app) as queries:
        try:
            answer: Any = await stage.answer(who, call)
        except Refused as refused:
            answer = refused.args[:2]
    cache = app.services["cache"]
    kept = [cache.statistics(model._name) for model in stage.models.values()]
    # A change recomputes and deletes what follows in hidden records, too, and looks for those that it names.
    number = len(queries) if call.kind not in ("change", "update", "delete", "upsert") else None
    return [answer, number, [(k.entries, k.hits, k.misses) for k in kept]]


class Twins:
    """Two Apps with the same models, each on a database of its own."""

    def __init__(self, server: Server) -> None:
        self.server, self.seen = server, Counter[str]()

    async def check(self, draw: Any) -> None:
        declared, implied, rows, principals = draw(worlds(simple=False))
        who = draw(st.sampled_from([*principals, Who()]))
        one = World(declared, implied, rows)
        two = twin(draw, one, who)
        if one.rows == two.rows:
            return
        stage, numbers = Stage(declared, implied), itertools.count(100)
        databases = [self.server.client[name] for name in DATABASES]
        # What is compared depends on no word that arrives some time.
        cache = CacheSettings(outside_writes=False)
        apps = [stage.app(self.server.client, name, (CachePlugin(cache),)) for name in DATABASES]
        try:
            async with apps[0], apps[1]:
                for database, world in zip(databases, (one, two), strict=True):
                    await stage.fill(database, world.rows)
                for _ in range(STEPS):
                    kind = draw(st.sampled_from([*READS, *READS, *CHANGES]))
                    call = draw(calls(one, kind, numbers, who))
                    (answer, after_one), (other, after_two) = (
                        expected(world, who, call) for world in (one, two)
                    )
                    is_alike = answer == other and seen(after_one, who) == seen(after_two, who)
                    if not is_alike:  # a rule of the program's tells hidden values by itself
                        self.seen["left out"] += 1
                        continue
                    answers = [await heard(app, stage, who, call) for app in apps]
                    self.seen["compared"] += 1
                    if answers[0] != answers[1]:
                        raise Interference(f"{who} {call}\n {answers[0]}\n {answers[1]}")
                    one, two = after_one, after_two
                    if call.kind not in READS:
                        stored = [await stage.stored(database) for database in databases]
                        for world, found in zip((one, two), stored, strict=True):
                            for name in found:
                                if found[name].keys() != world.rows[name].keys():
                                    return  # a batch in one transaction
                ids = {name: sorted({*one.rows[name], *two.rows[name]}) for name in one.rows}
                await self.compare_later(stage, apps, who, ids)
        finally:
            stage.forget()
            for database in databases:
                for name in stage.models:
                    await stage.collection(database, name).drop()

    async def compare_later(
        self, stage: Stage, apps: Sequence[Any], who: Who, ids: dict[str, list[str]]
    ) -> None:
        """Compare what somebody of the same rights gets later, the second time from what is kept."""
        for name in stage.models:
            gets = [Call("read", "get", name, ("id", "=", pk)) for pk in ids[name]]
            for call in [*gets, *gets, Call("read", "search", name, True)]:
                later = [await heard(app, stage, who, call) for app in apps]
                self.seen["kept"] += sum(n for n, _, _ in later[0][-1])
                if later[0] != later[1]:
                    raise Interference(f"{who} later {call}\n {later[0]}\n {later[1]}")


def drawn(server: Server, examples: int) -> Twins:
    """Compare twins in generated worlds."""
    twins = Twins(server)

    @settings(
        max_examples=examples,
        deadline=None,
        suppress_health_check=[*HealthCheck],
        phases=(Phase.explicit, Phase.generate),
    )
    @given(st.data())
    def law(data: Any) -> None:
        server.run(twins.check(data.draw))

    law()
    return twins


@pytest.fixture(autouse=True)
def databases(server: Server) -> Any:
    yield

    async def drop() -> None:
        for name in DATABASES:
            await server.client.drop_database(name)

    server.run(drop())


@pytest.mark.fuzz
def test_what_somebody_does_not_see_changes_no_answer(server: Server) -> None:
    twins = drawn(server, EXAMPLES)
    assert twins.seen["compared"] > 2 * twins.seen["left out"]
    assert twins.seen["kept"] > 10, twins.seen


def test_the_law_sees_what_a_missing_guard_tells(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That of hidden values is switched off in test_field_right_laws.py."""
    guard = GUARDS["rules on reading"]
    owner, attribute = guard._owner()
    monkeypatch.setattr(owner, attribute, guard.without(guard.found()))
    with pytest.raises(Interference):
        drawn(server, 60)
