"""The law of stored computed fields: whatever was done, each has the value that computing it anew gives."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import earnorm
from earnorm import App, BaseModel, Command, Inc, Unset
from earnorm.features.computed.computing import formulas_of
from earnorm.features.computed.plugin import graph_of
from earnorm.features.computed.recomputing import Recomputation

from .conftest import drop
from .orders import Country, Label, Line, Order, Partner, as_stored, from_scratch

CASES = int(os.environ.get("EARNORM_FUZZ_EXAMPLES", "60"))
MODELS: dict[str, type[BaseModel]] = {
    "country": Country,
    "partner": Partner,
    "label": Label,
    "order": Order,
    "line": Line,
}
small = st.integers(-2, 5)
which = st.integers(0, 3)
links = {"partner": "country", "order": "partner", "line": "order"}
POINTER = {"partner": "country_id", "order": "partner_id", "line": "order_id"}


def values(model: str) -> st.SearchStrategy[dict[str, Any]]:
    own: dict[str, Any] = {
        "country": {"vat": small | st.none(), "code": st.sampled_from(["A", "B", None])},
        "partner": {"name": st.sampled_from("xy")},
        "label": {"weight": small | st.none()},
        "order": {"fee": small, "state": st.sampled_from(["draft", "done"])},
        "line": {"price": small, "qty": small | st.none(), "note": st.sampled_from("xy")},
    }[model]
    if model in POINTER:
        own = {**own, POINTER[model]: st.tuples(st.just(links[model]), which) | st.none()}
    if model == "order":
        labels = st.lists(st.tuples(st.just("label"), which), max_size=3, unique=True)
        own = {**own, "label_ids": labels}
    return st.fixed_dictionaries({}, optional=own)


def step() -> st.SearchStrategy[tuple[Any, ...]]:
    models = st.sampled_from([*MODELS])
    line = values("line")
    return st.one_of(
        models.flatmap(
            lambda m: st.tuples(
                st.just("create"), st.just(m), st.lists(values(m), min_size=1, max_size=3)
            )
        ),
        models.flatmap(
            lambda m: st.tuples(
                st.sampled_from(["write", "save", "write_all"]), st.just(m), which, values(m)
            )
        ),
        models.flatmap(
            lambda m: st.tuples(
                st.just("write_many"), st.just(m), st.dictionaries(which, values(m), max_size=3)
            )
        ),
        models.flatmap(lambda m: st.tuples(st.just("update"), st.just(m), values(m))),
        st.tuples(st.just("unlink"), models, which),
        st.tuples(
            st.just("delete_some"),
            st.sampled_from(
                [
                    ("line", [("qty", ">", 2)]),
                    ("order", [("total", ">", 400)]),
                    ("line", [("order_id.state", "=", "done")]),
                    ("label", [("weight", "<", 1)]),
                ]
            ),
        ),
        st.tuples(
            st.just("inc"),
            st.sampled_from(
                [("line", "qty"), ("order", "fee"), ("label", "weight"), ("country", "vat")]
            ),
            small,
        ),
        st.tuples(
            st.just("unset"),
            st.sampled_from(
                [
                    ("line", "qty"),
                    ("line", "order_id"),
                    ("order", "partner_id"),
                    ("partner", "country_id"),
                ]
            ),
            which,
        ),
        st.tuples(st.sampled_from(["add_label", "pull_label"]), which, which),
        st.tuples(
            st.just("commands"),
            which,
            st.lists(
                st.one_of(
                    st.tuples(st.just("create"), line),
                    st.tuples(st.sampled_from(["link", "unlink", "delete"]), which),
                    st.tuples(st.just("update"), which, line),
                    st.just(("clear",)),
                ),
                max_size=3,
            ),
        ),
        st.tuples(
            st.just("new_order"), st.lists(line, max_size=2), st.lists(values("label"), max_size=2)
        ),
        st.tuples(st.just("bulk"), line, which, line, which),
        st.tuples(st.just("done_to_draft")),
    )


class World:
    """What the steps are done to."""

    def __init__(self) -> None:
        self.records: dict[str, list[Any]] = {}

    async def look(self) -> None:
        for name, model in MODELS.items():
            self.records[name] = list(await model.search(order="_id"))

    def one(self, name: str, number: int) -> Any:
        there = self.records[name]
        return there[number % len(there)] if there else None

    def real(self, given: dict[str, Any]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name, value in given.items():
            if isinstance(value, tuple):
                value = self.one(*value)
            elif isinstance(value, list):
                value = list({r.pk: r for each in value if (r := self.one(*each))}.values())
            found[name] = value
        return found

    async def do(self, kind: str, *arguments: Any) -> None:
        act: Callable[..., Awaitable[Any]] = getattr(self, f"do_{kind}")
        await act(*arguments)

    async def do_create(self, model: str, given: list[dict[str, Any]]) -> None:
        await MODELS[model].create([self.real(each) for each in given])

    async def do_write(self, model: str, number: int, given: dict[str, Any]) -> None:
        record = self.one(model, number)
        if record is not None and given:
            await record.write(self.real(given))
            await self.agrees(record)

    async def do_save(self, model: str, number: int, given: dict[str, Any]) -> None:
        record = self.one(model, number)
        if record is not None:
            for name, value in self.real(given).items():
                setattr(record, name, value)
            await record.save()
            await self.agrees(record)

    async def agrees(self, record: Any) -> None:
        """What the record holds is what is stored."""
        formulas = formulas_of(type(record)._schema)
        if formulas is not None:
            fresh = await type(record).get(record.pk)
            # What is owed is not loaded any more.
            names = [n for each in formulas.stored if (n := each.field.name) in record.__dict__]
            assert [record.__dict__[n] for n in names] == [fresh.__dict__[n] for n in names]

    async def do_write_all(self, model: str, _: int, given: dict[str, Any]) -> None:
        if given:
            await (await MODELS[model].search()).write(self.real(given))

    async def do_write_many(self, model: str, given: dict[int, dict[str, Any]]) -> None:
        chosen = {r: self.real(v) for n, v in given.items() if v and (r := self.one(model, n))}
        await MODELS[model].write_many(chosen)
        for record in chosen:
            await self.agrees(record)

    async def do_update(self, model: str, given: dict[str, Any]) -> None:
        if given:
            await MODELS[model].search([("id", "!=", None)]).update(self.real(given))

    async def do_unlink(self, model: str, number: int) -> None:
        record = self.one(model, number)
        if record is not None:
            await record.unlink()

    async def do_delete_some(self, chosen: tuple[str, Any]) -> None:
        await MODELS[chosen[0]].search(chosen[1]).delete()

    async def do_inc(self, chosen: tuple[str, str], by: int) -> None:
        await MODELS[chosen[0]].search([(chosen[1], "!=", None)]).update({chosen[1]: Inc(by)})

    async def do_unset(self, chosen: tuple[str, str], number: int) -> None:
        record = self.one(chosen[0], number)
        if record is not None:
            await record.write({chosen[1]: Unset()})

    async def do_add_label(self, order: int, label: int) -> None:
        record, other = self.one("order", order), self.one("label", label)
        if record is not None and other is not None:
            await record.write({"label_ids": [Command.link(other)]})

    async def do_pull_label(self, order: int, label: int) -> None:
        record, other = self.one("order", order), self.one("label", label)
        if record is not None and other is not None:
            await record.write({"label_ids": [Command.unlink(other)]})

    async def do_commands(self, order: int, given: list[tuple[Any, ...]]) -> None:
        record = self.one("order", order)
        commands: list[Command] = []
        for kind, *rest in given:
            if kind == "create":
                commands.append(
                    Command.create({k: v for k, v in rest[0].items() if k != "order_id"})
                )
            elif kind == "clear":
                commands.append(Command.clear())
            elif (line := self.one("line", rest[0])) is not None:
                own = [self.real(each) for each in rest[1:]]
                if kind != "update" or own[0]:
                    commands.append(getattr(Command, kind)(line, *own))
        if record is not None and commands:
            await record.write({"line_ids": commands})
            await self.agrees(record)

    async def do_new_order(self, lines: list[dict[str, Any]], labels: list[dict[str, Any]]) -> None:
        new = await Order.create(
            {
                "partner_id": self.one("partner", 0),
                "line_ids": [
                    Command.create({k: v for k, v in each.items() if k != "order_id"})
                    for each in lines
                ],
                "label_ids": [Command.create(each) for each in labels],
            }
        )
        await self.agrees(new)

    async def do_bulk(
        self, new: dict[str, Any], one: int, given: dict[str, Any], gone: int
    ) -> None:
        written, deleted = self.one("line", one), self.one("line", gone)
        async with Line.bulk() as bulk:
            bulk.create(self.real(new))
            if written is not None and given:
                bulk.write(written, self.real(given))
            if deleted is not None and deleted != written:
                bulk.unlink(deleted)

    async def do_done_to_draft(self) -> None:
        await Order.search([("state", "=", "done")]).update({"state": "draft", "fee": 3})


START: list[tuple[Any, ...]] = [
    ("create", "country", [{"vat": 10, "code": "A"}, {"vat": 20, "code": "B"}]),
    ("create", "partner", [{"country_id": ("country", 0)}, {"country_id": ("country", 1)}]),
    ("create", "label", [{"weight": 2}, {"weight": 3}]),
    ("create", "order", [{"partner_id": ("partner", 0), "label_ids": [("label", 0)]}, {"fee": 2}]),
    ("create", "line", [{"order_id": ("order", 0), "qty": 3}, {"order_id": ("order", 1)}]),
]


async def check(steps: list[tuple[Any, ...]]) -> None:
    for model in MODELS.values():
        await model.search().delete()
    world = World()
    for each in [*START, *steps]:
        await world.look()
        await world.do(*each)
        await earnorm.current_app().settled()
        expected, found = await from_scratch(), await as_stored()
        assert {k: sorted(v) for k, v in found.items()} == {
            k: sorted(v) for k, v in expected.items()
        }


@pytest.mark.parametrize("kind", ["memory", "pymongo", "motor"])
def test_every_stored_value_is_what_computing_it_anew_gives(kind: str, database: str) -> None:
    hold(kind, database, CASES if kind == "memory" else max(5, CASES // 12))


@pytest.mark.parametrize("kind", ["memory", "pymongo"])
@pytest.mark.parametrize("limit", [0, 1])
def test_so_it_is_once_nothing_is_owed(kind: str, limit: int, database: str) -> None:
    hold(kind, database, max(4, CASES // (6 if kind == "memory" else 20)), recompute_limit=limit)


async def test_a_recompute_that_is_dropped_instead_of_owed_is_found(
    memory_app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(graph_of(memory_app), "limit", 1)
    await check([("done_to_draft",)])

    async def forget(*arguments: Any, **options: Any) -> None:
        pass

    monkeypatch.setattr(Recomputation, "_owe", forget)
    with pytest.raises(AssertionError):
        await check([("done_to_draft",)])


def hold(kind: str, database: str, cases: int, **options: Any) -> None:
    uri = "mongomock://" if kind == "memory" else os.environ["EARNORM_TEST_MONGO_URI"]
    driver = None if kind == "memory" else kind
    with asyncio.Runner() as runner:
        app = App(uri, database=database, driver=driver, plugins=[], **options)

        @settings(max_examples=cases, deadline=None, suppress_health_check=list(HealthCheck))
        @given(st.lists(step(), min_size=1, max_size=5))
        def law(steps: list[tuple[Any, ...]]) -> None:
            async def run() -> None:
                with app.activate():
                    await check(steps)

            runner.run(run())

        runner.run(_start(app))
        try:
            law()
        finally:
            runner.run(drop(app))
            runner.run(app.stop())


async def _start(app: App) -> None:
    await app.start()
