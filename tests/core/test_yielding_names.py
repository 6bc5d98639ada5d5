"""A method of a record that is new yields to a field of its name; the others' names are taken."""

from __future__ import annotations

import pytest

from earnorm import BaseModel, EmbeddedModel, String
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
