"""The option law: each option of each kind at each place is kept, or a TypeError where the class is made."""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import Any

import pytest

from earnorm import (
    App,
    BaseModel,
    DateTime,
    Dict,
    DuplicateKey,
    Embedded,
    EmbeddedModel,
    Enum,
    Int,
    List,
    Many2many,
    Many2one,
    One2many,
    Reference,
    Sequence,
    Set,
    String,
    ValidationError,
)
from earnorm.features.indexes.declarations import declared_indexes

from .test_unique_places import KINDS, LISTS, a_class

Wrap = Callable[[Any], Any]


class Grade(enum.Enum):
    GOOD = "good"


def embedded(**fields: Any) -> Any:
    return a_class("Inside", EmbeddedModel, {"other": Int(), **fields})


PLACES: dict[str, tuple[Wrap, Wrap]] = {
    # how a field comes to stand there, and a value of the field
    "top": (lambda f: f, lambda v: v),
    "embedded": (lambda f: Embedded(embedded(f=f)), lambda v: {"f": v}),
    "deep": (lambda f: Embedded(embedded(e=Embedded(embedded(f=f)))), lambda v: {"e": {"f": v}}),
    "item": (lambda f: List(f), lambda v: [v]),
    "set": (lambda f: Set(f), lambda v: [v]),
    "value": (lambda f: Dict(f), lambda v: {"k": v}),
    "in a list": (lambda f: List(Embedded(embedded(f=f))), lambda v: [{"f": v}]),
    "in a dict": (lambda f: Dict(Embedded(embedded(f=f))), lambda v: {"k": {"f": v}}),
    "nested": (lambda f: List(List(f)), lambda v: [[v]]),
    "in nested": (lambda f: List(List(Embedded(embedded(f=f)))), lambda v: [[{"f": v}]]),
    "an item inside": (lambda f: Embedded(embedded(f=List(f))), lambda v: {"f": [v]}),
}
INSIDE = {"embedded", "deep", "in a list", "in a dict", "in nested"}
"""The places of a field with a name of its own, in an embedded object."""
PATHS = {
    **dict.fromkeys(("top", "item", "set"), "f"),
    "embedded": "f.x",
    "deep": "f.e.x",
    "in a list": "f.x",
    "an item inside": "f.f",
}
"""The places to which the database has a path."""
ALL = KINDS | LISTS
ALL["grade"] = (lambda **o: Enum(Grade, **o), Grade.GOOD)


def made(place: str, field: Any) -> type[Any]:
    return a_class("Law", BaseModel, {"_abstract": True, "f": PLACES[place][0](field)})


def stored_keys(value: Any) -> set[str]:
    if isinstance(value, list):
        return set[str]().union(*map(stored_keys, value))
    if not isinstance(value, dict):
        return set()
    return set(value).union(*map(stored_keys, value.values()))


def refuse(value: Any) -> Any:
    raise ValueError("the validator says no")


def check_required(place: str, make: Any, value: Any) -> None:
    model, wrap = made(place, make(required=True)), PLACES[place][1]
    model(f=wrap(value))
    for wrong in [wrap(None)] + ([{"other": 1}] if place == "embedded" else []):
        with pytest.raises(ValidationError):
            model(f=wrong)


def check_default(place: str, make: Any, value: Any) -> None:
    # The default of a mutable kind is a factory, so that nothing is shared.
    model, wrap = made(place, make(default=lambda: value)), PLACES[place][1]
    if place == "top":
        assert model()._stored() == model(f=value)._stored() and model().f is not None
    else:
        without = wrap(value)
        inner = without
        while "f" not in inner if isinstance(inner, dict) else True:
            inner = next(iter(inner.values())) if isinstance(inner, dict) else inner[0]
        inner.pop("f")
        assert model(f=without)._stored() == model(f=wrap(value))._stored()


def check_validators(place: str, make: Any, value: Any) -> None:
    model = made(place, make(validators=[refuse]))
    with pytest.raises(ValidationError, match="the validator says no"):
        model(f=PLACES[place][1](value))


def check_db_name(place: str, make: Any, value: Any) -> None:
    model = made(place, make(db_name="stored_key"))
    assert "stored_key" in stored_keys(model(f=PLACES[place][1](value))._stored())


def check_index(place: str, make: Any, value: Any, option: str = "index") -> None:
    model = made(place, make(**{option: True}))
    (spec,) = declared_indexes(model)
    assert place in PATHS and spec.keys[0][0] == PATHS[place].replace("x", "f")
    assert option == "index" or (spec.options.get(option) or spec.options["unique"])


def check_label(place: str, make: Any, value: Any, option: str = "help") -> None:
    model = made(place, make(**{option: "what people read"}))
    assert "what people read" in str(model.json_schema())


CHECKS: dict[str, Callable[[str, Any, Any], None]] = {
    "required": check_required,
    "default": check_default,
    "validators": check_validators,
    "db_name": check_db_name,
    "index": check_index,
    "sparse": lambda p, m, v: check_index(p, m, v, "sparse"),
    "unique": lambda p, m, v: check_index(p, lambda **o: m(required=True, **o), v, "unique"),
    "help": check_label,
    "string": lambda p, m, v: check_label(p, m, v, "string"),
}
NOT_AN_ITEM = {"default", "db_name", "help", "string"}
ITEMS = {"item", "set", "value", "nested", "an item inside"}
UNREACHED = {"value", "in a dict", "nested", "in nested"}


def is_refused(option: str, place: str, kind: str) -> bool:
    """Return whether the class has to be refused, by the rules that docs/fields.md states."""
    if option in NOT_AN_ITEM and place in ITEMS:
        return True
    if option in ("unique", "index", "sparse") and place in UNREACHED:
        return True
    is_list = kind in LISTS
    if option in ("unique", "index", "sparse") and is_list and place in ("item", "an item inside"):
        return True  # a list inside a list
    return option == "unique" and is_list and place == "in a list"


@pytest.mark.parametrize("option", CHECKS)
@pytest.mark.parametrize("place", PLACES)
def test_an_option_is_kept_or_refused(option: str, place: str) -> None:
    for kind, (make, value) in ALL.items():
        if kind in ("target", "coded", "about", "targets") and option in ("validators", "default"):
            continue  # links take no validators; a default is a record
        if kind == "targets" and (option == "required" or place not in ("top", "embedded", "deep")):
            continue  # a Many2many of ids is never unset, and stands for itself
        if kind == "json" and option == "required":
            continue  # null is a JSON value, too
        if kind == "targets" and option == "unique":
            continue  # below
        try:
            PLACES[place][0](make())
        except TypeError:
            continue  # a kind that cannot stand there at all, e.g. a mutable one in a Set
        if is_refused(option, place, kind):
            with pytest.raises(TypeError):
                CHECKS[option](place, make, value)
        else:
            CHECKS[option](place, make, value)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("option", ["readonly", "copy"])
async def test_readonly_and_copy_are_kept_or_refused(
    memory_app: App, option: str, place: str
) -> None:
    given = {"readonly": True} if option == "readonly" else {"copy": False}
    wrap = PLACES[place][1]
    if place in ITEMS or (option == "readonly" and place in INSIDE):
        with pytest.raises(TypeError, match=option):
            made(place, String(**given))
        return
    model = a_class(
        f"Law_{option}_{place.replace(' ', '_')}",
        BaseModel,
        {
            "_name": f"law.{option}.{place.replace(' ', '_')}",
            "f": PLACES[place][0](String(**given)),
        },
    )
    record = await model.create({"f": wrap("x")})
    if option == "readonly":
        with pytest.raises(ValidationError):
            await record.write({"f": wrap("y")})
        return
    stored = (await record.copy())._stored()
    assert "x" not in str({key: value for key, value in stored.items() if key != "_id"})


async def test_a_copy_keeps_the_rest_of_an_object_in_a_list(memory_app: App) -> None:
    class Part(EmbeddedModel):
        sku = String(required=True, unique=True, copy=True)
        serial = String(unique=True, required=False, db_name="s", copy=False)
        note = String()

    class Machine(BaseModel):
        _name = "law.machine"
        main = Embedded(Part)

    one = await Machine.create({"main": {"sku": "a", "serial": "1", "note": "n"}})
    await one.write({"main.sku": "b"})
    one.main.sku = "c"
    copied = await one.copy({})
    assert copied.main is not None and one.main is not None
    assert (copied.main.sku, copied.main.serial, copied.main.note) == ("c", None, "n")
    assert one.main.serial == "1"


async def test_a_list_of_unique_items_is_not_copied(server_app: App) -> None:
    class Tagged(BaseModel):
        _name = "law.tagged"
        codes = List(String(unique=True), default=list)
        marks = Set(String(unique=True))

    one = await Tagged.create({"codes": ["a"], "marks": {"b"}})
    copied = await one.copy()
    assert (copied.codes, copied.marks) == ([], None)


COMPUTED: dict[str, Callable[[], Any]] = {
    "copy": lambda: Int(compute="f", store=True, copy=True),
    "readonly": lambda: Int(compute="f", store=True, readonly=True),
    "db_name": lambda: Int(compute="f", db_name="x"),
    "choices": lambda: Int(compute="f", choices=[1]),
    "validators": lambda: Int(compute="f", validators=[refuse]),
    "unique": lambda: Int(compute="f", unique=True),
    "sparse": lambda: Int(compute="f", sparse=True),
    "default": lambda: Int(compute="f", default=1),
    "inverse": lambda: Int(inverse="f"),
    "search": lambda: Int(search="f"),
    "store": lambda: Int(store=True),
}


@pytest.mark.parametrize("option", COMPUTED)
def test_an_option_that_a_computed_field_cannot_keep_is_refused(option: str) -> None:
    with pytest.raises(TypeError, match=rf"{option}|index"):
        COMPUTED[option]()


@pytest.mark.parametrize("place", sorted(ITEMS | INSIDE))
def test_a_computed_field_stands_in_a_record_only(place: str) -> None:
    for field in (Int(compute="f"), Int(related="a.b"), Many2one("x", related="a.b")):
        with pytest.raises(TypeError):
            made(place, field)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("option", ["restrict", "set_null", "cascade"])
def test_on_delete_is_kept_by_an_index_or_refused(place: str, option: Any) -> None:
    for make in (Many2one, Reference):
        if place == "set" and make is Reference:
            continue  # a set cannot hold it

        def field(make: Any = make) -> Any:
            return make("places.target", on_delete=option)

        in_list = place in ("item", "set", "in a list", "an item inside")
        if place in UNREACHED or (option == "cascade" and in_list):
            with pytest.raises(TypeError, match="on_delete"):
                made(place, field())
        else:
            (spec,) = declared_indexes(made(place, field()))
            assert spec.keys[0][0] == PATHS[place].replace("x", "f")


IDS = {"string", "selection", "int", "float", "date", "datetime", "time", "oid", "uuid"}
IDS |= {"grade", "percent", "target", "coded"}
"""The kinds of an id; docs/fields.md names the others."""


def with_id(name: str, field: Any, **more: Any) -> type[Any]:
    return a_class(name, BaseModel, {"_name": f"law.id.{name}", "_id": field, "n": Int(), **more})


@pytest.mark.parametrize("kind", ALL)
async def test_every_kind_names_a_record_or_is_no_id(memory_app: App, kind: str) -> None:
    make, value = ALL[kind]
    if kind not in IDS:
        with pytest.raises(TypeError, match="the id of a record cannot be of kind"):
            with_id(f"no_{kind}", make())
        return
    model = with_id(f"is_{kind}", make(required=True))
    link = a_class(
        f"To_{kind}", BaseModel, {"_name": f"law.to.{kind}", "to_id": Many2one(model), "n": Int()}
    )
    record = await model.create({"_id": value, "n": 1})
    await record.write({"n": 2})
    record.n = 3
    await record.save()
    await record.refresh()
    assert [(await model.get(given)).n for given in (record.pk, record.id, record)] == [3, 3, 3]
    held = await link.get((await link.create({"to_id": record})).id)
    assert await held.to_id == record and await link.search([("to_id.n", "=", 3)]).count() == 1
    for given in (record.pk, record.id):
        await model.upsert({"id": given, "n": 4}, on="id")
    assert await model.search([("n", "=", 4)]).count() == await model.search().count() == 1
    await record.unlink()
    assert await model.search().count() == 0


@pytest.mark.parametrize("option", sorted(CHECKS.keys() | {"copy", "readonly"}))
async def test_an_option_of_an_id_is_kept_or_refused(memory_app: App, option: str) -> None:
    for kind in sorted(IDS):
        make, value = ALL[kind]
        is_link = kind in ("target", "coded")
        if is_link and option in ("validators", "default"):
            continue  # links take no validators; a default is a record
        name = f"{option}_{kind}"
        if option in ("db_name", "copy"):
            given = {"db_name": "key", "copy": True}
            with pytest.raises(TypeError, match=option):
                with_id(name, make(**{option: given[option]}))
            continue
        given_value: Any = {
            "default": lambda value=value: value,
            "validators": [refuse],
            "help": "what people read",
            "string": "what people read",
        }.get(option, True)
        model = with_id(name, make(**{option: given_value}))
        if option in ("help", "string"):
            assert "what people read" in str(model.json_schema())
        elif option == "default":
            assert (await model.create({})).pk == (await model.get(value)).pk is not None
        elif option == "validators":
            with pytest.raises(ValidationError, match="the validator says no"):
                await model.create({"_id": value})
        elif option == "required":
            with pytest.raises(ValidationError):
                await model.create({"_id": None})
        else:
            record = await model.create({"_id": value})
            with pytest.raises(ValidationError):  # an id never changes
                await record.write({"_id": value})
            with pytest.raises(DuplicateKey):  # the database's own index of the ids
                await model.create({"_id": value})
            (diff,) = await memory_app.indexes.diff([model])
            assert diff.is_in_step


NO_IDS: dict[str, Callable[[], Any]] = {
    "computed": lambda: Int(compute="f"),
    "stored": lambda: Int(compute="f", store=True),
    "elsewhere": lambda: One2many("x", "y"),
    "through": lambda: Many2many("x", through="y"),
    "clock": lambda: DateTime(auto_now_add=True),
    "sequence": Sequence,
    "set_null": lambda: Many2one("x", on_delete="set_null"),
}


@pytest.mark.parametrize("case", NO_IDS)
def test_a_field_whose_value_comes_later_or_can_go_is_no_id(case: str) -> None:
    with pytest.raises(TypeError, match="the id of a record cannot"):
        with_id("wrong", NO_IDS[case]())


COPIED_NOWHERE: dict[str, Callable[..., Any]] = {
    "one2many": lambda **o: One2many("x", "y", **o),
    "inverse": lambda **o: Many2many("x", inverse="y", **o),
    "through": lambda **o: Many2many("x", through="y", **o),
    "clock": lambda **o: DateTime(auto_now=True, **o),
    "sequence": Sequence,
}


@pytest.mark.parametrize("case", COPIED_NOWHERE)
def test_what_no_copy_takes_cannot_be_declared_to_be_copied(case: str) -> None:
    made("top", COPIED_NOWHERE[case](copy=False))
    with pytest.raises(TypeError, match=r"Law\.f: copy="):
        made("top", COPIED_NOWHERE[case](copy=True))


@pytest.mark.parametrize("place", sorted(ITEMS | INSIDE))
def test_a_sequence_numbers_records_only(place: str) -> None:
    with pytest.raises(TypeError, match="record"):
        made(place, Sequence())


OF_MODELS = ("_name", "_collection", "_indexes", "_validation", "_options", "_versioned", "_order")
OF_MODELS += ("_soft_delete", "_discriminator", "_inherits", "_abstract", "_inherit")
OF_MODELS += ("_parent_name", "_parent_store", "_bookkeeping")
OF_MODELS += ("_read_concern", "_write_concern", "_read_preference")


@pytest.mark.parametrize("name", OF_MODELS)
def test_an_embedded_model_takes_no_option_of_a_model(name: str) -> None:
    with pytest.raises(TypeError, match=rf"Wrong\.{name}: the option belongs to a model"):
        a_class("Wrong", EmbeddedModel, {name: "x"})
