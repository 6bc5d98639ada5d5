"""Annotated models at run time: they are models like all others. tests/mistakes holds what checkers find.

This file evaluates its annotations, as a program does that has no ``from __future__ import annotations``.
"""

from typing import Any, Literal, get_args

import pytest

from earnorm import (
    App,
    EmbeddedModel,
    Int,
    Many,
    Many2many,
    Many2one,
    One,
    One2many,
    ReadOnly,
    Selection,
    String,
    TypedModel,
    ValidationError,
    Value,
    depends,
    models,
)
from earnorm.mixins import SoftDelete

State = Literal["new", "done"]


class Group(TypedModel):
    _name = "core.typed_group"

    name: Value[str] = String(required=True)
    tasks: Many[Any] = One2many("core.typed_task", "group_id", init=False)


class Task(SoftDelete, TypedModel):
    _name = "core.typed_task"

    title: Value[str] = String(required=True, max_length=10)
    body: Value[str | None] = String(default=None)
    state: Value[State] = Selection(get_args(State), required=True, default="new")
    number: Value[int] = Int(required=True, default=0)
    group_id: One[Group | None] = Many2one(Group, default=None)
    tag_ids: Many[Group] = Many2many(Group, init=False)
    size: ReadOnly[int] = Int(compute="_size", required=True, init=False)

    @depends("title")
    def _size(self) -> int:
        return len(self.title)


async def test_an_annotated_model_is_a_model(app: App) -> None:
    group = await Group(name="Rowers").save()
    made = await Task(title="Rain", group_id=group.id, number=3, active=True).save()
    await Task.create(Task(title="Snow"))
    assert (made.state, made.body, made.size, made.active) == ("new", None, 4, True)
    (read,) = await Task.search((Task.number > 2) & Task.title.ilike("ra"))
    assert await read.load(Task.group_id) == group
    assert read.title == "Rain" and read.to_dict()["number"] == 3
    (other,) = await Task.search(Task.group_id._.name == "Rowers")
    assert other == made
    assert (await group.load(Group.tasks)).mapped(Task.title) == ["Rain"]
    await made.write(Task.title.to("Hail") | Task.group_id.to(None))
    assert (await Task.search(order=-Task.number)).mapped(Task.title) == ["Hail", "Snow"]
    await made.archive()
    assert await Task.count() == 1


def test_its_constructor_refuses_at_run_time_what_checkers_flag() -> None:
    for wrong in ({"titel": "x"}, {"title": 5}, {"state": "lost"}, {"size": 3}):
        with pytest.raises(ValidationError):
            Task(**{"title": "x", **wrong})  # type: ignore[arg-type] # planned mistakes


def test_records_compare_and_hash_by_their_id_and_not_as_dataclasses() -> None:
    one, other = Group(name="a"), Group(name="a")
    assert one != other and len({one, other, one}) == 2


def test_the_bases_have_one_place_and_no_model_of_their_own() -> None:
    assert models.TypedModel is TypedModel
    assert TypedModel._abstract and not Task._abstract
    assert Task._schema.fields["active"].required


def test_the_option_init_means_nothing_at_run_time() -> None:
    field = Group._schema.fields["tasks"]
    assert "init" in field.given_options

    class CoreTypedPlace(EmbeddedModel):
        city = String(init=False)

    assert CoreTypedPlace(city="Huế").city == "Huế"


def test_a_computed_value_that_is_required_is_never_none() -> None:
    class CoreTypedPromise(TypedModel):
        text: Value[str | None] = String(default=None)
        first: ReadOnly[str] = String(compute="_first", required=True, init=False)

        @depends("text")
        def _first(self) -> str | None:
            return self.text and self.text[0]

    assert CoreTypedPromise(text="ab").first == "a"
    with pytest.raises(ValidationError, match=r"_first\(\) gave None, and a value is required"):
        print(CoreTypedPromise().first)
