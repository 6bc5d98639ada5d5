"""Roles in the database: who has which now, in every process within a second, and nobody more than he was given."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import os
import random
import sys
import threading
import time
import uuid

import pytest
from bson import ObjectId

from earnorm import (
    AccessDenied,
    App,
    ConfigurationError,
    FieldWithheld,
    Int,
    Many2one,
    Operation,
    Principal,
    ServerUnavailable,
    String,
    ValidationError,
    act_as,
    current_env,
    models,
    system,
    transaction,
)
from earnorm.plugin import Layer
from earnorm.testing import frozen_time
from earnorm_security import Access, FieldRights, Role, Rule, SecurityPlugin, SecuritySettings
from earnorm_security.stored import RoleAssignment, StoredRole
from earnorm_security.stored import knowing as knowing_module

from .conftest import URI_VARIABLE


class Paper(models.BaseModel):
    _name = "stored.paper"
    _access = [
        Access("reader", read=True),
        Access("editor", read=True, write=True, create=True, unlink=True),
    ]
    _rules = [Rule("small", [("size", "<", 10)], roles=["trainee"], restrict=True)]
    _field_rights = [FieldRights("price", read=["buyer"]), FieldRights("code", write=["coder"])]
    title = String()
    size = Int(default=1)
    price = Int(default=7)
    code = String()


class Sheet(models.BaseModel):
    """Links to papers, and is open itself."""

    _name = "stored.sheet"
    paper_id = Many2one(Paper)


class Admin(models.BaseModel):
    """A model of the program, with links to roles, as a user's page may have."""

    _name = "stored.profile"
    name = String()
    role_id = Many2one("security.role")


def another(app: App, plugins: tuple[object, ...] = (), **settings: object) -> App:
    """Return an App on the same database, as another process has one."""
    plugin = SecurityPlugin(SecuritySettings.model_validate(settings))
    return App(
        os.environ[URI_VARIABLE],
        database=app.settings.database,
        plugins=[plugin, *plugins],
        name=f"other_{uuid.uuid4().hex[:6]}",
    )


async def give(who: object, *roles: str, **values: object) -> None:
    with system(reason="test"):
        await RoleAssignment.create([{"principal": who, "role": r, **values} for r in roles])


async def reads(who: object = "ann") -> bool:
    with act_as(who):
        try:
            await Paper.count()
        except AccessDenied:
            return False
        return True


async def test_a_role_counts_from_the_commit_on_and_is_taken_away_likewise(opened):
    async with opened(stored_roles=True):
        assert not await reads()
        await give("ann", "reader")
        assert await reads() and not await reads("bob")
        with system(reason="test"):
            await RoleAssignment.search([("principal", "=", "ann")]).delete()
        assert not await reads()


async def test_an_id_of_any_kind_is_the_text_that_act_as_makes_of_it(opened):
    number, unique, pk = 7, uuid.uuid4(), ObjectId()
    async with opened(stored_roles=True):
        with system(reason="test"):
            page = await Admin.create({"name": "page"})
        everybody = [number, unique, pk, Principal("ann"), page]
        for who in everybody:
            assert not await reads(who)
            await give(who, "reader")
            assert await reads(who)
        with system(reason="test"):
            assert await RoleAssignment.count([("principal", "=", pk)]) == 1
            stored = (await RoleAssignment.search(order="id")).mapped("principal")
            assert stored == ["7", str(unique), str(pk), "ann", page.id]
            for wrong in (True, 1.5, None, "", {"$ne": None}):
                with pytest.raises(ValidationError):
                    await RoleAssignment.create({"principal": wrong, "role": "reader"})


async def test_stored_roles_imply_others_together_with_declared_ones(opened):
    async with opened(stored_roles=True, roles=[Role("chief", implies=["deputy"])]):
        await give("ann", "boss")
        assert not await reads()
        with system(reason="test"):
            boss = await StoredRole.create({"name": "boss", "implies": ["chief"]})
            await StoredRole.create({"name": "deputy", "implies": ["reader", "boss"]})
        assert await reads()
        assert await reads(Principal("eve", roles=["chief"]))  # stored for who has it elsewhere
        with system(reason="test"):
            await boss.write({"implies": []})
        assert not await reads()
        assert await reads(Principal("eve", roles=["chief"]))
        with system(reason="test"):
            for name in ("*", "", " a", "a ", " "):
                with pytest.raises(ValidationError):
                    await StoredRole.create({"name": name})


async def test_a_role_comes_and_ends_by_the_clock_without_any_write(opened):
    with frozen_time("2030-01-01T10:00:00Z") as clock:
        async with opened(stored_roles=True) as app:
            noon = datetime.datetime(2030, 1, 1, 12, tzinfo=datetime.UTC)
            await give(
                "ann", "reader", valid_from=noon - datetime.timedelta(hours=1), valid_to=noon
            )
            assert not await reads()
            asked = spied(app)
            clock.move_to("2030-01-01T11:00:00Z")
            assert await reads()
            clock.move_to("2030-01-01T11:59:59.999Z")
            assert await reads()
            clock.move_to("2030-01-01T12:00:00Z")
            assert not await reads()
            assert "security.assignment" not in asked
            with system(reason="test"), pytest.raises(ValidationError, match="valid_to is later"):
                await RoleAssignment.create(
                    {"principal": "a", "role": "b", "valid_from": noon, "valid_to": noon}
                )


def spied(app: App) -> list[str]:
    """Note the models that are asked for what is stored."""
    knowledge = app.services["security"].knowledge
    read, asked = knowledge._read, []

    async def reading(name: str, *rest: object) -> object:
        asked.append(name)
        return await read(name, *rest)

    knowledge._read = reading
    return asked


async def test_a_rolled_back_edit_changes_nothing_and_an_open_one_neither(opened):
    async with opened(stored_roles=True):
        with contextlib.suppress(ZeroDivisionError):
            async with transaction():
                await give("ann", "reader")
                assert not await reads()  # it is not committed
                raise ZeroDivisionError
        assert not await reads()
        async with transaction():
            await give("ann", "reader")
            assert not await reads()
        assert await reads()
        async with transaction():
            with system(reason="test"):
                await RoleAssignment.search().delete()
            assert await reads()
        assert not await reads()


async def test_a_transaction_that_is_open_for_long_hears_of_what_was_taken_away(opened):
    async with opened(stored_roles=True) as app:
        await give("ann", "reader")
        async with transaction():
            assert await reads()
            with system(reason="test"), app.activate(), system(reason="test"):
                await RoleAssignment.search().delete()  # not in the transaction
            assert not await reads()


async def test_the_question_in_a_transaction_waits_for_no_connection(opened):
    """A pool of one connection, which the transaction needs for its end."""
    async with opened(stored_roles=True) as app:
        plugin = SecurityPlugin(SecuritySettings(stored_roles=True))
        await give("ann", "editor")
        small = App(
            os.environ[URI_VARIABLE],
            database=app.settings.database,
            plugins=[plugin],
            max_pool_size=1,
            name="small",
        )
        async with small, asyncio.timeout(20):
            with small.activate(), act_as("ann"):
                async with transaction():
                    with system(reason="test"):
                        await Paper.create({})
                    await Paper.create({})
                    await asyncio.sleep(knowing_module.FRESH)
                    assert await Paper.count() == 2


@pytest.mark.parametrize("plugins", [(), ("cache",)])
async def test_another_app_knows_within_a_second(opened, plugins):
    async with (
        opened(plugins, stored_roles=True) as app,
        another(app, plugins, stored_roles=True) as other,
    ):
        with other.activate():
            assert not await reads()
        with app.activate():
            await give("ann", "reader")
        await asyncio.sleep(knowing_module.FRESH)
        with other.activate():
            assert await reads()
        with app.activate(), system(reason="test"):
            await RoleAssignment.search().delete()
        await asyncio.sleep(knowing_module.FRESH)
        with other.activate():
            assert not await reads()


PROGRAM = """
import asyncio, sys, time
from earnorm import App, AccessDenied, act_as
from earnorm_security import SecurityPlugin, SecuritySettings
from tests.plugins.security.test_stored_roles import Paper, reads

async def main():
    plugin = SecurityPlugin(SecuritySettings(stored_roles=True))
    async with App(sys.argv[1], database=sys.argv[2], plugins=[plugin]):
        print("ready", flush=True)
        while True:
            begun = time.time()
            print(begun, int(await reads()), flush=True)
            await asyncio.sleep(0.02)

asyncio.run(main())
"""


async def test_another_process_knows_within_a_second(opened):
    async with opened(stored_roles=True) as app:
        arguments = [os.environ[URI_VARIABLE], app.settings.database]
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", PROGRAM, *arguments, stdout=asyncio.subprocess.PIPE
        )
        assert process.stdout is not None
        for _ in range(3):
            assert await process.stdout.readline()
        edits = []
        for is_given in (True, False, True):
            if is_given:
                await give("ann", "reader")
            else:
                with system(reason="test"):
                    await RoleAssignment.search().delete()
            edits.append((time.time(), is_given))
            await asyncio.sleep(1.3)
        process.kill()
        lines = (await process.stdout.read()).decode().splitlines()
        await process.wait()
    answers = [(float(a), b == "1") for a, b in map(str.split, lines[:-1])]
    bounds = [*edits[1:], (float("inf"), False)]
    judged = 0
    for (committed, is_given), (following, _) in zip(edits, bounds, strict=True):
        for begun, answer in answers:
            if committed + 1 < begun < following - 0.1:
                assert answer is is_given
                judged += 1
    assert judged >= 3


async def test_a_database_that_does_not_answer_is_trusted_for_a_second_and_then_nobody_passes(
    opened, monkeypatch
):
    async with opened(stored_roles=True) as app:
        await give("ann", "reader")
        assert await reads()
        knowledge, now = app.services["security"].knowledge, [time.monotonic()]
        monkeypatch.setattr(knowing_module.time, "monotonic", lambda: now[0])
        knowledge._as_of = now[0]

        async def failing(*arguments: object) -> object:
            raise ServerUnavailable("gone")

        read = knowledge._read
        knowledge._read = failing
        now[0] += 0.4
        assert await reads()
        now[0] += 0.5  # 0.9
        assert await reads()
        now[0] += 0.2  # 1.1
        with act_as("ann"), pytest.raises(ServerUnavailable):
            await Paper.count()
        with act_as("ann"), pytest.raises(ServerUnavailable):
            await Paper.create({})
        with system(reason="test"):
            assert await Paper.count() == 0
        knowledge._read = read
        assert await reads()
        knowledge._read = failing
        knowledge.forget()  # this App has committed an edit: nothing before it counts
        with act_as("ann"), pytest.raises(ServerUnavailable):
            await Paper.count()


async def test_one_question_serves_all_that_begin_meanwhile(opened, monkeypatch):
    async with opened(stored_roles=True) as app:
        await give("ann", "reader")
        monkeypatch.setattr(knowing_module, "FRESH", 60.0)
        app.services["security"].knowledge.forget()
        asked = spied(app)
        answers = await asyncio.gather(*(reads() for _ in range(50)))
        assert all(answers)
        assert sorted(asked) == ["security.assignment", "security.role", "security.state"]
        asked.clear()
        await asyncio.gather(*(reads() for _ in range(50)))
        assert asked == []


async def test_a_cancelled_question_is_asked_by_another_one(opened):
    async with opened(stored_roles=True) as app:
        await give("ann", "reader")
        knowledge = app.services["security"].knowledge
        read, begun, going = knowledge._read, asyncio.Event(), asyncio.Event()

        async def slowly(name: str, *rest: object) -> object:
            begun.set()
            await going.wait()
            return await read(name, *rest)

        knowledge._read = slowly
        first = asyncio.ensure_future(reads())
        await begun.wait()
        others = [asyncio.ensure_future(reads()) for _ in range(5)]
        await asyncio.sleep(0)
        first.cancel()
        others[0].cancel()
        going.set()
        assert all(await asyncio.gather(*others[1:]))
        assert first.cancelled() and others[0].cancelled()


async def test_who_is_limited_gives_himself_no_role_on_any_way(opened):
    async with opened(stored_roles=True, stored_policies=True):
        with system(reason="test"):
            mine = await RoleAssignment.create({"principal": "ann", "role": "guest"})
            role = await StoredRole.create({"name": "guest"})
            profile = await Admin.create({"name": "ann"})
        with act_as("ann"):
            ways = {
                "create": lambda: RoleAssignment.create({"principal": "ann", "role": "editor"}),
                "many": lambda: RoleAssignment.create_many(
                    [{"principal": "ann", "role": "editor"}]
                ),
                "write": lambda: mine.write({"role": "editor"}),
                "update": lambda: RoleAssignment.search().update({"role": "editor"}),
                "upsert": lambda: StoredRole.upsert(
                    {"name": "guest", "implies": ["editor"]}, on=["name"]
                ),
                "copy": lambda: mine.copy({"role": "editor"}),
                "read": lambda: RoleAssignment.search(),
                "count": lambda: RoleAssignment.count(),
                "delete": lambda: RoleAssignment.search().delete(),
                "bulk": lambda: in_bulk(mine),
                "save": lambda: saved(mine),
                "implied": lambda: role.write({"implies": ["editor"]}),
                "link": lambda: Admin.create({"role_id": role}),
                "nested": lambda: profile.write({"role_id": {"name": "x", "implies": ["editor"]}}),
                "condition": lambda: Admin.search([("role_id.name", "=", "guest")]),
                "raw operation": lambda: current_env().app.execute(
                    Operation(
                        "create",
                        RoleAssignment,
                        current_env(),
                        values=[{"_id": ObjectId(), "principal": "ann", "role": "editor"}],
                    )
                ),
            }
            for name, way in ways.items():
                try:
                    found = await way()
                except (AccessDenied, ValidationError, TypeError):
                    continue
                assert name == "condition" and len(found) == 0, name
        with system(reason="test"):
            assert (await RoleAssignment.search()).mapped("role") == ["guest"]
            assert (await StoredRole.search()).mapped("implies") == [None]
        assert not await reads()


async def in_bulk(record: RoleAssignment) -> None:
    async with RoleAssignment.bulk() as bulk:
        bulk.create({"principal": "ann", "role": "editor"})
        bulk.write(record, {"role": "editor"})


async def saved(record: RoleAssignment) -> None:
    record.role = "editor"
    try:
        await record.save()
    finally:
        with system(reason="test"):
            await record.refresh()


async def test_whom_an_administrator_may_give_a_role_is_a_rule(opened):
    rows = {"security.assignment": [Access("admin", read=True, create=True, write=True)]}
    only = {"security.assignment": [Rule("these", [("role", "in", ["reader"])], roles=["admin"])]}
    async with opened(stored_roles=True, access=rows, rules=only):
        await give("eve", "admin")
        with act_as("eve"):
            own = await RoleAssignment.create({"principal": "eve", "role": "reader"})
            for values in ({"role": "editor"}, {"role": "admin"}):
                with pytest.raises(AccessDenied):
                    await RoleAssignment.create({"principal": "eve", **values})
                with pytest.raises(AccessDenied):
                    await own.write(values)
        assert await reads("eve")


async def test_fields_records_and_links_follow_the_stored_roles(opened):
    async with opened(stored_roles=True):
        with system(reason="test"):
            small, large = await Paper.create([{"title": "s"}, {"title": "l", "size": 20}])
        await give("ann", "reader")
        with act_as("ann"):
            assert len(await Paper.search()) == 2
            with pytest.raises(FieldWithheld):
                print((await Paper.get(small.id)).price)
            with pytest.raises(AccessDenied):
                await Paper.search(order="price").paginate(1)
            await Sheet.create({"paper_id": large})
        await give("ann", "trainee", "buyer", "editor", "coder")
        with act_as("ann"):
            assert (await Paper.search()).mapped("price") == [7]
            assert (await Paper.get(small.id)).price == 7
            assert len((await Paper.search(order="price").paginate(1)).records) == 1
            assert [paper.price async for paper in Paper.search()] == [7]
            with pytest.raises(ValidationError):
                await Sheet.create({"paper_id": large})
            made = await Paper.create({"title": "m", "code": "x"})
            assert (made.price, made.code) == (7, "x")
            assert (await made.copy()).code == "x"
            async with Paper.bulk() as bulk:
                bulk.write(made, {"code": "y"})
                bulk.create({"code": "z"})
            assert made.code == "y"


async def test_the_first_operation_of_a_principal_knows_its_roles_whatever_it_is(opened):
    """Nothing is known when the core asks what is withheld: it waits."""
    async with opened(stored_roles=True) as app:
        with system(reason="test"):
            paper = await Paper.create({"title": "s", "code": "a"})
            sheet = await Sheet.create({"paper_id": paper})

        async def copied() -> None:
            assert (await paper.copy()).code == "a"

        async def created() -> None:
            made = await Paper.create({"code": "x"})
            assert made.price == 7

        async def in_one_bulk() -> None:
            async with Paper.bulk() as bulk:
                bulk.create({"code": "x"})

        async def streamed() -> None:
            assert 7 in [one.price async for one in Paper.search()]

        async def paged() -> None:
            assert (await Paper.search(order="price").paginate(9)).records[0].price == 7

        async def loaded() -> None:
            found = (await Sheet.search([("id", "=", sheet.id)]))[0]
            assert (await found.paper_id).price == 7

        async def browsed() -> None:
            [one] = await Paper.browse([paper.id])
            await one.refresh()
            assert one.price == 7

        async def told() -> None:
            assert await app.services["security"].may(current_env(), Paper, "read", field="price")

        ways = [copied, created, in_one_bulk, streamed, paged, loaded, browsed, told]
        for number, way in enumerate(ways):
            who = f"first{number}"
            await give(who, "editor", "buyer", "coder")

            async def run(way=way, who=who) -> None:
                with act_as(who):
                    await way()

            await asyncio.create_task(run())  # a context of its own


async def test_a_bulk_is_judged_when_it_is_sent_and_not_by_what_held_when_it_was_opened(opened):
    async with opened(stored_roles=True):
        with system(reason="test"):
            paper = await Paper.create({"code": "a"})
        await give("ann", "editor", "coder")

        async def taken_away() -> None:
            with system(reason="test"):
                await RoleAssignment.search([("role", "=", "coder")]).delete()

        with act_as("ann"):
            with pytest.raises(AccessDenied, match="'code'"):
                async with Paper.bulk() as bulk:
                    bulk.write(paper, {"code": "b"})
                    await taken_away()
            await give("ann", "coder")
            with pytest.raises(AccessDenied, match="'code'"):
                async with Paper.bulk() as bulk:
                    bulk.create({"code": "c"})
                    bulk.create({})
                    await taken_away()
            async with Paper.bulk() as bulk:
                bulk.create({"title": "without"})
                bulk.write(paper, {"title": "b"})
        with system(reason="test"):
            assert sorted((await Paper.search()).mapped("code"), key=str) == [None, "a"]


async def test_nested_blocks_have_each_their_own_roles(opened):
    async with opened(stored_roles=True):
        await give("ann", "reader", "buyer")
        await give("bob", "reader")
        with system(reason="test"):
            await Paper.create({})
        with act_as("ann"):
            assert (await Paper.search())[0].price == 7
            with act_as("bob"):
                with pytest.raises(FieldWithheld):
                    print((await Paper.search())[0].price)
                with act_as("eve"), pytest.raises(AccessDenied):
                    await Paper.search()
            assert (await Paper.search())[0].price == 7
            streams = [Paper.search().stream() for _ in range(2)]
            first = await anext(streams[0])
            with act_as("bob"):
                second = await anext(streams[1])
            assert first.price == 7
            with act_as("bob"), pytest.raises(FieldWithheld):
                print(second.price)
            for stream in streams:
                await stream.aclose()


async def test_an_operation_is_judged_by_one_state_from_its_begin_to_its_end(opened):
    """Ann has had a right without the records, then the records without the right; never both."""
    rights = {"stored.sheet": [Access("a", read=True)]}
    rules = {
        "stored.sheet": [
            Rule("none", False, roles=["a"]),
            Rule("all", [], roles=["b"]),
        ]
    }
    async with opened(stored_roles=True, access=rights, rules=rules) as app:
        with system(reason="test"):
            await Sheet.create({})
        await give("ann", "a")
        knowledge = app.services["security"].knowledge

        async def swapping(op: object, call_next: object) -> object:
            with system(reason="test"), app.activate(), system(reason="test"):
                await RoleAssignment.search([("principal", "=", "ann")]).update({"role": "b"})
            await knowledge.fresh(op.env)
            return await call_next(op)

        bound = app.bind(Sheet)
        layers = bound.layers

        def with_swap(name: str) -> object:
            from earnorm.kernel.layers import PlacedLayer

            return [*layers(name), PlacedLayer(Layer.SECURITY - 1, "test", swapping)]

        bound.layers = with_swap
        bound.recompose()
        with act_as("ann"):
            assert len(await Sheet.search()) == 0
            bound.layers = layers
            bound.recompose()
            with pytest.raises(AccessDenied):
                await Sheet.search()


async def test_ten_thousand_assignments_and_long_ids(opened):
    async with opened(stored_roles=True) as app:
        with system(reason="test"):
            rows = [{"principal": f"p{n % 5000}", "role": f"r{n % 7}"} for n in range(9_000)]
            rows += [{"principal": "ann", "role": f"x{n}"} for n in range(999)]
            await RoleAssignment.create_many(rows)
        await give("ann", "reader")
        assert await reads() and not await reads("p1")
        long = "x" * 1000
        assert not await reads(long)
        await give(long, "reader")
        assert await reads(long)
        assert len(app.services["security"].knowledge._people) <= knowing_module.PEOPLE


async def test_two_event_loops_have_each_their_own_knowledge(opened):
    async with opened(stored_roles=True) as app:
        await give("ann", "reader")
        problems: list[BaseException] = []

        async def elsewhere() -> None:
            async with another(app, stored_roles=True) as other:
                with other.activate():
                    for _ in range(20):
                        assert await reads() and not await reads("bob")

        def run() -> None:
            try:
                asyncio.run(elsewhere())
            except BaseException as error:
                problems.append(error)

        threads = [threading.Thread(target=run) for _ in range(3)]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            assert await reads() and not await reads("bob")
            await asyncio.sleep(0.01)
        assert problems == []


async def test_edits_at_the_same_time_are_all_counted(opened):
    async with opened(stored_roles=True) as app, another(app, stored_roles=True) as other:

        async def from_one(one: App, start: int) -> None:
            with one.activate():
                await asyncio.gather(*(give(f"p{start + n}", "reader") for n in range(8)))

        await asyncio.gather(from_one(app, 0), from_one(other, 8))
        for one in (app, other):
            one.services["security"].knowledge.forget()
            with one.activate():
                assert [await reads(f"p{n}") for n in range(17)] == [True] * 16 + [False]


async def test_while_two_apps_edit_and_read_each_answer_was_right_half_a_second_before_or_since(
    opened,
):
    """Of an own edit, and of what stood before another one's, nothing older is seen."""
    people, seconds = ["p", "q", "r"], 4.0
    edits = {who: [(0.0, 0.0, False, "")] for who in people}
    answers: list[tuple[float, float, str, bool, str]] = []
    turns = {who: asyncio.Lock() for who in people}

    async def edit(app: App, rnd: random.Random, end: float) -> None:
        while time.monotonic() < end:
            who = rnd.choice(people)
            async with turns[who]:
                begun, state = time.monotonic(), not edits[who][-1][2]
                with app.activate(), system(reason="test"):
                    if state:
                        await RoleAssignment.create({"principal": who, "role": "reader"})
                    else:
                        await RoleAssignment.search([("principal", "=", who)]).delete()
                edits[who].append((begun, time.monotonic(), state, app.name))
            await asyncio.sleep(rnd.random() * 0.4)

    async def read(app: App, rnd: random.Random, end: float) -> None:
        while time.monotonic() < end:
            who, begun = rnd.choice(people), time.monotonic()
            with app.activate():
                answer = await reads(who)
            answers.append((begun, time.monotonic(), who, answer, app.name))
            await asyncio.sleep(rnd.random() * 0.02)

    async with opened(stored_roles=True) as app, another(app, stored_roles=True) as other:
        end = time.monotonic() + seconds
        both = [(one, random.Random(n)) for n, one in enumerate([app, other])]
        tasks = [work(one, rnd, end) for one, rnd in both for work in (edit, read, read, read)]
        await asyncio.gather(*tasks)

    def was_so(begun: float, ended: float, who: str, answer: bool, where: str) -> bool:
        follows = [*edits[who][1:], (float("inf"), float("inf"), False, "")]
        for (since, _, state, _), (_, until, _, editor) in zip(edits[who], follows, strict=True):
            grace = 0.0 if editor == where else knowing_module.FRESH
            if state is answer and since <= ended and begun <= until + grace:
                return True
        return False

    assert len(answers) > 50 and all(was_so(*answer) for answer in answers)


async def test_what_only_an_operation_knows_is_not_answered_without_one(opened):
    async with opened(stored_roles=True) as app:
        security = app.services["security"]
        with act_as("ann") as env, pytest.raises(ConfigurationError, match=r"may\(\.\.\.\)"):
            security.can(env, Paper, "read")
        with act_as("ann") as env:
            assert not await security.may(env, Paper, "read")
            await give("ann", "reader")
            assert await security.may(env, "stored.paper", "read")
            assert not await security.may(env, Paper, "read", field="price")
            with pytest.raises(ConfigurationError):
                await security.may(env, Paper, "fly")


async def test_an_app_without_the_setting_reads_nothing_and_edits_nothing(opened):
    async with opened() as app:
        assert app.services["security"].knowledge is None
        with system(reason="test"), pytest.raises(ConfigurationError, match="stored_roles=True"):
            await RoleAssignment.create({"principal": "ann", "role": "reader"})
        assert not [
            placed.layer
            for placed in app.bind(Paper).layers("search")
            if placed.layer < Layer.FAMILY
        ]
