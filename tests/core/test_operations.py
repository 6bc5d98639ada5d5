"""What plugins are handed: operations and their options are values, and stay what they are."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, fields, replace
from typing import Any

import pytest

from earnorm.kernel.layers import PlacedLayer, compose
from earnorm.kernel.operations import ONE, PLAIN, Call, Options, Update


def test_an_option_that_is_not_given_has_its_default() -> None:
    assert Options(limit=3).limit == 3
    assert Options(limit=3).offset == PLAIN.offset == 0
    assert {each.name: getattr(PLAIN, each.name) for each in fields(Options)} == {
        each.name: each.default for each in fields(Options)
    }


def test_an_unknown_option_is_refused() -> None:
    with pytest.raises(TypeError, match="no such option: limt, oder"):
        Options(limt=3, oder=())  # type: ignore[call-arg]  # the mistake that is tested


def test_options_are_values() -> None:
    assert Options(limit=1) == ONE and hash(Options(limit=1)) == hash(ONE)
    assert Options(limit=2) != ONE
    assert replace(ONE, offset=5) == Options(limit=1, offset=5)
    assert ONE.replace(offset=5) == Options(limit=1, offset=5) and Options(limit=1) == ONE
    assert ONE.replace(limit=0) == PLAIN
    with pytest.raises(TypeError, match="no such option: limt"):
        ONE.replace(limt=3)
    assert "limit=1" in repr(ONE)
    for name in ("limit", "anything"):
        with pytest.raises(FrozenInstanceError):
            setattr(ONE, name, 2)


async def test_a_layer_that_gives_its_call_is_asked_once_when_layers_are_composed() -> None:
    composed: list[str] = []

    class Named:
        def __init__(self, name: str) -> None:
            self.name = name

        def around(self, call_next: Call) -> Call:
            composed.append(self.name)

            async def call(op: Any) -> Any:
                return [self.name, *await call_next(op)]

            return call

        async def __call__(self, op: Any, call_next: Call) -> Any:
            return await self.around(call_next)(op)

    async def plain(op: Any, call_next: Call) -> Any:
        return ["plain", *await call_next(op)]

    async def core(op: Any) -> Any:
        return [op]

    layers = [PlacedLayer(3, "", Named("c")), PlacedLayer(1, "", Named("a"))]
    call = compose(core, [*layers, PlacedLayer(2, "", plain)])
    one: Any = "op"
    assert await call(one) == await call(one) == ["a", "plain", "c", "op"]
    assert composed == ["c", "a"]


def test_what_an_update_expects_is_nothing_and_cannot_be_filled_in() -> None:
    one, other = Update({"$set": {"a": 1}}), Update({"$set": {"a": 1}})
    assert one == other and dict(one.expect) == {}
    with pytest.raises(TypeError):
        one.expect["a"] = 2  # type: ignore[index]  # the mistake that is tested
