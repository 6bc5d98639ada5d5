"""A save that fails after the database has taken its document leaves the record in doubt."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from typing import Any

import pytest

import earnorm
from earnorm import App, BaseModel, DuplicateKey, Int, PluginError, String
from earnorm.plugin import Layer, ModelView, Operation, Stage, Step, hookimpl


class Slip(BaseModel):
    _name = "doubt.slip"
    text = String(unique=True)
    number = Int()


class Late:
    """Fails behind the store, at a place that the test chooses."""

    api = 1
    name = "late"

    def __init__(self, place: object) -> None:
        self.place = place
        self.fails = True

    @hookimpl
    def wrap_operation(self, model: type[BaseModel], operation: str) -> Iterable[tuple[int, Any]]:
        is_here = operation == "create" and isinstance(self.place, int | str)
        number = self.place if isinstance(self.place, int) else Layer.DEFAULT
        return [(number, self.layer)] if is_here and ModelView(model).name == "doubt.slip" else []

    @hookimpl
    def register_steps(self, model: ModelView) -> Iterable[Step]:
        place = self.place
        is_here = isinstance(place, Stage) and model.name == "doubt.slip"
        return [Step(place, "late", self.step)] if is_here and isinstance(place, Stage) else []

    def step(self, batch: Any) -> None:
        if self.fails:
            raise ValueError("late")

    async def layer(self, op: Operation, call_next: Any) -> Any:
        result = await call_next(op)
        if not self.fails:
            return result
        if self.place == "forgets to return":
            return None
        raise DuplicateKey("another", ("_id",)) if self.place == "duplicate" else ValueError("late")


PLACES: dict[str, object] = {
    "a layer": int(Layer.DEFAULT),
    "the outermost layer": int(Layer.FAMILY),
    "a layer without return": "forgets to return",
    "a layer that meets a duplicate": "duplicate",
    "CONFIRM": Stage.CONFIRM,
    "PROPAGATE": Stage.PROPAGATE,
    "SETTLE": Stage.SETTLE,
}


@pytest.fixture(params=PLACES)
def late(request: pytest.FixtureRequest) -> Late:
    return Late(PLACES[request.param])


@pytest.fixture
async def app(late: Late) -> AsyncIterator[App]:
    async with App("mongomock://", database="doubt", plugins=[late]) as app:
        yield app


@pytest.mark.parametrize("together", [False, True])
async def test_what_fails_behind_the_store_leaves_the_record_in_doubt(
    app: App, late: Late, together: bool
) -> None:
    slip, other = Slip(text="a", number=1), Slip(text="b", number=1)
    with pytest.raises((ValueError, PluginError, DuplicateKey)):
        await (Slip.create([slip, other]) if together else slip.save())
    assert await Slip.count() == 1 + together
    assert [one.is_stored for one in (slip, other)] == [False, False]
    late.fails = False
    with pytest.raises(DuplicateKey) as caught:
        await slip.save()
    assert caught.value.code == "stored_before" and slip.is_stored
    assert (await slip.refresh()).number == 1
    await slip.save({"number": 2})
    assert await Slip.count([("number", "=", 2)]) == 1


async def test_what_fails_before_the_store_leaves_no_doubt() -> None:
    class Early:
        api = 1
        name = "early"
        fails = False

        @hookimpl
        def before_create(self, op: Operation) -> None:
            if self.fails:
                raise ValueError("early")

    early = Early()
    async with App("mongomock://", database="doubt", plugins=[early]):
        first = await Slip.create({"text": "a"})
        early.fails = True
        other = Slip(text="b", _id=first.pk)
        with pytest.raises(PluginError, match="early"):
            await other.save()
        early.fails = False
        with pytest.raises(DuplicateKey) as caught:
            await other.save()
        assert caught.value.code == "duplicate_key" and not other.is_stored


async def test_the_written_part_of_a_batch_is_in_doubt() -> None:
    async with App("mongomock://", database="doubt", plugins=[]):
        await Slip.create({"text": "taken"})
        slips = [Slip(text="a"), Slip(text="taken"), Slip(text="c")]
        with pytest.raises(DuplicateKey):
            await Slip.create(slips)
        with pytest.raises(DuplicateKey) as caught:
            await slips[0].save()
        assert caught.value.code == "stored_before" and slips[0].is_stored
        for slip in slips[1:]:
            await slip.save({"text": f"{slip.text} anew"})
            assert slip.is_stored
        assert await Slip.count() == 4


@pytest.mark.parametrize("is_caught", [True, False])
async def test_a_transaction_decides_what_is_stored(mongo_uri: str, is_caught: bool) -> None:
    late = Late(int(Layer.DEFAULT))
    async with App(mongo_uri, database="doubt_in_transactions", plugins=[late]) as app:
        slip = Slip(text="a")
        try:
            async with earnorm.transaction():
                try:
                    await slip.save()
                except ValueError:
                    if not is_caught:
                        raise
        except ValueError:
            assert not is_caught
        late.fails = False
        assert await Slip.count() == is_caught, is_caught
        if is_caught:
            with pytest.raises(DuplicateKey) as caught:
                await slip.save()
            assert caught.value.code == "stored_before"
            await slip.refresh()
        else:
            await slip.save()
        assert slip.is_stored and await Slip.count() == 1
        await app.dangerous_raw("the test is over").client.drop_database("doubt_in_transactions")
