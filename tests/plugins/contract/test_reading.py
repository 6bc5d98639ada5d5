"""What a plugin may change in how the documents of a model are read."""

from __future__ import annotations

from typing import Any

import pytest

from earnorm import App, Boolean, Int, Many2one, PluginError, String, models
from earnorm.domain import condition
from earnorm.exceptions import FieldNotLoaded
from earnorm.plugin import ModelView, Reading, hookimpl


class Note(models.BaseModel):
    _name = "contract.note"
    text = String(required=True)
    public = Boolean(default=False)
    rank = Int()


class Publishing:
    """Queries are about what is public; the rank is always fetched."""

    api = 1
    name = "publishing"

    def __init__(self) -> None:
        self.asked: list[str] = []

    @hookimpl
    def register_reading(self, app: App, model: ModelView) -> Reading | None:
        self.asked.append(model.name)
        if "public" not in model.fields:
            return None
        return Reading(base_domain=condition("public", "=", True), needs=frozenset({"rank"}))


def texts(notes: Any) -> list[str]:
    return sorted(note.text for note in notes)


async def test_a_base_domain_holds_unless_the_query_names_its_field() -> None:
    async with App("mongomock://", database="reading", plugins=[Publishing()]):
        await Note.create([{"text": "a", "public": True}, {"text": "b"}])
        assert texts(await Note.search()) == ["a"]
        assert texts(await Note.search([("text", "=", "b")])) == []
        assert texts(await Note.search([("public", "!=", True)])) == ["b"]
        assert texts(await Note.search().with_archived()) == ["a", "b"]
        assert await Note.search().update({"rank": 2}) == 1
        assert await Note.search([("text", "=", "b")]).delete() == 0


async def test_what_a_plugin_needs_is_always_fetched() -> None:
    async with App("mongomock://", database="reading", plugins=[Publishing()]):
        await Note.create({"text": "a", "public": True, "rank": 3})
        note = await Note.search().only("text").first()
        assert note is not None and note.rank == 3
        with pytest.raises(FieldNotLoaded):
            _ = note.public


async def test_what_several_plugins_say_holds_together() -> None:
    class Ranked:
        api = 1
        name = "ranked"

        @hookimpl
        def register_reading(self, model: ModelView) -> Reading | None:
            return Reading(base_domain=condition("rank", ">", 1), needs=frozenset({"public"}))

    async with App("mongomock://", database="reading", plugins=[Publishing(), Ranked()]):
        await Note.create(
            [{"text": t, "public": t != "c", "rank": n} for n, t in enumerate("abcd")]
        )
        found = await Note.search().only("text")
        assert texts(found) == ["d"]
        assert (found[0].public, found[0].rank) == (True, 3)
        assert texts(await Note.search([("rank", ">=", 0)])) == ["a", "b", "d"]


async def test_a_model_is_asked_for_once_and_has_nothing_where_nobody_says_anything() -> None:
    class Plain(models.BaseModel):
        _name = "contract.plain"
        text = String()

    plugin = Publishing()
    async with App("mongomock://", database="reading", plugins=[plugin]) as app:
        for _ in range(2):
            await Plain.create({"text": "a"})
            await Plain.search()
        assert plugin.asked.count("contract.plain") == 1
        assert app.bind(Plain).reading is None


class Kinds:
    """What decides on the classes of records has these parts."""

    of = find_field = keys = bases = below = print


async def waiting(bound: object, documents: object) -> None: ...


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (condition("public", "=", True), "plugin 'odd' in register_reading.*expected a Reading"),
        (
            Reading(needs=frozenset({"publik"})),
            "plugin 'odd' in register_reading.*'publik'.*'contract.note' has no such field; "
            "did you mean 'public'?",
        ),
        (
            Reading(needs="public"),  # type: ignore[arg-type]
            "plugin 'odd' in register_reading.*expected a frozenset of names as needs",
        ),
        (
            Reading(base_domain=[("public", "=", True)]),  # type: ignore[arg-type]
            "plugin 'odd' in register_reading.*expected a Domain or None as base_domain",
        ),
        (
            Reading(base_domain=condition("publik", "=", True)),
            "plugin 'odd' in register_reading.*base_domain names 'publik'.*did you mean 'public'",
        ),
        (
            Reading(classes=object()),  # type: ignore[arg-type]
            "plugin 'odd' in register_reading.*expected a RecordClasses or None as classes",
        ),
        (
            Reading(below=lambda bound: None),  # type: ignore[arg-type,misc]
            r"plugin 'odd' in register_reading.*an async function of \(bound, env, ids\)",
        ),
        (
            Reading(of_events=waiting),  # type: ignore[arg-type]
            r"plugin 'odd' in register_reading.*a plain function of \(bound, documents\)",
        ),
        (Reading(classes=Kinds()), "plugins 'odd' and 'second' both decide on the classes"),  # type: ignore[arg-type]
    ],
)
async def test_what_is_wrong_names_the_plugin(given: object, message: str) -> None:
    class Odd:
        api = 1
        name = "odd"

        @hookimpl
        def register_reading(self, model: ModelView) -> Any:
            return given if model.name == "contract.note" else None

    class Second:
        api = 1
        name = "second"

        @hookimpl
        def register_reading(self, model: ModelView) -> Any:
            has_classes = isinstance(given, Reading) and model.name == "contract.note"
            return given if has_classes else None

    async with App("mongomock://", database="reading", plugins=[Odd(), Second()]) as app:
        with pytest.raises(PluginError, match=message):
            app.bind(Note)


class Folder(models.BaseModel):
    _name = "contract.folder"
    name = String()
    parent_id = Many2one("contract.folder")


async def test_a_plugin_may_know_what_lies_below_records() -> None:
    asked: list[Any] = []
    known: list[Any] | None = None

    async def below(bound: Any, env: Any, ids: Any) -> list[Any] | None:
        asked.append(list(ids))
        return known

    class Closing:
        api = 1
        name = "closing"

        @hookimpl
        def register_reading(self, model: ModelView) -> Reading | None:
            return Reading(below=below) if model.name == "contract.folder" else None

    async with App("mongomock://", database="reading", plugins=[Closing()]):
        top = await Folder.create({"name": "top"})
        inner = await Folder.create({"name": "inner", "parent_id": top})
        other = await Folder.create({"name": "other"})
        found = await Folder.search([("id", "child_of", top)], order="name")
        assert found.mapped("name") == ["inner", "top"]  # it did not know, so the parents tell
        known = [top.pk, other.pk]
        found = await Folder.search([("id", "child_of", top)], order="name")
        assert found.mapped("name") == ["other", "top"]
        assert asked == [[top.pk], [top.pk]]
        assert len(await Folder.search([("id", "parent_of", inner)])) == 2 and len(asked) == 2


async def test_a_plugin_makes_the_database_ready_before_the_first_operation() -> None:
    ready: list[str] = []

    class Preparing:
        api = 1
        name = "preparing"

        @hookimpl
        async def prepare_model(self, app: App, model: ModelView) -> None:
            assert not app.bind(model.cls).is_prepared
            ready.append(model.name)

    async with App("mongomock://", database="reading", plugins=[Preparing()]):
        assert "contract.note" not in ready
        await Note.search()
        await Note.create({"text": "a"})
        assert ready.count("contract.note") == 1
