"""What the server says of a refused write may quote values that who writes does not read; an error keeps none of it."""

from __future__ import annotations

import traceback
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from earnorm import (
    DuplicateKey,
    Index,
    Int,
    Principal,
    String,
    ValidationError,
    act_as,
    models,
    system,
)
from earnorm_security import FieldRights
from tests.plugins.security.conftest import Opener


class Wage(models.BaseModel):
    _name = "server_words.wage"
    _field_rights = [FieldRights("amount", read=[], write=["*"])]
    _indexes = [Index("amount", "name", unique=True)]
    name = String()
    amount = Int()


async def _bulk(wage: Wage) -> None:
    async with Wage.bulk() as bulk:
        bulk.write(wage, {"name": "bob"})


def words(error: BaseException | None) -> str:
    """Return the texts of an error and of all that it came from."""
    texts: list[str] = []
    while error is not None:
        texts += [repr(error), *traceback.format_exception(error)]
        error = error.__cause__ or error.__context__
    return "".join(texts)


WAYS: dict[str, Callable[[Wage], Awaitable[Any]]] = {
    "write": lambda wage: wage.write({"name": "bob"}),
    "write_many": lambda wage: Wage.write_many({wage: {"name": "bob"}}),
    "update": lambda wage: Wage.search([("id", "=", wage.id)]).update({"name": "bob"}),
    "bulk": _bulk,
}


@pytest.mark.parametrize("way", WAYS)
async def test_the_values_of_a_refused_write_are_not_in_the_error(opened: Opener, way: str) -> None:
    async with opened():
        with system(reason="data"):
            ann, _ = await Wage.create([{"name": n, "amount": 47110815} for n in ("ann", "bob")])
            with pytest.raises(DuplicateKey) as told:
                await ann.write({"name": "bob"})
            assert "47110815" in words(told.value)
        with act_as(Principal("eve")):
            found = await Wage.search([("name", "=", "ann")])
            with pytest.raises(ValidationError) as refused:
                await WAYS[way](found[0])
        assert refused.value.errors()[0]["type"] == "duplicate_key"
        assert "47110815" not in words(refused.value)
