"""Field rights: hidden and masked fields on every way in and out."""

from __future__ import annotations

import asyncio
import copy
import json
import pickle
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from earnorm import (
    AccessDenied,
    Command,
    ConfigurationError,
    Count,
    Domain,
    FieldNotLoaded,
    FieldWithheld,
    Inc,
    Max,
    NotSupported,
    Principal,
    Sum,
    ValidationError,
    act_as,
    current_env,
    depends,
    models,
    system,
)
from earnorm.features.indexes.collection_options import CollectionOptions
from earnorm.fields import Geo, Int, Many2many, Many2one, One2many, String, Text
from earnorm.testing import count_queries
from earnorm_audit import AuditPlugin
from earnorm_cache import CachePlugin
from earnorm_security import Access, FieldRights, Role, Rule, Security, SecuritySettings, last, user


class Team(models.BaseModel):
    _name = "fieldrights.team"
    _field_rights = [FieldRights("budget", read=["hr"])]
    name = String(required=True)
    budget = Int(default=0)
    member_ids = One2many("fieldrights.person", "team_id")


class Person(models.BaseModel):
    _name = "fieldrights.person"
    _indexes = [{"notes": "text"}]
    _field_rights = [
        FieldRights("salary", read=["hr"]),
        FieldRights("iban", read=["hr"], mask=last(4)),
        FieldRights("wish", read=["hr"], write=["*"]),
        FieldRights("grade", read=["hr"], filter=["*"], aggregate=["*"]),
        FieldRights("badge", write=["hr"]),
        FieldRights("level", read=["*"]),
        FieldRights("secret_score", read=["hr"]),
        FieldRights("mentor_id", read=["hr"]),
    ]
    name = String(required=True, unique=True)
    salary = Int(default=1000, db_name="s")
    iban = String()
    wish = String()
    grade = Int(default=0)
    badge = String(default="none")
    notes = Text()
    team_id = Many2one(Team)
    mentor_id = Many2one("fieldrights.person")
    skill_ids = Many2many("fieldrights.team")
    yearly = Int(compute="_yearly", store=True)
    monthly = Int(compute="_monthly")
    level = Int(compute="_level", store=True)
    secret_score = Int(compute="_score")
    team_budget = Int(related="team_id.budget", store=True)

    @depends("salary")
    def _yearly(self) -> int:
        return self.salary * 12

    @depends("yearly")
    def _monthly(self) -> int:
        return self.yearly // 12

    @depends("salary")
    def _level(self) -> int:
        return self.salary // 1000

    @depends("name")
    def _score(self) -> int:
        return len(self.name)


CLERK = Principal("carl", roles=["clerk"])
HR = Principal("hana", roles=["hr"])
HIDDEN = (
    "salary",
    "yearly",
    "monthly",
    "secret_score",
    "team_budget",
    "wish",
    "grade",
    "mentor_id",
)


async def fill() -> dict[str, Person]:
    with system(reason="set-up"):
        team = await Team.create({"name": "north", "budget": 7})
        people = await Person.create(
            [
                {"name": "ann", "salary": 3000, "iban": "DE89370400440532013000", "team_id": team},
                {"name": "bob", "salary": 2000, "iban": "short", "team_id": team, "grade": 2},
                {"name": "eve", "salary": 5000, "iban": None, "wish": "x", "grade": 2},
            ]
        )
    return {person.name: person for person in people}


def refuse_hidden(person: Person, names: tuple[str, ...] = HIDDEN) -> None:
    for name in names:
        with pytest.raises(FieldWithheld, match="needs the role 'hr'"):
            getattr(person, name)


async def stored(name: str) -> dict[str, Any]:
    with system(reason="look"):
        document: dict[str, Any] = (await Person.find_one([("name", "=", name)]))[0].to_dict()
        return document


async def denied(call: Callable[[], Any], field: str) -> None:
    with pytest.raises(AccessDenied, match=f"field '{field}' (needs the role 'hr'|is nobody's)"):
        await call()


# -- reading --------------------------------------------------------------------------------------


async def test_hidden_fields_are_in_no_record_however_it_is_read(opened) -> None:
    async with opened():
        people = await fill()
        with act_as(CLERK):
            ann = (await Person.search([("name", "=", "ann")]))[0]
            ways = [ann, await Person.get(people["ann"].id)]
            ways += [p async for p in Person.search([("name", "=", "ann")])]
            ways.append(await Person.browse([people["ann"].id])[0])
            ways += (await Person.search().page(1)).records[:1]
            ways += (await Person.search(order="name").paginate(1)).records
            ways.append(
                (await Person.search([("name", "=", "ann")]).only("name", "level", "iban"))[0]
            )
            members = (await Team.search().prefetch("member_ids"))[0].member_ids
            ways += [m for m in members if m.name == "ann"]
            members = (await Team.search().prefetch("member_ids", limit=5, order="name"))[
                0
            ].member_ids
            ways.append(members[0])
            ways.append(pickle.loads(pickle.dumps(ann)))
            ways.append(copy.copy(ann))
            for person in ways:
                assert person.name == "ann" and person.level == 3
                assert person.iban == "****3000"
                refuse_hidden(person)
                assert not {"s", "salary", "yearly"} & person.__dict__.keys()
                assert not set(HIDDEN) & person.to_dict().keys()
            assert "3000," not in ann.to_json() and "salary" not in json.loads(ann.to_json())
            assert set(HIDDEN).isdisjoint(await ann.read()) and "salary" not in repr(ann)
            assert all(set(HIDDEN).isdisjoint(row) for row in await Person.search().to_dict())
        with act_as(HR):
            assert (await Person.get(people["ann"].id)).yearly == 36000


async def test_hidden_fields_cannot_be_asked_for_by_name(opened) -> None:
    async with opened():
        people = await fill()
        with act_as(CLERK):
            ann = await Person.get(people["ann"].id)
            for name in ("salary", "yearly", "monthly", "secret_score"):
                await denied(
                    lambda name=name: Person.search().only("name", name), "(salary|" + name + ")"
                )
            await denied(lambda: ann.refresh("salary"), "salary")
            await denied(lambda: ann.read(["salary"]), "salary")
            with pytest.raises(FieldWithheld):
                ann.to_dict(include=["salary"])
            with pytest.raises(FieldWithheld, match="mentor_id"):
                await Person.search().prefetch("mentor_id")


async def test_refresh_brings_what_who_asks_may_read(opened) -> None:
    async with opened():
        people = await fill()
        with act_as(HR):
            ann = await Person.get(people["ann"].id)
        with act_as(CLERK):
            assert ann.salary == 3000  # what a program hands on is shown
            await ann.refresh()
            refuse_hidden(ann)
        with act_as(HR):
            with pytest.raises(FieldNotLoaded, match="refresh"):
                _ = ann.salary
            await ann.refresh("salary")
            assert ann.salary == 3000
            await ann.refresh()
            assert ann.yearly == 36000


async def test_the_cache_keeps_whole_documents_and_everybody_gets_their_own(opened) -> None:
    async with opened(plugins=(CachePlugin(),)):
        people = await fill()
        ids = [p.id for p in people.values()]
        for _ in range(2):
            for principal, salary in ((HR, True), (CLERK, False), (HR, True)):
                with act_as(principal):
                    ann = await Person.get(ids[0])
                    assert ("salary" in ann.to_dict()) is salary
                    assert ann.iban == ("DE89370400440532013000" if salary else "****3000")
        with act_as(CLERK), count_queries() as queries:
            refuse_hidden(await Person.get(ids[0]))
        assert len(queries) == 0


async def test_tables_have_no_hidden_column(opened) -> None:
    pytest.importorskip("pyarrow")
    async with opened():
        await fill()
        with act_as(CLERK):
            table = await Person.search(order="name").to_arrow()
            of_records = (await Person.search()).to_arrow()
            for columns in (table, of_records):
                assert set(HIDDEN).isdisjoint(columns.column_names)
            assert table["iban"].to_pylist()[0] == "****3000"


# -- conditions, orders, groups -------------------------------------------------------------------


async def test_each_use_of_a_field_needs_its_own_right(opened) -> None:
    async with opened():
        await fill()
        with act_as(CLERK):
            for name in ("salary", "yearly", "monthly", "iban", "team_budget", "mentor_id"):
                field = f"({name}|salary|yearly|budget)"
                for domain in (
                    [(name, "=", None)],
                    ["!", (name, "=", None)],
                    ["|", ("name", "=", "x"), (name, "!=", None)],
                ):
                    await denied(lambda d=domain: Person.search(d), field)
                    await denied(lambda d=domain: Person.search(d).count(), field)
                    await denied(lambda d=domain: Person.search(d).exists(), field)
                    await denied(lambda d=domain: Person.search(d).group("name", n=Count()), field)
                    await denied(
                        lambda d=domain: Person.search(d).aggregate([{"$limit": 1}]), field
                    )
                    await denied(lambda d=domain: Person.search(d).update({"name": "x"}), field)
                    await denied(lambda d=domain: Person.search(d).delete(), field)
                    await denied(lambda d=domain: Person.search(d).explain(), field)
            for name in ("salary", "yearly", "iban"):
                await denied(lambda name=name: Person.search(order=name), name)
                await denied(lambda name=name: Person.search(order=f"name,-{name}").first(), name)
                await denied(lambda name=name: Person.search().group(name, n=Count()), name)
                await denied(lambda name=name: Person.search().group("name", n=Max(name)), name)
            await denied(lambda: Person.search([("mentor_id.name", "=", "x")]), "mentor_id")
            await denied(lambda: Person.search(order="mentor_id.name"), "mentor_id")
            await denied(lambda: Person.search([("*", "text", "x")]), ".*")
            # to filter and to aggregate, but not to read or order
            assert await Person.search([("grade", "=", 2)]).count() == 2
            assert (await Person.search().group(n=Sum("grade")))[0]["n"] == 4
            await denied(lambda: Person.search().group("grade", n=Count()), "grade")
            await denied(lambda: Person.search(order="grade"), "grade")
        with act_as(HR):
            assert (await Person.search(order="-salary").first()).name == "eve"
            assert await Person.search([("team_id.budget", "=", 7)]).count() == 2


async def test_a_field_of_another_model_needs_its_right_there(opened) -> None:
    async with opened():
        await fill()
        with act_as(CLERK):
            await denied(lambda: Person.search([("team_id.budget", ">", 1)]), "budget")
            await denied(
                lambda: Person.search([("team_id", "any", [("budget", ">", 1)])]), "budget"
            )
            await denied(lambda: Person.search(order="team_id.budget"), "budget")
            await denied(lambda: Person.search().group("team_id.budget", n=Count()), "budget")
            await denied(lambda: Person.search().group("name", n=Sum("team_id.budget")), "budget")
            await denied(lambda: Team.search([("member_ids.salary", ">", 1)]), "salary")
            assert (await Person.search(order="team_id.name,name")).mapped("name")[-1] == "bob"
            assert len(await Person.search().group("team_id.name", n=Count())) == 2
            person = (await Person.search().prefetch("team_id").only("name", "team_id"))[1]
            assert person.team_id.name == "north"
            with pytest.raises(FieldWithheld):
                _ = person.team_id.budget


async def test_for_a_pipeline_hidden_fields_do_not_exist(opened) -> None:
    async with opened():
        await fill()
        with act_as(CLERK):
            pipeline: list[Any] = [{"$match": {"s": {"$gt": 1}}}]
            assert await Person.search().aggregate(pipeline) == []
            rows = await Person.search().aggregate(
                [{"$set": {"copy": {"$ifNull": ["$s", "$iban", "$grade", "none"]}}}]
            )
            assert {row["copy"] for row in rows} == {"none"}
            assert all({"s", "iban", "grade"}.isdisjoint(row) for row in rows)
            look = {
                "from": "fieldrights.team",
                "localField": "team_id",
                "foreignField": "_id",
                "as": "t",
                "pipeline": [{"$match": {"budget": 7}}],
            }
            rows = await Person.search().aggregate([{"$lookup": look}])
            assert all(row["t"] == [] for row in rows)


async def test_no_index_is_searched_that_may_have_a_hidden_field(opened) -> None:
    class Placed(models.BaseModel):
        _name = "fieldrights.placed"
        _indexes = [{"body": "text"}, {"place": "2dsphere"}]
        _field_rights = [FieldRights("body", "place", read=["hr"])]
        name = String()
        body = String()
        place = Geo()

    near = {"near": {"type": "Point", "coordinates": [1, 1]}, "distanceField": "far"}
    searched: list[Any] = [
        [{"$match": {"$text": {"$search": "word"}}}],
        [{"$geoNear": {**near, "key": "place"}}],
    ]
    look = {"from": "fieldrights.placed", "as": "found", "pipeline": searched[0]}
    async with opened():
        with system(reason="fill"):
            await Placed.create({"name": "a", "body": "word", "place": near["near"]})
            for pipeline in searched:
                assert len(await Placed.search().aggregate(pipeline)) == 1
        with act_as(CLERK):
            for pipeline in (*searched, [{"$lookup": look}]):
                with pytest.raises(NotSupported, match="hidden from you"):
                    await Placed.search().aggregate(pipeline)
        with act_as(HR):
            assert len(await Placed.search().aggregate(searched[0])) == 1


async def test_an_update_by_a_condition_of_a_client_sets_what_the_client_may(opened) -> None:
    async with opened():
        await fill()
        domain = Domain.untrusted([["name", "=", "ann"]], fields=["name"])
        hidden = Domain.untrusted([["salary", "=", 3000]], fields=["salary"])
        with act_as(CLERK), system(reason="a job for many users"):
            assert await Person.search(domain).update({"notes": "x"}) == 1
            await denied(lambda: Person.search(domain).update({"salary": 1}), "salary")
            await denied(lambda: Person.search(hidden), "salary")
            found = (await Person.search(domain))[0]
            (streamed,) = [p async for p in Person.search(domain)]
            paged = (await Person.search(domain, order="name").paginate(1)).records[0]
            for person in (found, streamed, paged):
                known = set(HIDDEN) - {"secret_score"}  # what a system computes of what it sees
                assert known.isdisjoint(person.to_dict()) and person.iban == "****3000"


async def test_a_cursor_holds_no_hidden_value(opened) -> None:
    async with opened():
        await fill()

        class Ordered(Person):
            _name = "fieldrights.ordered"
            _field_rights = [FieldRights("name", read=["hr"], order=["*"], filter=["*"])]

        with system(reason="fill"):
            await Ordered.create([{"name": "a"}, {"name": "b"}])
        with act_as(CLERK):
            assert len(await Ordered.search(order="-name")) == 2
            with pytest.raises(AccessDenied, match="a cursor would hold"):
                await Ordered.search(order="name").paginate(1)


async def test_watch_tells_of_no_hidden_field(opened) -> None:
    class Watched(models.BaseModel):
        _name = "fieldrights.watched"
        _options = CollectionOptions(pre_images=True)
        _field_rights = [
            FieldRights("pay", read=["hr"]),
            FieldRights("code", read=["hr"], mask=last(2)),
        ]
        name = String()
        pay = Int()
        code = String()

    async with opened():
        with act_as(CLERK):
            watch = Watched.watch(before=True)
            await watch.__aenter__()
        async with watch:
            with system(reason="a test"):
                watched = await Watched.create({"name": "a", "pay": 1, "code": "1234"})
                await watched.write({"pay": 2})
                await watched.write({"code": "9999"})
                await watched.write({"name": "b", "pay": 3})
                await watched.unlink()
            with act_as(CLERK):
                events = [await asyncio.wait_for(anext(watch), 20) for _ in range(3)]
                assert [event.kind for event in events] == ["create", "write", "unlink"]
                assert events[0].changed == {"name"} and events[1].changed == {"name"}
                for record in [e.record for e in events[:2]] + [e.before for e in events[1:]]:
                    assert record is not None and record.to_dict().keys() == {"id", "name"}
                    with pytest.raises(FieldWithheld):
                        _ = record.pay


async def test_a_history_has_the_fields_that_its_reader_may_read(opened) -> None:
    async with opened(plugins=(AuditPlugin(),)) as app:
        people = await fill()
        with system(reason="changes"):
            await people["ann"].write({"salary": 3500})
            await people["ann"].write({"salary": 3600, "notes": "n"})
        log = app.services["audit"]
        with act_as(CLERK):
            history = await log.history(people["ann"])
            assert [entry.operation for entry in history] == ["create", "write"]
            assert history[1].changes.keys() == {"notes"}
            assert {"salary", "iban", "yearly"}.isdisjoint(history[0].changes)
            assert not any(entry.is_changed for entry in history)
        with act_as(HR):
            history = await log.history(people["ann"])
            assert [e.changes["salary"]["new"] for e in history] == [3000, 3500, 3600]


# -- writing --------------------------------------------------------------------------------------


async def test_a_value_for_a_field_needs_the_right_to_set_it_on_every_way(opened) -> None:
    async with opened():
        people = await fill()
        with act_as(CLERK):
            ann = await Person.get(people["ann"].id)
            new = {"name": "new", "salary": 1}

            async def saved() -> None:
                ann.salary = 1
                await ann.save()

            async def in_bulk() -> None:
                async with Person.bulk() as bulk:
                    bulk.create(new)

            ways: list[Callable[[], Awaitable[object]]] = [
                lambda: Person.create(new),
                lambda: Person.create([new]),
                lambda: Person(**new).save(),
                lambda: Person.create_many([new]),
                lambda: Person.upsert({"name": "ann", "salary": 1}, on="name"),
                lambda: ann.write({"salary": 1}),
                lambda: ann.write({"salary": Inc(1)}),
                lambda: Person.search().update({"salary": 1}),
                lambda: (ann.ensure_one()).save({"salary": 1}),
                lambda: ann.copy({"salary": 1}),
                lambda: Team.create({"name": "t", "member_ids": [Command.create(new)]}),
                saved,
                in_bulk,
            ]
            for number, way in enumerate(ways):
                with pytest.raises(AccessDenied, match="right to set the field 'salary'"):
                    await way()
                    pytest.fail(f"way {number} was not refused")
        assert (await stored("ann"))["salary"] == 3000
        with system(reason="look"):
            assert await Person.search().count() == 3 and await Team.search().count() == 1


async def test_what_is_not_read_is_not_changed(opened) -> None:
    async with opened():
        people = await fill()
        with act_as(CLERK):
            ann = await Person.get(people["ann"].id)
            ann.notes = "kind"
            await ann.save()
            await ann.write({"notes": "kinder"})
            await Person.search([("name", "=", "ann")]).update({"notes": "x"})
            await Person.upsert({"name": "ann", "notes": "y"}, on="name")
            refuse_hidden(ann)
            assert ann.iban == "****3000" and not ann.is_changed
            created = await Person.create({"name": "dan", "notes": "n"})
            refuse_hidden(created)
            assert created.badge == "none" and "iban" not in created.to_dict()
            unsaved = Person(name="dora")
            await unsaved.save()
            refuse_hidden(unsaved)
            upserted, _ = await Person.upsert({"name": "fay", "notes": "n"}, on="name")
            refuse_hidden(upserted)
            copied = await ann.copy({"name": "twin"})
            refuse_hidden(copied)
        after = await stored("ann")
        assert (after["salary"], after["iban"], after["yearly"]) == (
            3000,
            "DE89370400440532013000",
            36000,
        )
        for name in ("dan", "dora", "fay", "twin"):
            made = await stored(name)
            assert made["salary"] == 1000 and made["yearly"] == 12000 and made["iban"] is None


async def test_who_may_only_set_a_field_learns_nothing_by_it(opened) -> None:
    async with opened():
        people = await fill()
        with act_as(CLERK):
            eve = await Person.get(people["eve"].id)
            await eve.write({"wish": "holidays"})
            await Person.search([("name", "=", "ann")]).update({"wish": "y"})
            created = await Person.create({"name": "dan", "wish": "w"})
            refuse_hidden(created)
            await eve.refresh()
            refuse_hidden(eve)
        assert (await stored("eve"))["wish"] == "holidays"
        assert (await stored("dan"))["wish"] == "w"

        class Counter(models.BaseModel):
            _name = "fieldrights.counter"
            _field_rights = [FieldRights("number", read=["hr"], write=["*"])]
            name = String(required=True)
            number = Int(default=5, max_value=9)

        with system(reason="fill"):
            counter = await Counter.create({"name": "c"})
        with act_as(CLERK):
            held = await Counter.get(counter.id)
            for way in (
                lambda: held.write({"number": Inc(1)}),  # its refusal would tell the number
                lambda: Counter.search().update({"number": Inc(1)}),
            ):
                await denied(way, "number")
            await held.write({"number": 3})


async def test_a_masked_value_is_not_written_back(opened) -> None:
    class Account(models.BaseModel):
        _name = "fieldrights.account"
        _field_rights = [FieldRights("iban", read=["hr"], write=["*"], mask=last(4))]
        iban = String()

    async with opened():
        with system(reason="fill"):
            account = await Account.create({"iban": "DE89370400440532013000"})
        with act_as(CLERK):
            held = await Account.get(account.id)
            await held.save()
            with pytest.raises(ValidationError, match="masked value"):
                await held.write({"iban": held.iban})
            await held.write({"iban": "FR1420041010050500013M02606"})
        with system(reason="look"):
            assert (await Account.get(account.id)).iban == "FR1420041010050500013M02606"


def test_a_mask_shows_at_most_half_of_a_text() -> None:
    assert last(4)("12345678") == "****5678"
    assert last(4)("1234567") == last(4)("") == "****"
    with pytest.raises(ConfigurationError, match="above 0"):
        last(0)


async def test_a_mask_that_fails_tells_no_value(opened) -> None:
    class Broken(models.BaseModel):
        _name = "fieldrights.broken"
        _field_rights = [FieldRights("code", read=["hr"], mask=lambda text: str(int(text)))]
        code = String()

    async with opened():
        with system(reason="fill"):
            await Broken.create({"code": "hidden words"})
        with act_as(CLERK), pytest.raises(ConfigurationError) as error:
            await Broken.search()
        assert "hidden" not in str(error.value) and error.value.__cause__ is None


# -- roles, rules, declarations -------------------------------------------------------------------


async def test_rules_roles_and_settings_join(opened) -> None:
    class Ticket(models.BaseModel):
        _name = "fieldrights.ticket"
        _access = [Access("*", read=True, write=True)]
        _rules = [Rule("own or costly", ["|", ("owner", "=", user.id), ("cost", ">", 100)])]
        _field_rights = [FieldRights("cost", read=["desk"])]
        owner = String()
        cost = Int(default=0)
        memo = String()

    rights = {"fieldrights.ticket": [FieldRights("cost", "memo", read=["boss"])]}
    async with opened(
        field_rights=rights, roles=[Role("director", implies=["desk", "boss"])]
    ) as app:
        with system(reason="fill"):
            await Ticket.create([{"owner": "carl", "cost": 5}, {"owner": "x", "cost": 500}, {}])
        security = app.services.of_type(Security)
        with act_as(CLERK):  # rules may look at what the principal may not
            assert await Ticket.search().count() == 2
            assert all("cost" not in t.to_dict() for t in await Ticket.search())
            assert security.can(current_env(), Ticket, "read", field="owner")
            assert not security.can(current_env(), Ticket, "filter", field="cost")
            with pytest.raises(ConfigurationError, match="no field 'cots'; did you mean 'cost'"):
                security.can(current_env(), Ticket, "read", field="cots")
            with pytest.raises(ConfigurationError, match="no right 'unlink' on a field"):
                security.can(current_env(), Ticket, "unlink", field="cost")
        for roles, costs, memos in ((["desk"], False, False), (["boss"], False, True)):
            with act_as(Principal("p", roles=roles)):
                rows = [t.to_dict() for t in await Ticket.search()]
                assert all(("cost" in row) is costs and ("memo" in row) is memos for row in rows)
        with act_as(Principal("d", roles=["director"])):
            assert (await Ticket.search([("cost", ">", 100)]))[0].cost == 500


@pytest.mark.parametrize(
    ("rights", "problem"),
    [
        ({"salary": ["hr"]}, "is a list of FieldRights"),
        (["salary"], "contains str"),
        ([FieldRights(read=["hr"])], "names no field"),
        ([FieldRights("salry", read=["hr"])], "did you mean 'salary'"),
        ([FieldRights("salary", read="hr")], "read is a list of roles"),
        ([FieldRights("salary", filter=[""])], "filter is a list of roles"),
        ([FieldRights("name", mask=last(2))], "goes with read="),
        ([FieldRights("salary", read=["hr"], mask=last(2))], "only a stored text"),
        ([FieldRights("_id", read=["hr"])], "the library's own"),
        ([FieldRights("parent_id", read=["hr"])], "makes the tree"),
        ([FieldRights("child_ids", read=["hr"])], "is stored in the other model"),
        ([FieldRights("team_id", read=["hr"], filter=["x"])], "filter= has no role that read="),
        ([FieldRights("active", read=["hr"])], "decides which records"),
    ],
)
async def test_a_mistake_in_a_declaration_names_the_model(opened, rights, problem) -> None:
    class Wrong(models.BaseModel):
        _name = "fieldrights.wrong"
        _soft_delete = True
        _field_rights = rights
        name = String()
        salary = Int()
        active = Int()
        team_id = Many2one(Team)
        parent_id = Many2one("fieldrights.wrong")
        child_ids = One2many("fieldrights.wrong", "parent_id")

    async with opened():
        with pytest.raises(ConfigurationError, match=f"fieldrights.wrong.*{problem}"):
            await Wrong.search()


def test_the_declaration_shows_itself() -> None:
    assert (
        repr(FieldRights("a", read=["x"], mask=last(2))) == "FieldRights('a', read=['x'], mask=...)"
    )
    assert SecuritySettings().field_rights == {}
