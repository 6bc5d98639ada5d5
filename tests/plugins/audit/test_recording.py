"""What is recorded, of whom, and what is not."""

from __future__ import annotations

import asyncio
import datetime

import pytest

import earnorm
from earnorm import Embedded, EmbeddedModel, Inc, Int, List, String, UpdateItems, models
from earnorm_audit import AuditEntry, AuditPlugin, AuditSettings
from tests.plugins.audit.conftest import Opening
from tests.plugins.audit.shop import Account, Article, Session, entries, told, trail


async def test_create_write_and_unlink_leave_an_entry_each(app: earnorm.App) -> None:
    article = await Article.create({"title": "Pen", "stock": 3})
    await article.write({"stock": 4})
    await article.unlink()
    created, written, deleted = await told(article.ensure_one())
    assert created[0] == "create"
    assert created[1]["title"] == {"new": "Pen"}
    assert created[1]["stock"] == {"new": 3}
    assert written == ("write", {"stock": {"old": 3, "new": 4}})
    assert deleted[0] == "unlink"
    assert deleted[1]["stock"] == {"old": 4}


class Line(EmbeddedModel):
    sku = String(db_name="s")
    qty = Int()


class Order(models.BaseModel):
    _name = "audit_test.order"
    name = String()
    lines = List(Embedded(Line), db_name="l")


async def test_a_change_of_matching_items_is_recorded_as_the_lists_before_and_after(
    app: earnorm.App,
) -> None:
    order = await Order.create({"lines": [{"sku": "a", "qty": 1}, {"sku": "b", "qty": 2}]})
    await order.write({"lines": UpdateItems([("sku", "=", "a")], {"qty": Inc(4)})})
    await Order.search().update({"lines": UpdateItems([("sku", "=", "none")], {"qty": 9})})
    old = [{"s": "a", "qty": 1}, {"s": "b", "qty": 2}]
    new = [{"s": "a", "qty": 5}, {"s": "b", "qty": 2}]
    _, *written = await told(order)
    assert written == [("write", {"lines": {"old": old, "new": new}})]


async def test_saving_a_record_is_recorded(app: earnorm.App) -> None:
    article = Article(title="Pen")
    await article.save()
    article.title = "Pencil"
    await article.save()
    assert [operation for operation, _ in await told(article)] == ["create", "write"]
    assert (await told(article))[1][1] == {"title": {"old": "Pen", "new": "Pencil"}}


async def test_a_write_that_changes_nothing_leaves_no_entry(app: earnorm.App) -> None:
    article = await Article.create({"title": "Pen", "stock": 3})
    await article.write({"stock": 3})
    assert len(await told(article.ensure_one())) == 1


async def test_an_entry_says_who_and_when(app: earnorm.App) -> None:
    before = datetime.datetime.now(datetime.UTC) - datetime.timedelta(seconds=1)
    with earnorm.act_as("ann"):
        article = await Article.create({"title": "Pen"})
    [entry] = await trail(app).history(article)
    assert (entry.model, entry.principal, entry.system, entry.reason) == (
        "audit_test.article",
        "ann",
        False,
        None,
    )
    assert entry.record_id == article.ensure_one().id
    assert entry.at is not None
    assert before < entry.at < datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=1)


async def test_nobody_in_particular_is_recorded_as_unset(app: earnorm.App) -> None:
    await Article.create({"title": "Pen"})
    [entry] = await entries()
    assert entry.principal is None


async def test_system_and_its_reason_are_recorded_beside_the_principal(app: earnorm.App) -> None:
    with earnorm.act_as("ann"), earnorm.system(reason="nightly import"):
        await Article.create({"title": "Pen"})
    [entry] = await entries()
    assert (entry.principal, entry.system, entry.reason) == ("ann", True, "nightly import")


async def test_concurrent_principals_do_not_mix(app: earnorm.App) -> None:
    async def work(name: str) -> None:
        with earnorm.act_as(name):
            article = await Article.create({"title": name})
            await asyncio.sleep(0)
            await article.write({"stock": 1})

    names = [f"user{n}" for n in range(20)]
    await asyncio.gather(*(work(name) for name in names))
    for name in names:
        [article] = await Article.search([("title", "=", name)])
        assert [e.principal for e in await trail(app).history(article)] == [name, name]


async def test_an_update_by_domain_leaves_an_entry_for_each_changed_record(
    app: earnorm.App,
) -> None:
    await Article.create([{"title": f"a{n}", "stock": n} for n in range(5)])
    await Article.search([("stock", ">=", 2)]).update({"stock": 4})
    changed = await entries(operation="write")
    assert sorted(e.changes["stock"]["old"] for e in changed) == [2, 3]


async def test_a_deletion_by_domain_leaves_an_entry_for_each_deleted_record(
    app: earnorm.App,
) -> None:
    await Article.create([{"title": f"a{n}", "stock": n} for n in range(5)])
    await Article.search([("stock", "<", 2)]).delete()
    assert sorted(e.changes["stock"]["old"] for e in await entries(operation="unlink")) == [0, 1]


async def test_a_change_of_its_own_for_each_record_is_recorded(app: earnorm.App) -> None:
    articles = list(await Article.create([{"title": f"a{n}"} for n in range(3)]))
    # by hand: one operation, three different updates, one of them without effect
    updates = earnorm.PerRecord(
        {a.pk: earnorm.Update({"$set": {"st": n or 0}}) for n, a in enumerate(articles[:2])}
    )
    updates[articles[2].pk] = earnorm.Update({"$set": {"title": "a2"}})
    op = earnorm.Operation("write", Article, earnorm.current_env(), values=updates)
    assert await app.execute(op) == 3
    for n, article in enumerate(articles[:2]):
        assert (await told(article))[-1][1]["stock"]["new"] == n
    assert len(await told(articles[2])) == 1


@pytest.mark.parametrize("count", [3, 4, 7])
async def test_large_operations_are_recorded_completely(
    app: earnorm.App, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    monkeypatch.setattr("earnorm_audit.recording.CHUNK", 3)
    articles = await Article.create([{"title": f"a{n}", "stock": n} for n in range(count)])
    assert len(await entries(operation="create")) == count
    assert await Article.search([("stock", ">=", 0)]).update({"stock": -1}) == count
    assert len(await entries(operation="write")) == count
    per_record = earnorm.PerRecord(
        {a.pk: earnorm.Update({"$set": {"st": 100 + n}}) for n, a in enumerate(articles)}
    )
    op = earnorm.Operation("write", Article, earnorm.current_env(), values=per_record)
    assert await app.execute(op) == count
    assert len(await entries(operation="write")) == 2 * count
    await Article.search([]).delete()
    assert await Article.count([]) == 0
    assert len(await entries(operation="unlink")) == count


async def test_a_hidden_value_is_in_no_entry(app: earnorm.App) -> None:
    account = await Account.create({"login": "ann", "password": "s3cret-one"})
    await account.write({"password": "s3cret-two", "seen": 1})
    await account.unlink()
    stored = await app.dangerous_raw("to see every byte")["audit_entries"].find().to_list(None)
    assert len(stored) == 3
    assert "s3cret" not in repr(stored)
    history = await told(account.ensure_one())
    assert [changes["password"] for _, changes in history] == [{"changed": True}] * 3


async def test_a_model_can_stay_out(app: earnorm.App) -> None:
    session = await Session.create({"token": "t"})
    await session.write({"token": "u"})
    assert await entries() == []


async def test_the_settings_name_the_models_that_are_recorded(either: Opening) -> None:
    async with either(audit={"models": ["audit_test.account"]}) as app:
        await Article.create({"title": "Pen"})
        await Account.create({"login": "ann"})
        assert [e.model for e in await entries()] == ["audit_test.account"]
        assert (await app.health())["audit"]["status"] == "ok"


async def test_a_model_that_the_settings_misspell_shows_in_the_health(either: Opening) -> None:
    async with either(audit={"models": ["audit_test.acount"]}) as app:
        assert (await app.health())["audit"] == {
            "status": "degraded",
            "unknown_models": ["audit_test.acount"],
            "unknown_transactions": 0,
            "without_transactions": False,
            "unrecorded": 0,
            "lost_denials": 0,
        }


@pytest.mark.parametrize("excluded", ["stock", "audit_test.article.stock"])
async def test_excluded_fields_are_not_recorded(either: Opening, excluded: str) -> None:
    async with either(audit={"exclude_fields": [excluded]}):
        article = await Article.create({"title": "Pen", "stock": 1})
        await article.write({"stock": 2})
        [(operation, changes)] = await told(article.ensure_one())
        assert operation == "create"
        assert "stock" not in changes


async def test_a_misspelt_hidden_field_is_an_error_that_names_the_right_one(
    app: earnorm.App,
) -> None:
    class Misspelt(models.BaseModel):
        _name = "audit_test.misspelt"
        _audit_hidden = ("pasword",)
        password = String()

    # The transaction of any other model looks at every definition, so this one must go again.
    try:
        with pytest.raises(earnorm.ConfigurationError, match="did you mean 'password'"):
            await Misspelt.create({"password": "x"})
    finally:
        Misspelt._audit_hidden = ("password",)


async def test_one_text_as_hidden_fields_is_an_error(app: earnorm.App) -> None:
    class OneText(models.BaseModel):
        _name = "audit_test.one_text"
        _audit_hidden = "pin"
        pin = Int()

    try:
        with pytest.raises(earnorm.ConfigurationError, match="tuple of field names"):
            await OneText.create({"pin": 1})
    finally:
        OneText._audit_hidden = ("pin",)


def test_an_unknown_setting_is_an_error() -> None:
    with pytest.raises(earnorm.ConfigurationError, match="audit"):
        earnorm.App("mongomock://", database="x", plugins=[AuditPlugin], audit={"modles": []})


def test_the_plugin_can_be_handed_in_as_an_instance() -> None:
    plugin = AuditPlugin(AuditSettings(models=[]))
    assert earnorm.App("mongomock://", database="x", plugins=[plugin]).loaded


@pytest.mark.parametrize("system", [False, True])
async def test_the_trail_is_append_only(app: earnorm.App, system: bool) -> None:
    await Article.create({"title": "Pen"})
    [entry] = await entries()
    values = {name: getattr(entry, name) for name in AuditEntry._fields if name != "_id"}
    refusals = [
        lambda: AuditEntry.search([]).update({"principal": "eve"}),
        lambda: AuditEntry.search([]).delete(),
        lambda: AuditEntry.create(values),
    ]
    for refused in refusals:
        with pytest.raises(earnorm.AccessDenied, match="append-only"):
            if system:
                with earnorm.system(reason="audit"):
                    await refused()
            else:
                await refused()
    assert [e.pk for e in await entries()] == [entry.pk]


async def test_a_record_that_is_not_stored_has_no_history(app: earnorm.App) -> None:
    with pytest.raises(earnorm.NotFound, match="not stored"):
        await trail(app).history(Article(title="Pen"))


async def test_entries_are_in_the_order_of_the_changes(app: earnorm.App) -> None:
    article = await Article.create({"title": "Pen", "stock": 0})
    for n in range(1, 30):
        await article.write({"stock": n})
    news = [changes["stock"]["new"] for _, changes in await told(article.ensure_one())]
    assert news == list(range(30))


async def test_two_apps_keep_two_trails(either: Opening) -> None:
    async with either() as one, either() as two:
        with one.activate():
            article = await Article.create({"title": "one"})
        with two.activate():
            assert await entries() == []
            # the service belongs to its App, whichever is current
            assert len(await trail(one).history(article)) == 1


class Recorder:
    """Notes the origin and the parent of each operation, by its name and its model."""

    api = 1
    hears_bookkeeping = True

    def __init__(self) -> None:
        self.made: list[tuple[str, str, str, str | None]] = []

    @earnorm.hookimpl
    def wrap_operation(self, model):  # type: ignore[no-untyped-def] # the hook says what it gets
        async def note(op, call_next):  # type: ignore[no-untyped-def]
            parent = None if op.parent is None else op.parent.name
            self.made.append((op.name, op.model._name, op.origin, parent))
            return await call_next(op)

        return [(1, note)]


async def test_what_the_audit_reads_and_stores_says_so(either: Opening) -> None:
    recorder = Recorder()
    async with either(plugins=[AuditPlugin, recorder]):
        article = await Article.create({"title": "Pen"})
        await article.write({"title": "Pencil"})
    made = set(recorder.made)
    entry = AuditEntry._name
    assert ("create", entry, "audit", "create") in made
    assert ("create", entry, "audit", "write") in made
    assert ("search", "audit_test.article", "audit", "write") in made
    assert {each[2] for each in made} == {"program", "audit"}
