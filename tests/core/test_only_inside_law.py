"""A law of ``only("main.qty")``: what was not fetched is neither shown nor written."""

from __future__ import annotations

import contextlib
import copy
import datetime
import pickle
from collections.abc import Iterator
from typing import Any

import hypothesis
import hypothesis.strategies as st
import pytest

import earnorm
from earnorm import (
    BaseModel,
    Date,
    Embedded,
    EmbeddedModel,
    FieldNotLoaded,
    Int,
    List,
    String,
)

from .laws import World, law, world


class OnlyInner(EmbeddedModel):
    x = Int(db_name="ex")
    y = String(default="nothing")


class OnlyRow(EmbeddedModel):
    k = String(required=True)
    n = Int()


class OnlyMain(EmbeddedModel):
    qty = Int(required=True, db_name="q")
    low = Int(required=True)
    tags = List(String())
    day = Date()
    inner = Embedded(OnlyInner, db_name="in")
    rows = List(Embedded(OnlyRow))


class OnlyShape(EmbeddedModel):
    kind = String(db_name="_t")
    name = String()


class OnlyCircle(OnlyShape):
    radius = Int()


class OnlyRecord(BaseModel):
    name = String()
    main = Embedded(OnlyMain, db_name="m")
    spare = Embedded(OnlyInner, default=lambda: OnlyInner(x=1))
    shape = Embedded(OnlyShape, discriminator="kind")
    lines = List(Embedded(OnlyMain), db_name="ls")


INNER = ("x", "y")
ROW = ("k", "n")
MAIN = (
    "qty",
    "low",
    "tags",
    "day",
    "inner",
    *(f"inner.{name}" for name in INNER),
    "rows",
    *(f"rows.{name}" for name in ROW),
)
PATHS = (
    "name",
    "main",
    *(f"main.{path}" for path in MAIN),
    "spare",
    *(f"spare.{name}" for name in INNER),
    "shape",
    "shape.name",
    "shape.radius",
    "lines",
    *(f"lines.{path}" for path in MAIN),
)

number = st.integers(0, 9)
text = st.sampled_from(["a", "b", ""])


def documents(fields: dict[str, Any], *required: str) -> st.SearchStrategy[dict[str, Any]]:
    """Stored objects, with a key that the class does not declare."""
    fixed = {key: fields.pop(key) for key in required} | {"other": st.just([1])}
    return st.fixed_dictionaries(fixed, optional=fields)


inner = documents({"ex": number, "y": text | st.none()})
row = documents({"k": text, "n": number}, "k")
day = st.just(datetime.datetime(2026, 5, 4))
main = documents(
    {
        "q": number,
        "low": number,
        "tags": st.lists(text, max_size=2),
        "day": day,
        "in": inner | st.none(),
        "rows": st.lists(row, max_size=2),
    },
    "q",
    "low",
)
shape = documents({"name": text}).map(lambda d: {"_t": "only_shape", **d}) | documents(
    {"name": text, "radius": number}
).map(lambda d: {"_t": "only_circle", **d})
stored = documents(
    {
        "name": text,
        "m": main | st.none(),
        "spare": inner | st.none(),
        "shape": shape,
        "ls": st.lists(main, max_size=2) | st.none(),
    }
)


@pytest.fixture(scope="module")
def app_world() -> Iterator[World]:
    with world() as started:
        yield started


async def insert(document: dict[str, Any]) -> Any:
    collection = earnorm.current_env().app.dangerous_raw("to look at the database itself")[
        "only_record"
    ]
    return (await collection.insert_one(copy.deepcopy(document))).inserted_id


async def raw(pk: Any) -> dict[str, Any]:
    found = (
        await earnorm.current_env()
        .app.dangerous_raw("to look at the database itself")["only_record"]
        .find_one(pk)
    )
    assert found is not None
    return found


NO_FIELD = "no such field"


def shown(value: Any, names: list[str]) -> Any:
    """Return what a program reads at a path, as plain values."""
    if value is None:
        return None
    if isinstance(value, list):
        return [shown(item, names) for item in value]
    if not names:
        return value.to_dict() if isinstance(value, EmbeddedModel) else value
    if names[0] not in type(value)._schema.fields:
        return NO_FIELD
    return shown(getattr(value, names[0]), names[1:])


def reached(record: BaseModel, path: str) -> bool:
    """Return whether an object is there whose field the path names."""
    outer, _, name = path.rpartition(".")
    holders = [record] if not outer else _flat(at(record, outer.split(".")))
    return any(name in type(one)._schema.fields for one in holders if one is not None)


def at(value: Any, names: list[str]) -> Any:
    if value is None or not names:
        return value
    if isinstance(value, list):
        return [at(item, names) for item in value]
    return at(getattr(value, names[0]), names[1:])


def _flat(value: Any) -> list[Any]:
    return [x for item in value for x in _flat(item)] if isinstance(value, list) else [value]


def covers(wanted: str, path: str) -> bool:
    return path == wanted or path.startswith(f"{wanted}.")


def check_shown(record: Any, whole: Any, paths: set[str], document: dict[str, Any]) -> None:
    for path in PATHS:
        names = path.split(".")
        if any(covers(wanted, path) for wanted in paths):
            assert shown(record, names) == shown(whole, names), path
        elif any(covers(path, wanted) for wanted in paths):  # a part of it
            assert (at(record, names) is None) == (at(whole, names) is None), path
        elif covers("spare", path) and "spare" not in document:
            pass  # the default has every field
        elif path == "name" or path.count(".") == 0 or reached(whole, path):
            with pytest.raises(FieldNotLoaded):
                shown(record, names)
        else:  # nothing is there to be read
            with contextlib.suppress(FieldNotLoaded):
                assert shown(record, names) == shown(whole, names), path


def put(document: dict[str, Any], record: Any, path: str, value: Any) -> None:
    """Assign a value, and set it in a document by its stored path."""
    *outer, name = path.split(".")
    keys, held = document, record
    for each in outer:
        field = type(held)._schema.fields[each]
        keys, held = keys[field.db_name], getattr(held, each)
    keys[type(held)._schema.fields[name].db_name] = value
    setattr(held, name, value)


def key_of(names: list[str]) -> str:
    return OnlyRecord._schema.fields[names[0]].db_name


CHANGED = ("main.qty", "main.low", "main.inner.x", "main.inner.y", "spare.x", "shape.name", "name")


@pytest.mark.fuzz
@law(200)
@hypothesis.given(
    document=stored,
    paths=st.sets(st.sampled_from(PATHS), min_size=1, max_size=5),
    changed=st.sets(st.sampled_from(CHANGED)),
    travels=st.sampled_from(["", "pickle", "copy"]),
    reads=st.booleans(),
)
@hypothesis.example(  # a field with a default is fetched whole, and shown in part
    {"spare": {"ex": 1, "y": "a", "other": [1]}}, {"spare.x"}, {"spare.x"}, "", True
)
@hypothesis.example({"spare": None}, {"spare.x"}, set(), "pickle", True)
def test_a_part_shows_what_was_fetched_and_a_save_leaves_the_rest_alone(
    app_world: World,
    document: dict[str, Any],
    paths: set[str],
    changed: set[str],
    travels: str,
    reads: bool,
) -> None:
    def moved(record: Any) -> Any:
        if travels == "pickle":
            return pickle.loads(pickle.dumps(record))
        return copy.copy(record) if travels else record

    async def example() -> None:
        pk = await insert(document)
        whole = await OnlyRecord.get(pk)
        record = moved(await OnlyRecord.search([("_id", "=", pk)], only=paths).first())
        assert not record.is_changed
        if reads:
            check_shown(record, whole, paths, document)
            assert not record.is_changed
        expected = await raw(pk)
        done: set[str] = set()
        for path in sorted(changed):
            *outer, _ = path.split(".")
            known = any(covers(p, path) for p in paths) or any(
                p.startswith(f"{'.'.join(outer)}.") for p in paths if outer
            )
            if not known or not reached(whole, path) or (outer and not expected.get(key_of(outer))):
                continue
            put(expected, record, path, "z" if path.endswith((".y", "name")) else 77)
            done.add(path)
        record = moved(record)
        assert record.is_changed == bool(done)
        await record.save()
        assert not record.is_changed
        assert await raw(pk) == expected
        check_shown(record, await OnlyRecord.get(pk), paths | done, document)
        for head in {path.partition(".")[0] for path in PATHS}:
            await record.refresh(head)
            assert shown(record, [head]) == shown(await OnlyRecord.get(pk), [head])

    app_world.run(example)
