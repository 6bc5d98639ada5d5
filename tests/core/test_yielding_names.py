"""A method of a record that is new yields to a field of its name; the others' names are taken."""

from __future__ import annotations

import pytest

from earnorm import App, BaseModel, Boolean, EmbeddedModel, NotFound, RecordSet, String
from earnorm.model.structures import Structure, declared_fields, reserved_names, yields_to_fields


class Later(Structure):
    """What records would be like with one more method of each kind."""

    def save(self) -> None: ...

    @yields_to_fields
    def detach(self) -> None: ...

    @classmethod
    @yields_to_fields
    def load(cls) -> None: ...


def test_a_field_may_take_the_name_of_a_method_that_yields() -> None:
    reserved = reserved_names(Later)
    assert "save" in reserved
    assert not {"detach", "load"} & reserved
    taken = type("Taken", (Later,), {"detach": String(), "load": String()})
    assert set(declared_fields(taken, reserved)) == {"detach", "load"}


def test_the_name_of_any_other_method_is_taken() -> None:
    taken = type("Taken", (Later,), {"save": String()})
    with pytest.raises(TypeError, match=r'Taken\.save: the name is taken .* db_name="save"'):
        declared_fields(taken, reserved_names(Later))


@pytest.mark.parametrize("name", ["name", "schema", "load", "detach", "collection", "fields"])
@pytest.mark.parametrize("base", [BaseModel, EmbeddedModel])
def test_a_field_may_have_any_common_name(base: type[Structure], name: str) -> None:
    # Two models of one name are an error in some Apps only, so each has one of its own.
    model = type(f"Named{name.title()}", (base,), {name: String()})
    record = model(**{name: "x"})
    assert getattr(record, name) == "x"


class Payment(BaseModel):
    _name = "yields.payment"

    is_partial = Boolean()


class Invoice(BaseModel):
    _name = "yields.invoice"


async def test_a_set_gives_the_field_of_a_name_that_it_took_later(app: App) -> None:
    payments = await Payment.create([{"is_partial": True}])
    assert payments.is_partial is True
    await payments.write({"is_partial": False})
    assert (await Payment.search()).is_partial is False
    with pytest.raises(NotFound):
        _ = Payment.browse([]).is_partial
    assert (await Invoice.create([{}])).is_partial is False


FIRST = [
    "archive",
    "copy",
    "ensure_one",
    "exists",
    "filtered",
    "filtered_domain",
    "grouped",
    "ids",
    "is_stale",
    "mapped",
    "pks",
    "read",
    "refresh",
    "save",
    "sorted",
    "still_exists",
    "to_arrow",
    "to_dict",
    "to_json",
    "to_pandas",
    "to_polars",
    "toggle",
    "unarchive",
    "unlink",
    "write",
]
"""The public names of the first RecordSet, which no field gives through a set."""


def test_every_name_that_a_set_took_later_yields() -> None:
    later = {name for name in vars(RecordSet) if not name.startswith("_")} - set(FIRST)
    assert later == {"is_partial", "load"}
    for name in later:
        assert hasattr(vars(RecordSet)[name].fget, "__wrapped__")
