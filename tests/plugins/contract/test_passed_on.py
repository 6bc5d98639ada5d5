"""What a layer passes on, and what a plugin makes an operation of: a mistake is an error at its place."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from earnorm import App, BaseModel, Domain, Int, PluginError, String
from earnorm.concerns import Concerns
from earnorm.plugin import (
    Layer,
    Operation,
    OperationName,
    Options,
    PerRecord,
    Update,
    hookimpl,
)


class Leaf(BaseModel):
    _name = "passed.leaf"
    text = String()
    number = Int()


VALUES: Mapping[str, Any] = {"create": [{"_id": 1}], "write": Update({"$set": {"text": "a"}})}
NO_ENV = cast("Any", None)


def operation(name: str) -> Operation:
    return Operation(cast("OperationName", name), Leaf, NO_ENV, values=VALUES.get(name))


def update(operators: object, **more: Any) -> Update:
    return Update(cast("Any", operators), **more)


def options(**given: Any) -> Options:
    return Options(**given)


WRONG: list[tuple[str, str, object, str]] = [
    *(
        (name, "domain", value, f"is a Domain, not {kind}")
        for name in ("search", "count", "group", "write", "unlink")
        for value, kind in (
            ([("text", "=", "a")], "a list"),
            ([], "a list"),
            ({"text": "a"}, "a dict"),
            (None, "None"),
        )
    ),
    ("create", "values", {"text": "a"}, "is a list of documents, not a dict"),
    ("create", "values", None, "is a list of documents, not None"),
    ("create", "values", ({"_id": 1},), "is a list of documents, not a tuple"),
    ("create", "values", ["a"], "is a list of documents, and holds a str"),
    ("create", "values", [{"_id": 1}, {"text": "a"}], "and one has no _id"),
    (
        "write",
        "values",
        {"$set": {"text": "a"}},
        "is an Update, or a PerRecord of them, not a dict",
    ),
    ("write", "values", None, "is an Update, or a PerRecord of them, not None"),
    ("write", "values", update({"text": "a"}), "has 'text' in the place of an operator"),
    ("write", "values", update([("$set", {})]), "has a list as operators"),
    ("write", "values", update({"$set": [("text", "a")]}), "has a list under $set"),
    ("write", "values", update({}, where=[("text", "=", "a")]), "has a list as where"),
    ("write", "values", PerRecord({1: cast("Any", {"$set": {}})}), "holds a dict in the place of"),
    ("write", "values", PerRecord({1: update({"a": 1})}), "has 'a' in the place of an operator"),
    ("unlink", "values", [], "is None: only a create and a write have values"),
    ("search", "options", {"limit": 1}, "is an Options, not a dict"),
    ("search", "options", options(limit=-1), "has -1 as limit; expected a whole number from 0"),
    ("search", "options", options(offset=True), "has True as offset; expected a whole number"),
    ("search", "options", options(order="text"), "has a str as order; expected pairs of a stored"),
    ("search", "options", options(order=(("text", 0),)), "has a tuple as order; expected pairs"),
    ("search", "options", options(fields="text"), "has a str as fields; expected a frozenset"),
    ("search", "options", options(inside=["a.b"]), "has a list as inside; expected a frozenset"),
    ("search", "options", options(timeout=0), "has 0 as timeout; expected seconds above 0"),
    ("search", "options", options(concerns={"w": 1}), "has a dict as concerns; expected Concerns"),
    ("write", "options", options(many=1), "has 1 as many; expected True or False"),
    ("create", "options", options(ordered=None), "has None as ordered; expected True or False"),
    ("search", "env", None, "is an Env, not None"),
    ("search", "notes", None, "is a mapping, not None"),
    ("search", "name", "count", "stays what it is"),
    ("search", "model", Leaf, "stays what it is"),
]


@pytest.mark.parametrize(("name", "part", "value", "told"), WRONG)
def test_a_wrong_part_of_an_operation_is_refused(
    name: str, part: str, value: object, told: str
) -> None:
    with pytest.raises(TypeError) as caught:
        operation(name).replace(**{part: value})
    assert str(caught.value).startswith(f"{name}: {part}= ")
    assert told in str(caught.value)


@pytest.mark.parametrize(
    ("name", "part", "value", "told"),
    [
        row
        for row in WRONG
        if row[1] in {"domain", "values"} or (row[1] == "options" and isinstance(row[2], dict))
    ],
)
def test_an_operation_of_a_plugins_own_is_looked_at_like_one_that_is_passed_on(
    name: str, part: str, value: object, told: str
) -> None:
    parts: Any = {"values": VALUES.get(name), part: value}
    with pytest.raises(TypeError) as caught:
        operation("search").child(cast("OperationName", name), Leaf, origin="shop", **parts)
    assert told in str(caught.value)


RIGHT: Mapping[str, st.SearchStrategy[Any]] = {
    "domain": st.sampled_from([Domain.TRUE, Domain([("text", "=", "a")]), ~Domain.TRUE]),
    "options": st.builds(
        Options,
        order=st.sampled_from([(), (("text", 1), ("_id", -1))]),
        limit=st.integers(0, 9),
        offset=st.integers(0, 9),
        fields=st.sampled_from([None, frozenset({"text"})]),
        timeout=st.sampled_from([None, 0.5, 2]),
        concerns=st.sampled_from([None, Concerns()]),
        many=st.booleans(),
    ),
    "values": st.dictionaries(
        st.sampled_from(["$set", "$inc", "$unset", "$toggle"]),
        st.dictionaries(st.sampled_from(["text", "number"]), st.integers()),
    ).flatmap(lambda o: st.sampled_from([Update(o), PerRecord({1: Update(o), 2: Update({})})])),
}


@given(st.fixed_dictionaries({}, optional=dict(RIGHT)))
def test_what_fits_is_taken_and_nothing_else_changes(parts: dict[str, Any]) -> None:
    before = operation("write")
    after = before.replace(**parts)
    for part in ("domain", "options", "values"):
        assert getattr(after, part) is parts.get(part, getattr(before, part))


@given(
    st.sampled_from(["search", "count", "create", "write", "unlink"]),
    st.sampled_from(["domain", "values", "options"]),
    st.one_of(st.integers(), st.text(), st.lists(st.integers(), min_size=1), st.floats()),
)
def test_plain_data_is_no_part_of_an_operation(name: str, part: str, value: object) -> None:
    with pytest.raises(TypeError, match=f"^{name}: {part}= "):
        operation(name).replace(**{part: value})


class Changing:
    """Passes on what a test chooses."""

    api = 1

    def __init__(self) -> None:
        self.change: Callable[[Operation], Any] = lambda op: op

    @hookimpl
    def wrap_operation(self) -> object:
        return [(Layer.DEFAULT, self.outer), (Layer.DEFAULT + 1, self.inner)]

    async def outer(self, op: Operation, call_next: Any) -> Any:
        return await call_next(op)

    async def inner(self, op: Operation, call_next: Any) -> Any:
        return await call_next(self.change(op))


async def test_the_layer_that_passes_on_something_wrong_is_named() -> None:
    plugin = Changing()
    layer = "in the layer Changing.inner of plugin 'changing', around search of model 'passed.leaf'"
    async with App("mongomock://", database="p", plugins=[plugin]):
        plugin.change = lambda op: op.replace(domain=[("text", "=", "a")])
        with pytest.raises(TypeError) as caught:
            await Leaf.search()
        assert caught.value.__notes__ == [layer]
        plugin.change = lambda op: None
        with pytest.raises(PluginError) as refused:
            await Leaf.search()
        assert refused.value.code == "layer_result"
        assert "Changing.inner of plugin 'changing'" in str(refused.value)
        assert "passed on None, not an operation" in str(refused.value)
        plugin.change = lambda op: op.replace(options=op.options.replace(fields=frozenset({"txt"})))
        with pytest.raises(PluginError, match=r"'txt', and model 'passed.leaf'.*mean 'text'"):
            await Leaf.search()
