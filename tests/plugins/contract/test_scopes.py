"""A plugin's attribute that scopes a model: its unique values and its numbers are those of each value of a field."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import pytest

import earnorm
from earnorm import (
    App,
    ConfigurationError,
    DuplicateKey,
    Index,
    List,
    Sequence,
    String,
    models,
)
from earnorm.plugin import (
    Attribute,
    Declaration,
    ModelView,
    Stage,
    Step,
    ValueBatch,
    Way,
    hookimpl,
)

from .conftest import Opener


class Sheet(models.BaseModel):
    _name = "scopes.sheet"
    _branched = "branch"
    _indexes = [
        Index("shelf", "row", unique=True, sparse=True),
        Index("label", unique=True, sparse=True),
        Index("title"),
        {"code": 1},
    ]
    branch = String(required=True, db_name="b")
    code = String(required=True, unique=True)
    alias = String(unique=True)
    login = String(unique=True)
    label = String()
    shelf = String()
    row = String()
    title = String()
    number = Sequence(unique=True)
    serial = Sequence(unique=True)
    copies = Sequence("{number}", scope="code")


def branch(declaration: Declaration) -> None:
    declaration.scope(declaration.value, across=[("login",), ("serial",)])


class Branches:
    """Fills in the branch of the context."""

    api = 1
    name = "branches"

    @staticmethod
    @hookimpl
    def model_attributes() -> Iterable[Attribute]:
        return [Attribute("_branched", str, "", branch)]

    @hookimpl
    def register_steps(self, model: ModelView) -> Iterator[Step]:
        if model.scope is not None:
            created = Way.CREATE | Way.CREATE_MANY | Way.BULK
            yield Step(Stage.DEFAULT, "branch", self.fill, ways=created)
            yield Step(Stage.DEFAULT, "branch of an upsert", self.fill, ways=Way.UPSERT)

    @staticmethod
    def fill(batch: ValueBatch) -> None:
        if batch.is_new or "branch" in batch.found_by:
            for row in batch.rows:
                row.fill("branch", batch.env.context["branch"])


async def test_unique_indexes_begin_with_the_scope(opened: Opener) -> None:
    async with opened(plugins=[Branches]) as app:
        view = ModelView(app.model("scopes.sheet"))
        assert view.scope is not None and view.scope.field == "branch"
        with earnorm.act_as("ann", branch="north"):
            await Sheet.create({"code": "a"})
        (diff,) = await app.indexes.diff([Sheet])
        assert diff.is_in_step
        by_keys = {tuple(key for key, _ in spec.keys): spec for spec in diff.ok}
        assert set(by_keys) == {
            *(
                ("b", "code"),
                ("b", "alias"),
                ("b", "label"),
                ("b", "shelf", "row"),
                ("b", "number"),
            ),
            *(("login",), ("serial",), ("title",)),
        }
        # A sparse index that begins with the scope would have each document.
        assert by_keys["b", "label"].options["partialFilterExpression"] == {
            "label": {"$exists": True}
        }
        assert {part.name for part in app.parts("scopes.sheet") if part.kind == "index"} == {
            spec.name for spec in diff.ok
        }
    async with opened(plugins=[]) as app:
        assert ModelView(app.model("scopes.sheet")).scope is None
        await Sheet.count()
        (diff,) = await app.indexes.diff([Sheet])
        assert ("code",) in {tuple(key for key, _ in spec.keys) for spec in diff.ok}


async def test_a_value_may_stand_once_in_each_scope(opened: Opener) -> None:
    async with opened(plugins=[Branches]):
        with earnorm.act_as("ann", branch="north"):
            one = await Sheet.create({"code": "a", "alias": "x", "label": "l", "login": "ann"})
            other = await Sheet.create({"code": "b"})
        with earnorm.act_as("ann", branch="south"):
            third = await Sheet.create({"code": "a", "alias": "x", "label": "l"})
            assert await Sheet.create({"code": "b"})  # without a label, as the other one is
            await Sheet.create({"code": "d", "shelf": "s"})
            wrong = [{"code": "a"}, {"code": "c", "alias": "x"}, {"code": "c", "label": "l"}]
            for values in (*wrong, {"code": "c", "shelf": "s"}):
                with pytest.raises(DuplicateKey):
                    await Sheet.create(values)
            with pytest.raises(DuplicateKey):  # it is unique everywhere
                await Sheet.create({"code": "c", "login": "ann"})
        assert [r.number for r in (one, other, third)] == ["1", "2", "1"]
        assert [r.serial for r in (one, other, third)] == ["1", "2", "3"]
        assert [r.copies for r in (one, other, third)] == ["1", "1", "1"]


async def test_an_upsert_by_a_unique_field_finds_the_record_of_its_scope(opened: Opener) -> None:
    async with opened(plugins=[Branches]):
        for name in ("north", "south"):
            with earnorm.act_as("ann", branch=name):
                record, is_new = await Sheet.upsert({"code": "a", "title": name}, "code")
                assert is_new and record.branch == name
                record, is_new = await Sheet.upsert({"code": "a", "title": name * 2}, "code")
                assert not is_new
                records, created = await Sheet.upsert_many(
                    [{"code": "a", "title": name}, {"code": "b", "branch": "west"}], "code"
                )
                assert created == (name == "north")
                assert [record.branch for record in records] == [name, "west"]
        # One that is found by something else stays where it is.
        with earnorm.act_as("ann", branch="east"):
            await Sheet.upsert({"login": "ann", "code": "z"}, "login", new={"title": "new"})
        with earnorm.act_as("ann", branch="north"):
            record, is_new = await Sheet.upsert({"login": "ann", "code": "y"}, "login")
            assert not is_new and record.branch == "east"
        found = {(r.branch, r.code, r.title) for r in await Sheet.search()}
        assert found == {
            *(("north", "a", "north"), ("south", "a", "south"), ("west", "b", None)),
            ("east", "y", "new"),
        }


async def test_a_new_scope_shows_in_the_difference_of_the_indexes(opened: Opener, uri: str) -> None:
    async with opened(plugins=[]) as app:
        await Sheet.count()
        async with App(uri, database=app.settings.database, plugins=[Branches]) as scoped:
            (diff,) = await scoped.indexes.diff([Sheet])
            assert "b_1_code_1" in {spec.name for spec in diff.missing}
            # The old ones stay until somebody drops them.
            assert {"code_1", "alias_1"} <= {index.name for index in diff.unused}
            await scoped.indexes.sync([Sheet])
            await scoped.indexes.drop_unused([Sheet])
            (diff,) = await scoped.indexes.diff([Sheet])
            assert diff.is_in_step


@pytest.mark.parametrize(
    ("field", "problem"), [("brnch", "does not exist"), ("tags", "is a List"), ("number", "number")]
)
async def test_a_field_that_is_no_scope_is_refused(
    opened: Opener, field: str, problem: str
) -> None:
    class Wrong(models.BaseModel):
        _name = f"scopes.wrong.{field}"
        _branched = field
        number = Sequence()
        tags = List(String())

    async with opened(plugins=[Branches]):
        with pytest.raises(
            ConfigurationError, match=f"Wrong._branched: the field '{field}' .*{problem}"
        ):
            await Wrong.count()
    earnorm.forget(Wrong)


async def test_a_unique_index_that_expires_documents_is_refused(opened: Opener) -> None:
    class Expiring(models.BaseModel):
        _name = "scopes.expiring"
        _branched = "branch"
        _indexes = [Index("until", unique=True, expire_after=60)]
        branch = String()
        until = earnorm.DateTime()

    async with opened(plugins=[Branches]):
        with pytest.raises(ConfigurationError, match="begin with 'branch'"):
            await Expiring.count()
    earnorm.forget(Expiring)
