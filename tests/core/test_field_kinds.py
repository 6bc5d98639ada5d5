"""The law of every field kind: what is given is validated, stored, found and read back as one value."""

from __future__ import annotations

import asyncio
import json
import math
import os
from typing import Any

import bson
import pydantic
import pytest
from bson import Int64
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from earnorm import App, Field, ValidationError, models
from earnorm.backends.bson_form import CODEC
from earnorm.domain.bson_order import key

from .conftest import drop
from .kinds import KINDS, Kinds

# Some fifty kinds share the long run.
EXAMPLES = min(int(os.environ.get("EARNORM_FUZZ_EXAMPLES", "60")), 1000)
OWN = [name for name in Kinds._fields if name != "_id"]


def field_of(name: str) -> Any:
    found: Field[Any, Any] = Kinds._fields[name]
    return found


def same(one: Any, other: Any) -> bool:
    if isinstance(one, float) and math.isnan(one):
        return isinstance(other, float) and math.isnan(other)
    return kind(one) is kind(other) and bool(one == other)


def kind(value: Any) -> type:
    return int if type(value) is Int64 else type(value)  # the driver's, an int in everything


def test_every_kind_of_field_has_its_law() -> None:
    assert sorted(KINDS) == sorted(OWN)


@pytest.mark.fuzz
@pytest.mark.parametrize("name", OWN)
def test_a_value_survives_its_stored_form(name: str) -> None:
    field = field_of(name)

    @settings(max_examples=EXAMPLES, deadline=None)
    @given(KINDS[name].given)
    def law(value: Any) -> None:
        read = getattr(Kinds(**{name: value}), name)
        stored = field.encode(read)
        assert same(field.encode(stored), stored)
        document = bson.decode(bson.encode({"v": stored}, codec_options=CODEC), CODEC)
        again = field.decode(document["v"])
        assert same(again, read)
        assert same(field.decode(again), again)
        # what was accepted once is accepted again, and is the same
        assert same(getattr(Kinds(**{name: again}), name), read)
        if KINDS[name].searched:
            # a number that was rounded equals the rounded one, and no other
            for each in (read,) if getattr(field, "rounding", None) else (value, read):
                assert key(field.operand(each)) == key(stored)

    law()


@pytest.mark.parametrize("name", OWN)
def test_what_is_refused_is_refused_with_one_error_at_its_place(name: str) -> None:
    for value in KINDS[name].refused:
        with pytest.raises(ValidationError) as caught:
            Kinds(**{name: value})
        places = {str(detail["loc"][0]) for detail in caught.value.errors()}
        assert places == {name}, value
        assert all(detail["msg"] and detail["type"] for detail in caught.value.errors())


@pytest.mark.parametrize("name", OWN)
def test_a_value_has_a_json_form_that_its_own_body_takes(name: str) -> None:
    body: Any = Kinds.pydantic_model(include=[name])
    schema = body.model_json_schema(mode="serialization")
    assert schema["properties"][name]

    @settings(max_examples=EXAMPLES // 3, deadline=None)
    @given(KINDS[name].given)
    def law(value: Any) -> None:
        record = Kinds(**{name: value})
        text = record.to_json(include=[name])
        shown = json.loads(text)[name]
        assert json.loads(body.model_validate(record).model_dump_json())[name] == shown
        if not (isinstance(getattr(record, name), float) and shown is None):  # NaN
            taken = body.model_validate({name: shown})
            assert same(getattr(Kinds(**{name: getattr(taken, name)}), name), getattr(record, name))

    if name not in ("line", "lines"):  # a body's object stands for an embedded one
        law()


@pytest.mark.parametrize("name", OWN)
@pytest.mark.parametrize("mode", ["validation", "serialization"])
def test_an_annotation_has_a_json_schema(name: str, mode: Any) -> None:
    field = field_of(name)
    pydantic.TypeAdapter(field.json_annotation()).json_schema(mode=mode)
    if name not in ("line", "lines"):
        assert isinstance(
            pydantic.TypeAdapter(field.value_annotation()).json_schema(mode=mode), dict
        )


@pytest.mark.fuzz
@pytest.mark.parametrize("driver", ["pymongo", "motor", "memory"])
def test_what_is_saved_is_found_and_read_back(driver: str, mongo_uri: str, database: str) -> None:
    states = st.fixed_dictionaries({}, optional={name: KINDS[name].given for name in OWN})
    with asyncio.Runner() as runner:
        uri = "mongomock://" if driver == "memory" else mongo_uri
        chosen = {} if driver == "memory" else {"driver": driver}
        app = App(uri, database=database, plugins=[], **chosen)
        runner.run(app.start())

        async def law(values: dict[str, Any]) -> None:
            with app.activate():
                saved = await Kinds.create(values)
                found = await Kinds.get(saved.id)
                for name in OWN:
                    value = getattr(found, name)
                    assert same(getattr(saved, name), value), name
                    if name not in values or not KINDS[name].searched:
                        continue
                    if isinstance(value, dict) and not all(type(k) is str for k in value):
                        continue  # the keys of a condition's dict are texts
                    if driver == "memory" and isinstance(
                        field_of(name).operand(value), dict | list
                    ):
                        continue  # mongomock compares the keys of documents in any order
                    if driver == "memory" and value != value:
                        continue  # nor does it find a NaN, which is equal to itself on a server
                    # an empty list stands for "unset" in a condition, of a set value as well
                    assert await Kinds.search([("id", "=", saved.id), (name, "=", value)]).exists()
                assert not found.is_changed and not saved.is_changed

        @settings(
            max_examples=max(15, EXAMPLES // 3),
            deadline=None,
            suppress_health_check=list(HealthCheck),
        )
        @given(states)
        def check(values: dict[str, Any]) -> None:
            runner.run(law(values))

        try:
            check()
        finally:
            runner.run(drop(app))
            runner.run(app.stop())


def test_a_field_of_your_own_is_ten_lines() -> None:
    from typing import Annotated

    from earnorm.fields.base import N

    class Percent(Field[float, N]):
        operand_types = (int, float)

        def annotation(self) -> Any:
            return Annotated[float, pydantic.Field(ge=0, le=100)]

    class OwnField(models.BaseModel):
        _name = "core.own_field"
        share = Percent(required=True)

    assert OwnField(share=3).share == 3.0
    with pytest.raises(ValidationError, match="less than or equal to 100"):
        OwnField(share=101)
