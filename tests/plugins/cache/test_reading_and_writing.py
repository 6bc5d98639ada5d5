"""What is kept, what is not, and what drops it: through models, on a real server and in memory."""

from __future__ import annotations

import asyncio
import uuid

import pytest
from bson import ObjectId

import earnorm
from earnorm import App, Int, Layer, List, NotFound, String, hookimpl, models
from earnorm_cache import CacheStatistics
from tests.plugins.cache.conftest import Open
from tests.plugins.cache.probes import Clock, Probe, cache_of


class Note(models.BaseModel):
    _name = "cache_note"

    title = String(required=True)
    stars = Int(default=0)
    tags = List(String())


class NoteTitle(models.BaseModel):
    """Another view of the same collection."""

    _name = "cache_note_title"
    _collection = "cache_note"

    title = String(required=True)


class NoteStars(models.BaseModel):
    """A view that is not cached, of a collection that is."""

    _name = "cache_note_stars"
    _collection = "cache_note"
    _cache = False

    title = String()
    stars = Int()


class Uncached(models.BaseModel):
    _name = "cache_uncached"
    _cache = False

    title = String(required=True)


class AlwaysCached(models.BaseModel):
    _name = "cache_always"
    _cache = True

    title = String(required=True)


class Numbered(models.BaseModel):
    _name = "cache_numbered"

    _id = Int()
    title = String()


@pytest.fixture
async def app(open_app: Open, probe: Probe) -> App:
    return await open_app(probe, max_entries=3, default_ttl=60.0)


@pytest.fixture
async def note(app: App, probe: Probe) -> Note:
    note = await Note.create({"title": "first", "tags": ["a"]})
    probe.seen.clear()
    return note


async def test_a_second_read_by_id_does_not_reach_the_database(note: Note, probe: Probe) -> None:
    first = await Note.get(note.id)
    second = await Note.get(note.id)
    assert probe.searches == 1
    assert first is not second
    assert (second.title, second.stars, second.tags) == ("first", 0, ["a"])
    assert cache_of().statistics() == CacheStatistics(hits=1, misses=1, entries=1)


async def test_every_way_to_ask_for_one_id_finds_the_same_entry(note: Note, probe: Probe) -> None:
    await Note.get(note.id)
    assert (await Note.get(note.pk)).title == "first"
    assert (await Note.find_one([("id", "=", note.id)])).title == "first"
    assert (await Note.search([("_id", "in", [note.pk])])).ids == [note.id]
    assert probe.searches == 1


async def test_changing_a_record_does_not_change_what_is_kept(note: Note, probe: Probe) -> None:
    loaded = await Note.get(note.id)
    loaded.title = "changed in memory"
    loaded.tags.append("b")
    again = await Note.get(note.id)
    again.tags.append("c")
    last = await Note.get(note.id)
    assert (last.title, last.tags) == ("first", ["a"])
    assert probe.searches == 1


async def test_of_several_ids_only_the_missing_ones_are_loaded(app: App, probe: Probe) -> None:
    notes = await Note.create([{"title": str(n)} for n in range(3)])
    await Note.get(notes[1].id)
    probe.seen.clear()
    found = await Note.search([("_id", "in", [notes[2].pk, notes[1].pk, notes[0].pk])])
    assert [n.title for n in found] == ["2", "1", "0"]
    assert [c.value for op in probe.seen for c in op.domain.conditions()] == [
        (notes[2].pk, notes[0].pk)
    ]


@pytest.mark.parametrize(
    "search",
    [
        lambda pks: Note.search([("_id", "in", pks)], order="-title"),
        lambda pks: Note.search([("_id", "in", pks)], limit=1),
        lambda pks: Note.search([("_id", "in", pks)], offset=1),
        lambda pks: Note.search([("_id", "in", pks)]).only("title"),
        lambda pks: Note.search([("_id", "in", pks), ("stars", "=", 0)]),
        lambda pks: Note.search([("_id", "!=", pks[0])]),
        lambda pks: Note.search([("title", "=", "0")]),
    ],
    ids=["order", "limit", "offset", "projection", "two conditions", "operator", "field"],
)
async def test_other_searches_pass_by(app: App, probe: Probe, search: object) -> None:
    notes = await Note.create([{"title": str(n)} for n in range(2)])
    probe.seen.clear()
    for _ in range(2):
        await search([n.pk for n in notes])  # type: ignore[operator]
    assert probe.searches == 2
    assert cache_of().statistics() == CacheStatistics()


async def test_a_stream_passes_by(note: Note) -> None:
    for _ in range(2):
        assert [n.title async for n in Note.search([("_id", "=", note.pk)])] == ["first"]
    assert cache_of().statistics() == CacheStatistics()


async def test_a_condition_added_by_an_outer_layer_goes_to_the_database(
    open_app: Open, probe: Probe
) -> None:
    class Rule:
        api = 1
        name = "rule"
        hidden = False

        @hookimpl
        def wrap_operation(self, app: App, model: object, operation: str) -> object:
            async def restrict(op, call_next):  # type: ignore[no-untyped-def]
                if self.hidden:
                    op = op.replace(domain=op.domain & [("stars", ">", 3)])
                return await call_next(op)

            return [(Layer.SECURITY, restrict)]

    rule = Rule()
    await open_app(probe, rule)
    note = await Note.create({"title": "not for everybody"})
    await Note.get(note.id)
    rule.hidden = True
    with pytest.raises(NotFound):
        await Note.get(note.id)


async def test_a_record_that_was_not_found_is_not_remembered(app: App) -> None:
    pk = ObjectId()
    with pytest.raises(NotFound):
        await Note.get(pk)
    await Note.create({"_id": pk, "title": "late"})
    assert (await Note.get(pk)).title == "late"


WRITES = {
    "save": lambda note: _saved(note),
    "write": lambda note: note.write({"title": "second"}),
    "recordset": lambda note: Note.browse([note.pk]).write({"title": "second"}),
    "by domain": lambda note: Note.search([("title", "=", "first")]).update({"title": "second"}),
    "by id and more": lambda note: Note.search([("id", "=", note.id), ("stars", "=", 0)]).update(
        {"title": "second"}
    ),
    "by another model": lambda note: NoteTitle.search([("title", "=", "first")]).update(
        {"title": "second"}
    ),
    "by another model and id": lambda note: _other_view(note),
}


async def _saved(note: Note) -> None:
    note.title = "second"
    await note.save()


async def _other_view(note: Note) -> None:
    await (await NoteTitle.get(note.id)).write({"title": "second"})


@pytest.mark.parametrize("way", WRITES)
async def test_a_write_is_seen_by_the_next_read(note: Note, way: str) -> None:
    await Note.get(note.id)
    await WRITES[way](note)
    assert (await Note.get(note.id)).title == "second"
    assert cache_of().statistics("cache_note").invalidations == 1


async def test_a_change_of_its_own_for_each_record_is_seen(app: App) -> None:
    from earnorm import Operation, PerRecord, Update

    notes = await Note.create([{"title": "a"}, {"title": "b"}, {"title": "c"}])
    for n in notes:
        await Note.get(n.id)
    changes = PerRecord({n.pk: Update({"$inc": {"stars": k}}) for k, n in enumerate(notes[:2], 1)})
    await app.execute(Operation("write", app.model("cache_note"), app.env, values=changes))
    assert [(await Note.get(n.id)).stars for n in notes] == [1, 2, 0]
    assert cache_of().statistics().invalidations == 2


async def test_a_deleted_record_is_gone_and_a_new_one_by_its_id_is_seen(note: Note) -> None:
    await Note.get(note.id)
    await note.unlink()
    with pytest.raises(NotFound):
        await Note.get(note.id)
    await Note.create({"_id": note.pk, "title": "reborn"})
    assert (await Note.get(note.id)).title == "reborn"


async def test_a_write_by_id_leaves_other_records_kept(app: App, probe: Probe) -> None:
    one, two = await Note.create([{"title": "one"}, {"title": "two"}])
    await Note.get(one.id), await Note.get(two.id)
    await one.write({"stars": 1})
    probe.seen.clear()
    await Note.get(two.id)
    assert probe.searches == 0


async def test_a_read_that_began_before_a_write_keeps_nothing(note: Note, probe: Probe) -> None:
    loaded, go_on = asyncio.Event(), asyncio.Event()

    async def hold(op: earnorm.Operation) -> None:
        if op.name == "search":
            loaded.set()
            await go_on.wait()

    probe.after = hold
    reading = asyncio.create_task(Note.get(note.id))
    await loaded.wait()
    await Note.search([("_id", "=", note.pk)]).update({"title": "second"})
    go_on.set()
    assert (await reading).title == "first"
    assert (await Note.get(note.id)).title == "second"


async def test_nothing_is_kept_while_a_write_is_under_way(note: Note, probe: Probe) -> None:
    await Note.get(note.id)
    arrived, go_on = asyncio.Event(), asyncio.Event()

    async def hold(op: earnorm.Operation) -> None:
        if op.name == "write":
            arrived.set()
            await go_on.wait()

    probe.before = hold
    writing = asyncio.create_task(note.write({"title": "second"}))
    await arrived.wait()
    assert (await Note.get(note.id)).title == "first"
    assert cache_of().statistics().entries == 0
    go_on.set()
    await writing
    assert (await Note.get(note.id)).title == "second"


async def test_a_write_that_failed_after_the_server_did_it_is_seen(
    note: Note, probe: Probe
) -> None:
    await Note.get(note.id)

    async def fail(op: earnorm.Operation) -> None:
        if op.name == "write":
            raise ConnectionError("the answer was lost")

    probe.after = fail
    with pytest.raises(ConnectionError):
        await note.write({"title": "second"})
    assert (await Note.get(note.id)).title == "second"
    await Note.get(note.id)
    assert cache_of().statistics().entries == 1  # the id is open again


async def test_a_load_that_failed_leaves_no_lease_behind(note: Note, probe: Probe) -> None:
    async def fail(op: earnorm.Operation) -> None:
        raise ConnectionError

    probe.after = fail
    with pytest.raises(ConnectionError):
        await Note.get(note.id)
    assert not cache_of()._shelves.shelf("cache_note", "cache_note").leases


async def test_a_record_that_was_read_once_makes_room(app: App, probe: Probe) -> None:
    notes = await Note.create([{"title": str(n)} for n in range(4)])
    for n in (0, 1, 2, 0, 3):  # room for three
        await Note.get(notes[n].id)
    assert (cache_of().statistics().entries, cache_of().statistics().evictions) == (3, 1)
    probe.seen.clear()
    await Note.get(notes[0].id)
    await Note.get(notes[3].id)
    assert probe.searches == 0
    await Note.get(notes[1].id)
    await Note.get(notes[2].id)
    assert probe.searches == 1


async def test_a_record_is_loaded_again_after_its_time(
    note: Note, probe: Probe, clock: Clock
) -> None:
    await Note.get(note.id)
    clock.now += 59.9
    await Note.get(note.id)
    assert probe.searches == 1
    clock.now += 0.1
    await Note.get(note.id)
    assert probe.searches == 2


async def test_clear_forgets_everything_also_what_is_being_loaded(
    app: App, note: Note, probe: Probe
) -> None:
    async def change_past_the_app(op: earnorm.Operation) -> None:
        if op.name == "search":
            cache_of().clear()

    await Note.get(note.id)
    cache_of().clear()
    assert cache_of().statistics().entries == 0
    probe.after = change_past_the_app
    await Note.get(note.id)
    assert cache_of().statistics().entries == 0


async def test_a_model_opts_out_and_the_setting_names_the_rest(open_app: Open) -> None:
    await open_app(models=["cache_note_title", "cache_uncached"])
    for model in (Note, NoteTitle, Uncached, AlwaysCached):
        record = await model.create({"title": "x"})
        await model.get(record.id)
    names = ("cache_note", "cache_note_title", "cache_uncached", "cache_always")
    assert [cache_of().statistics(n).entries for n in names] == [0, 1, 0, 1]


async def test_ids_of_other_types_than_object_ids_are_kept(app: App, probe: Probe) -> None:
    await Numbered.create([{"_id": 1, "title": "one"}, {"_id": 2, "title": "two"}])
    probe.seen.clear()
    for _ in range(2):
        assert (await Numbered.get(1)).title == "one"
    assert probe.searches == 1
    await Numbered.search([("_id", "=", 1)]).update({"title": "uno"})
    assert (await Numbered.get(1)).title == "uno"


async def test_the_health_report_says_how_full_it_is(app: App, note: Note) -> None:
    await Note.get(note.id), await Note.get(note.id)
    report = dict((await app.health())["cache"])
    assert 400 < report.pop("bytes") < 700  # type: ignore[operator] # a number
    assert report == {
        "status": "ok",
        "entries": 1,
        "max_entries": 3,
        "max_bytes": 64 * 2**20,
        "hit_rate": 0.5,
        "functions": {"by_function": {}},
        "queries": {"by_model": {}},
        "records": {
            "by_model": {
                "cache_note": {
                    "entries": 1,
                    "invalidations": 0,
                    "evictions": 0,
                    "by_level": {
                        "memory": {"hits": 1},
                        "redis": {"hits": 0},
                        "database": {"hits": 1},
                    },
                }
            }
        },
    }


async def test_the_memory_of_kept_records_is_bounded(open_app: Open, probe: Probe) -> None:
    app = await open_app(probe, memory="16KiB")
    notes = await Note.create([{"title": "x" * n} for n in range(0, 1_000, 20)])
    too_long = await Note.create({"title": "x" * 20_000})
    for _ in range(2):
        for note in (*notes, too_long):
            await Note.get(note.id)
            assert cache_of(app).statistics().bytes <= 16 * 1024
    figures = cache_of(app).statistics()
    assert figures.entries > 5 and figures.evictions > 50
    probe.seen.clear()
    await Note.get(notes[-1].id)
    assert probe.searches == 0
    await Note.get(too_long.id)
    assert probe.searches == 1
    cache_of(app).clear()
    assert cache_of(app).statistics().bytes == 0


async def test_two_apps_on_one_database_keep_records_for_themselves(
    open_on_server: Open, clock: Clock
) -> None:
    one, two = await open_on_server(), await open_on_server()
    with one.activate():
        note = await Note.create({"title": "first"})
        await Note.get(note.id)
    with two.activate():
        await (await Note.get(note.id)).write({"title": "second"})
        assert (await Note.get(note.id)).title == "second"
    with one.activate():
        assert (await Note.get(note.id)).title == "first"  # as documented, for at most ttl
        clock.now += 60
        assert (await Note.get(note.id)).title == "second"
    assert cache_of(one) is not cache_of(two)


async def test_an_app_that_was_stopped_forgets_what_it_kept(note: Note, app: App) -> None:
    cache = cache_of(app)
    await Note.get(note.id)
    await app.stop()
    assert cache.statistics().entries == 0


async def test_a_write_through_an_uncached_model_drops_what_another_one_keeps(
    note: Note, probe: Probe
) -> None:
    await NoteStars.search([("id", "=", note.id)]).update({"stars": 1})
    assert (await Note.get(note.id)).stars == 1
    assert (await Note.get(note.id)).stars == 1
    assert probe.searches == 1
    await NoteStars.search([("id", "=", note.id)]).update({"stars": 2})
    assert (await Note.get(note.id)).stars == 2
    assert (await NoteStars.get(note.id)).stars == 2
    assert cache_of().statistics("cache_note_stars").entries == 0


async def test_a_model_that_appears_behind_unwatched_writes_to_its_collection_is_not_cached(
    app: App, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "earnorm.cache")

    class Early(models.BaseModel):
        _name = "cache_early"
        _collection = f"cache_{uuid.uuid4().hex}"
        _cache = False

        title = String()

    first = await Early.create({"title": "first"})

    class Late(models.BaseModel):
        _name = "cache_late"
        _collection = Early._collection
        _cache = True

        title = String()

    for title in ("second", "third"):
        await Late.get(first.id)
        await first.write({"title": title})
        assert (await Late.get(first.id)).title == title
    assert cache_of().statistics() == CacheStatistics()
    assert caplog.text.count("cache_late is not cached") == 1


async def test_a_model_that_appears_before_the_first_write_to_its_collection_is_cached(
    app: App, probe: Probe
) -> None:
    class Quiet(models.BaseModel):
        _name = "cache_quiet"
        _collection = f"cache_{uuid.uuid4().hex}"
        _cache = False

        title = String()

    await Quiet.count()

    class Kept(models.BaseModel):
        _name = "cache_kept"
        _collection = Quiet._collection
        _cache = True

        title = String()

    made = await Quiet.create({"title": "first"})
    assert (await Kept.get(made.id)).title == "first"
    await made.write({"title": "second"})
    probe.seen.clear()
    assert [(await Kept.get(made.id)).title for _ in range(2)] == ["second", "second"]
    assert probe.searches == 1
