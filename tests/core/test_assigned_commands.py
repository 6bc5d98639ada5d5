"""Commands that are assigned: reading the field shows what the save will leave, where memory knows it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from earnorm import (
    BaseModel,
    Command,
    FieldNotLoaded,
    Many2many,
    Many2one,
    One2many,
    String,
)

from .laws import World, law, world


class Mark(BaseModel):
    _name = "assigned.mark"

    name = String()
    page_id = Many2one("assigned.page")
    page_ids = Many2many("assigned.page")


class Tie(BaseModel):
    _name = "assigned.tie"

    page_id = Many2one("assigned.page", required=True)
    mark_id = Many2one(Mark, required=True)


class Page(BaseModel):
    _name = "assigned.page"

    title = String()
    own_ids = One2many(Mark, "page_id")
    mark_ids = Many2many(Mark)
    other_ids = Many2many(Mark, inverse="page_ids")
    tied_ids = Many2many(Mark, through=Tie)


FIELDS = ("own_ids", "mark_ids", "other_ids", "tied_ids")
_KINDS = ("link", "unlink", "delete", "set", "clear", "create", "update")


@st.composite
def commands(draw: st.DrawFn) -> list[tuple[str, list[int]]]:
    """Draw commands about marks by number: 0 and 1 are linked, 2 and 3 are not."""
    drawn: list[tuple[str, list[int]]] = []
    there, deleted = {0, 1}, set[int]()
    for kind in draw(st.lists(st.sampled_from(_KINDS), min_size=1, max_size=4)):
        known = sorted({0, 1, 2, 3} - deleted)
        number = draw(st.sampled_from(known)) if known else None
        if number is None and kind not in ("clear", "create"):
            continue
        if kind in ("unlink", "delete", "update") and number not in there:
            continue  # refused or without a meaning
        numbers = [] if number is None or kind in ("clear", "create") else [number]
        if kind == "set":
            numbers = draw(st.lists(st.sampled_from(known), unique=True, max_size=3))
        drawn.append((kind, numbers))
        there = {"set": set(numbers), "clear": set[int]()}.get(kind, there)
        if kind == "link":
            there = there | set(numbers)
        if kind in ("unlink", "delete"):
            there = there - set(numbers)
            deleted |= set(numbers) if kind == "delete" else set()
    return drawn or [("clear", [])]


def _made(drawn: list[tuple[str, list[int]]], marks: list[Mark]) -> list[Any]:
    made: list[Any] = []
    for kind, numbers in drawn:
        chosen = [marks[number] for number in numbers]
        if kind == "set":
            made.append(Command.set(chosen))
        elif kind == "clear":
            made.append(Command.clear())
        elif kind == "create":
            made.append(Mark(name="new"))
        elif kind == "update":
            made.append(Command.update(chosen[0], {"name": "changed"}))
        else:
            made.append(getattr(Command, kind)(chosen[0]))
    return made


@pytest.fixture(scope="module")
def memory() -> Iterator[World]:
    with world("memory") as opened:
        yield opened


@pytest.mark.fuzz
@law(40)
@given(field=st.sampled_from(FIELDS), drawn=commands(), is_loaded=st.booleans())
def test_a_field_shows_what_the_save_of_its_commands_leaves(
    memory: World, field: str, drawn: list[tuple[str, list[int]]], is_loaded: bool
) -> None:
    memory.run(lambda: _check(field, drawn, is_loaded))


async def _check(field: str, drawn: list[tuple[str, list[int]]], is_loaded: bool) -> None:
    marks = list(await Mark.create([{"name": str(number)} for number in range(4)]))
    page: Any = await Page.create({"title": "p", field: [Command.set(marks[:2])]})
    page = await Page.get(page.id)
    if is_loaded:
        await getattr(page, field)
    setattr(page, field, _made(drawn, marks))
    shown: list[Any] | None = None
    try:
        shown = list(getattr(page, field))
    except FieldNotLoaded as error:
        # Only links that another collection stores can be unknown.
        assert not is_loaded and field != "mark_ids"
        assert f"'await record.{field}' came before" in str(error)
    assert page.is_changed
    await page.save()
    if shown is not None:
        left = await getattr(await Page.get(page.id), field)
        are_alone = {kind for kind, _ in drawn} == {"create"} and not is_loaded
        if are_alone and field != "mark_ids":  # the others are not loaded
            assert {mark.pk for mark in left} > {mark.pk for mark in shown}
        else:
            assert {mark.pk for mark in left} == {mark.pk for mark in shown}
            assert len(left) == len(shown)


def test_what_commands_create_is_known_to_the_save_only(memory: World) -> None:
    async def check() -> None:
        page: Any = await Page.create({"title": "p"})
        await page.own_ids
        page.own_ids = [Command.create({"name": "a"})]
        with pytest.raises(FieldNotLoaded, match=r"'await record.save\(\)' .* creates a record"):
            len(page.own_ids)

    memory.run(check)
