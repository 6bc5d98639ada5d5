"""Sentences of docs/plugins.md and docs/domains.md that no program of the pages shows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

import pytest

from earnorm import (
    App,
    BaseModel,
    ConfigurationError,
    Domain,
    DomainError,
    Int,
    Operator,
    PluginError,
    String,
)
from earnorm.kernel.layers import Middleware
from earnorm.plugin import JUDGED, Call, Layer, ModelView, Operation, hookimpl


class Seat(BaseModel):
    _name = "told.seat"
    _quota = 2
    number = Int()


class QuotasPlugin:
    api = 1
    name = "quotas"

    @staticmethod
    @hookimpl
    def needed_by(model: ModelView) -> str | None:
        return "_quota" if model.attribute("_quota") else None

    @hookimpl
    def register_operators(self) -> Iterable[Operator]:
        return [
            Operator(
                "at least",
                prepare=lambda field, value: value,
                to_mongo=lambda path, n: {path: {"$gte": n}},
                matches=lambda n: lambda values: any(type(v) is int and v >= n for v in values),
            )
        ]


def opened(**options: Any) -> App:
    return App("mongomock://", database="told", **options)


@pytest.mark.parametrize("given", [QuotasPlugin, QuotasPlugin()])
async def test_a_model_is_refused_where_a_plugin_that_it_needs_is_given_and_disabled(
    given: object,
) -> None:
    async with opened(plugins=[given], disabled=["quotas"]):
        with pytest.raises(ConfigurationError, match="needs the plugin 'quotas'"):
            await Seat.create({})


async def test_without_the_plugin_nobody_can_ask_it_and_required_refuses_to_start() -> None:
    async with opened(plugins=[]):
        await Seat.create({})
    with pytest.raises(PluginError, match="quotas"):
        opened(plugins=[], required=["quotas"])
    with pytest.raises(PluginError, match="quotas"):
        await opened(required=["quotas"]).start()


async def test_the_complement_of_an_own_operator_is_written_with_a_sign() -> None:
    async with opened(plugins=[QuotasPlugin]):
        await Seat.create([{"number": n} for n in (1, 3, 9)])
        await Seat.create({})
        many = ("number", "at least", 3)
        assert await Seat.count([many]) == 2
        assert await Seat.count(["!", many]) == 2
        assert await Seat.count(~Domain([many])) == 2
        assert await Seat.count(Domain([many]) & (Seat.number > 3)) == 1
        with pytest.raises(DomainError) as caught:
            await Seat.count([("number", "not at least", 3)])
        assert "the complement of 'at least' is '!', ('number', 'at least', ...)" in str(
            caught.value
        )
        with pytest.raises(DomainError, match="no such operator; did you mean 'at least'"):
            await Seat.count([("number", "at leest", 3)])


class Animal(BaseModel):
    _name = "told.animal"
    _discriminator = "kind"
    name = String()


class Cat(Animal):
    _name = "told.cat"


class Counting:
    """Counts writes by the class that each layer sees."""

    api = 1
    name = "counting"

    def __init__(self) -> None:
        self.outside: Counter[tuple[str, bool]] = Counter()
        self.inside: Counter[tuple[str, bool]] = Counter()

    @hookimpl
    def wrap_operation(self, operation: str) -> Iterable[tuple[int, Middleware]]:
        if operation in ("write", "unlink"):
            yield Layer.MEMBERS - 10, self.layer(self.outside)
            yield Layer.MEMBERS + 10, self.layer(self.inside)

    @staticmethod
    def layer(counts: Counter[tuple[str, bool]]) -> Middleware:
        async def count(op: Operation, call_next: Call) -> Any:
            view = ModelView(op.model)
            assert view.root is not None and view.root.name == "told.animal"
            counts[view.name, op.is_asked_for] += 1
            assert op.is_asked_for is (op.note(JUDGED) is None)
            return await call_next(op)

        return count


async def test_a_change_of_a_family_is_seen_by_class_and_as_asked_for_once() -> None:
    counting = Counting()
    async with opened(plugins=[counting]):
        await Animal.create({"name": "a"})
        await Cat.create({"name": "b"})
        await Animal.search().update({"name": "c"})
    assert counting.inside == {("told.animal", True): 1, ("told.cat", False): 1}
    assert counting.outside == counting.inside


@pytest.mark.parametrize("answer", [True, False, "", 5])
async def test_what_needs_a_plugin_is_told_with_a_text(answer: object) -> None:
    needed_by = staticmethod(hookimpl(lambda model: answer))
    odd = type("Odd", (), {"api": 1, "name": "odd", "needed_by": needed_by})
    async with opened(plugins=[odd], disabled=["odd"]):
        with pytest.raises(PluginError, match=r"plugin 'odd': its hook needed_by.*text") as caught:
            await Seat.create({})
    assert caught.value.code == "hook_result"
