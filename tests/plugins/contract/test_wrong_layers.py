"""What a layer returns and raises: a mistake in it is an error that names the plugin and the layer."""

from __future__ import annotations

import warnings
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import pytest

import earnorm
from earnorm import App, BaseModel, Layer, Operation, PluginError, String
from earnorm.plugin import Stage, Step, hookimpl

OPERATIONS = ("search", "count", "group", "create", "write", "unlink")


class Sheet(BaseModel):
    _name = "layers.sheet"
    text = String()


class Around:
    """Puts layers around some operations of the sheets."""

    api = 1
    name = "around"

    def __init__(self, given: object, operations: Iterable[str] = OPERATIONS) -> None:
        self.given, self.operations = given, set(operations)

    @hookimpl
    def wrap_operation(self, model: type[BaseModel], operation: str) -> object:
        return self.given if model is Sheet and operation in self.operations else ()


async def forgets_to_await(op: Operation, call_next: Any) -> Any:
    return call_next(op)


async def forgets_to_return(op: Operation, call_next: Any) -> Any:
    await call_next(op)


async def answers_with_text(op: Operation, call_next: Any) -> Any:
    await call_next(op)
    return "done"


def is_not_async(op: Operation, call_next: Any) -> Any:
    return []


def forgets_both(op: Operation, call_next: Any) -> Any:
    call_next(op).close()


class Object:
    """A layer that is an object."""

    async def __call__(self, op: Operation, call_next: Any) -> Any:
        await call_next(op)


class Once:
    """A layer that is composed by itself."""

    async def __call__(self, op: Operation, call_next: Any) -> Any:
        raise AssertionError("around is called instead")

    def around(self, call_next: Any) -> Any:
        async def call(op: Operation) -> Any:
            await call_next(op)

        return call


WRONG: dict[str, tuple[Any, str]] = {
    "forgets to await": (forgets_to_await, "returned a coroutine that was not awaited"),
    "forgets to return": (forgets_to_return, "returned None"),
    "answers with text": (answers_with_text, "returned a str"),
    "is not async": (is_not_async, "returned a list"),
    "is not async and forgets to return": (forgets_both, "returned None at once"),
    "is an object": (Object(), "returned None"),
    "is composed by itself": (Once(), "returned None"),
}


async def _do(name: str) -> object:
    sheet = Sheet.browse([str(SHEET)])[0] if name in ("write", "unlink") else None
    match name:
        case "search":
            return await Sheet.search()
        case "count":
            return await Sheet.count()
        case "group":
            return await Sheet.search().group("text", n=earnorm.Count())
        case "create":
            return await Sheet.create({"text": "a"})
        case "write":
            assert sheet is not None
            return await sheet.write({"text": "b"})
        case _:
            assert sheet is not None
            return await sheet.unlink()


SHEET = "65a000000000000000000001"


@pytest.mark.parametrize("place", [Layer.TRANSACTION, Layer.DEFAULT, 990])
@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("title", WRONG)
async def test_a_wrong_result_names_the_plugin_the_layer_and_the_operation(
    title: str, operation: str, place: int
) -> None:
    layer, told = WRONG[title]
    name = getattr(layer, "__qualname__", type(layer).__qualname__)
    async with App("mongomock://", database="w", plugins=[Around([(place, layer)], {operation})]):
        await Sheet.create([{"id": SHEET, "text": "a"}]) if operation != "create" else None
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # a coroutine that nobody awaited is closed
            with pytest.raises(PluginError) as caught:
                await _do(operation)
    assert caught.value.code == "layer_result"
    start = f"the layer {name} of plugin 'around', around {operation} of model 'layers.sheet', "
    assert str(caught.value).startswith(start + told), str(caught.value)


CONTENTS: list[tuple[str, object, str]] = [
    ("search", ["x"], "a list that holds an item of type str, not a list of documents"),
    ("search", [None], "a list that holds None, not a list of documents"),
    ("search", [{"_id": 1}, 7], "a list that holds an item of type int, not a list of documents"),
    ("search", [{"text": "a"}], "a list that holds a document without an _id, not a list of"),
    ("search", [{"_id": None}], "a list that holds a document without an _id, not a list of"),
    ("search", {}, "a dict, not a list of documents"),
    ("group", [7], "a list that holds an item of type int, not a list of mappings"),
    ("create", [], "0 ids for 1 documents, not a list of the stored id of each document"),
    ("create", [1, 2], "2 ids for 1 documents, not a list of the stored id of each document"),
    ("create", [None], "ids that are not those of the documents in their order, not a list of"),
    ("create", ["x"], "ids that are not those of the documents in their order, not a list of"),
    *(
        (name, value, f"{value}, not a number of records")
        for name in ("count", "write", "unlink")
        for value in (True, -1, 1.0)
    ),
]


@pytest.mark.parametrize(("operation", "given", "told"), CONTENTS)
async def test_wrong_contents_are_refused(operation: str, given: object, told: str) -> None:
    async def answers(op: Operation, call_next: Any) -> Any:
        await call_next(op)
        return given

    plugin = Around([(Layer.DEFAULT, answers)], {operation})
    async with App("mongomock://", database="w", plugins=[plugin]):
        await Sheet.create([{"id": SHEET, "text": "a"}]) if operation != "create" else None
        with pytest.raises(PluginError) as caught:
            await _do(operation)
    assert caught.value.code == "layer_result"
    named = f"{answers.__qualname__} of plugin 'around', around {operation} of model 'layers.sheet'"
    assert f"{named}, returned {told}" in str(caught.value)


async def test_a_create_that_lost_documents_is_refused() -> None:
    async def loses(op: Operation, call_next: Any) -> Any:
        assert isinstance(op.values, list)
        return await call_next(op.replace(values=op.values[1:]))

    plugin = Around([(Layer.DEFAULT, loses)], {"create"})
    async with App("mongomock://", database="w", plugins=[plugin]):
        with pytest.raises(PluginError, match="returned 1 ids for 2 documents"):
            await Sheet.create([{"text": "a"}, {"text": "b"}])


async def test_answers_of_its_own_and_requests_pass() -> None:
    async def answers(op: Operation, call_next: Any) -> Any:
        if op.name == "count":
            return 7
        return await call_next(op)

    async with App("mongomock://", database="w", plugins=[Around([(Layer.DEFAULT, answers)])]):
        await Sheet.create([{"text": "a"}, {"text": "b"}])
        assert await Sheet.count() == 7
        assert [sheet.text async for sheet in Sheet.search()] == ["a", "b"]
        assert len(await Sheet.search()) == 2
        assert await Sheet.search().update({"text": "c"}) == 2


# -- exceptions -----------------------------------------------------------------------------------


async def breaks(op: Operation, call_next: Any) -> Any:
    raise KeyError("rate")


async def breaks_afterwards(op: Operation, call_next: Any) -> Any:
    await call_next(op)
    raise KeyError("rate")


async def passes(op: Operation, call_next: Any) -> Any:
    return await call_next(op)


async def turns(op: Operation, call_next: Any) -> Any:
    try:
        return await call_next(op)
    except KeyError as error:
        raise LookupError from error


class Stepping(Around):
    """Has a step that fails between the layers."""

    name = "stepping"

    @hookimpl
    def register_steps(self, model: Any) -> Iterable[Step]:
        def fail(batch: Any) -> None:
            raise KeyError("step")

        return [Step(Stage.STAMP, "fail", fail)] if model.name == "layers.sheet" else []


def note(layer: Callable[..., Awaitable[Any]], plugin: str = "around") -> str:
    name = layer.__qualname__
    return f"in the layer {name} of plugin '{plugin}', around create of model 'layers.sheet'"


@pytest.mark.parametrize(
    ("layers", "notes"),
    [
        ([breaks], [breaks]),
        ([breaks_afterwards], [breaks_afterwards]),
        ([passes, breaks], [breaks]),
        ([passes, breaks_afterwards, passes], [breaks_afterwards]),
        ([passes, turns, breaks], [turns]),
    ],
)
async def test_a_foreign_exception_says_whose_layer_it_was(
    layers: list[Any], notes: list[Any]
) -> None:
    placed = [(100 * place, layer) for place, layer in enumerate(layers, 1)]
    async with App("mongomock://", database="w", plugins=[Around(placed)]):
        with pytest.raises(LookupError) as caught:
            await Sheet.create({"text": "a"})
    assert caught.value.__notes__ == [note(layer) for layer in notes]


async def test_what_comes_out_of_the_core_is_not_said_to_be_the_layers() -> None:
    async with App(
        "mongomock://", database="w", plugins=[Stepping([(110, passes), (120, passes)])]
    ):
        with pytest.raises(KeyError) as caught:
            await Sheet.create({"text": "a"})
    assert caught.value.__notes__ == [
        "in the step 'fail' of plugin 'stepping', in model 'layers.sheet'"
    ]


async def test_an_error_of_earnorm_is_left_as_it_is() -> None:
    async def refuses(op: Operation, call_next: Any) -> Any:
        raise earnorm.AccessDenied("no")

    async with App("mongomock://", database="w", plugins=[Around([(Layer.SECURITY, refuses)])]):
        with pytest.raises(earnorm.AccessDenied) as caught:
            await Sheet.count()
    assert not hasattr(caught.value, "__notes__")


# -- what wrap_operation gives --------------------------------------------------------------------


async def one(op: Operation) -> Any:
    return []


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (7, "wrap_operation gave 7; return [(Layer.DEFAULT, self.layer)]"),
        ((500, passes), "wrap_operation gave a tuple; return [(Layer.DEFAULT, self.layer)]"),
        ([passes], "gave passes(op: 'Operation', call_next: 'Any') -> 'Any'; a layer is a pair"),
        ([(500, passes, 1)], "gave a tuple; a layer is a pair"),
        ([(500.5, passes)], "gave 500.5; a layer's number is an int"),
        ([(True, passes)], "gave True; a layer's number is an int"),
        ([("DEFAULT", passes)], "gave a str; a layer's number is an int"),
        ([(500, None)], "gave None; a layer is 'async def layer(op, call_next)'"),
        ([(500, one)], "gave one(op: 'Operation') -> 'Any'; a layer is 'async def layer(op, call"),
    ],
)
async def test_a_layer_is_checked_when_it_is_handed_in(given: object, told: str) -> None:
    async with App("mongomock://", database="w", plugins=[Around(given)]):
        with pytest.raises(PluginError) as caught:
            await Sheet.count()
    assert caught.value.code == "not_a_layer"
    assert "plugin 'around' breaks the contract: " in str(caught.value)
    assert told in str(caught.value)
