"""Errors about unknown names: they name no field that who acts may not use, and nothing inside of one."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

import earnorm
from earnorm import (
    App,
    Domain,
    EarnORMError,
    EmbeddedModel,
    Inc,
    Operation,
    Principal,
    Sum,
    act_as,
    current_env,
    models,
    system,
)
from earnorm.fields import Embedded, Int, List, Many2one, One2many, String
from earnorm.kernel.operations import Options
from earnorm_security import Access, FieldRights, Rule, SecurityPlugin


class Terms(EmbeddedModel):
    bonus = Int()
    car = String()


class Vault(models.BaseModel):
    """A model that nobody but ``system`` may use."""

    _name = "names.vault"
    _access = []
    combination = String(required=True)
    staff_id = Many2one("names.staff")


class Inbox(models.BaseModel):
    """A model whose records may be created, and not read."""

    _name = "names.inbox"
    _access = [Access("*", create=True)]
    message = String()


class Staff(models.BaseModel):
    _name = "names.staff"
    _field_rights = [
        FieldRights("salary", "terms", "offers", "agent_id", read=["hr"]),
        FieldRights("wish", read=["hr"], write=["*"]),
        FieldRights("iban", read=["hr"], mask=lambda text: "****"),
    ]
    name = String()
    salary = Int(default=0)
    terms = Embedded(Terms)
    offers = List(Embedded(Terms))
    wish = String()
    iban = String()
    agent_id = Many2one("names.staff")
    vault_id = Many2one(Vault)
    vault_ids = One2many(Vault, "staff_id")


EVE = Principal("eve")
SECRET = re.compile("salary|terms|offers|agent_id|bonus|combination")
Ask = Callable[[Staff], Any]

FIELDS: dict[str, Ask] = {
    "domain": lambda r: Staff.search([("salry", "=", 1)]),
    "domain inside": lambda r: Staff.search([("terms.bonsu", "=", 1)]),
    "domain in a list": lambda r: Staff.search([("offers.bonsu", "=", 1)]),
    "any": lambda r: Staff.search([("vault_id", "any", [("staff_id.salry", "=", 1)])]),
    "order": lambda r: Staff.search(order="salry"),
    "order inside": lambda r: Staff.search(order="terms.bonsu"),
    "only": lambda r: Staff.search().only("salry"),
    "only inside": lambda r: Staff.search().only("terms.bonsu"),
    "prefetch": lambda r: Staff.search().prefetch("agnt_id"),
    "group": lambda r: Staff.search().group("salry"),
    "group inside": lambda r: Staff.search().group("terms.bonsu"),
    "aggregate": lambda r: Staff.search().group(total=Sum("salry")),
    "export": lambda r: Staff.search().only("salry").to_pandas(),
    "count": lambda r: Staff.count([("salry", "=", 1)]),
    "update": lambda r: Staff.search().update({"salry": 1}),
    "delete": lambda r: Staff.search([("salry", "=", 1)]).delete(),
    "create": lambda r: Staff.create({"salry": 1}),
    "constructor": lambda r: Staff(salry=1),
    "constructor inside": lambda r: Staff(terms={"bonsu": 1}),
    "constructor in a list": lambda r: Staff(offers=[{"bonsu": 1}]),
    "create many inside": lambda r: Staff.create([{"terms": {"bonsu": 1}}]),
    "write": lambda r: r.write({"salry": 1}),
    "write a command": lambda r: r.write({"salry": Inc(1)}),
    "write inside": lambda r: r.write({"terms.bonsu": 1}),
    "write many": lambda r: Staff.write_many({r.pk: {"salry": 1}}),
    "save": lambda r: r.save({"salry": 1}),
    "assign": lambda r: setattr(r, "salry", 1),
    "read": lambda r: r.read(["salry"]),
    "refresh": lambda r: r.refresh("salry"),
    "to_dict": lambda r: r.to_dict(include=["salry"]),
    "attribute of a set": lambda r: Staff.browse([r.id]).salry,
    "mapped": lambda r: Staff.browse([r.id]).mapped("salry"),
    "sorted": lambda r: Staff.browse([r.id]).sorted("salry"),
    "filtered": lambda r: Staff.browse([r.id]).filtered_domain([("salry", "=", 1)]),
    "upsert": lambda r: Staff.upsert({"name": "x"}, on="salry"),
    "copy": lambda r: r.copy({"salry": 1}),
    "execute": lambda r: earnorm.current_app().execute(
        Operation("search", Staff, current_env(), options=Options(fields=frozenset({"salry"})))
    ),
    "untrusted": lambda r: Staff.search(
        Domain.untrusted([["salry", "=", 1]], fields=["name", "salary"])
    ),
    "untrusted inside": lambda r: Staff.search(
        Domain.untrusted([["terms.bonsu", "=", 1]], fields=["terms.bonsu"])
    ),
    "untrusted order": lambda r: earnorm.untrusted.order("salry", fields=["name", "salary"]),
    "pipeline": lambda r: Staff.search().aggregate([{"$project": {"x": "$salry"}}, {"$salry": 1}]),
}
CLOSED: dict[str, Ask] = {
    "domain": lambda r: Vault.search([("combinaton", "=", 1)]),
    "a path": lambda r: Staff.search([("vault_id.combinaton", "=", 1)]),
    "a path from the other side": lambda r: Staff.search([("vault_ids.combinaton", "=", 1)]),
    "any": lambda r: Staff.search([("vault_id", "any", [("combinaton", "=", 1)])]),
    "an order across": lambda r: Staff.search(order="vault_id.combinaton"),
    "a group across": lambda r: Staff.search().group("vault_id.combinaton"),
    "create": lambda r: Vault.create({"combinaton": "1"}),
    "nested": lambda r: Staff.create({"vault_ids": [{"combinaton": "1"}]}),
    "constructor": lambda r: Vault(combinaton="1"),
    "write": lambda r: Vault.browse([r.id]).write({"combinaton": 1}),
    "update": lambda r: Vault.search().update({"combinaton": 1}),
    "only": lambda r: Vault.search().only("combinaton"),
    "few fields are listed": lambda r: Vault.search([("xyz", "=", 1)]),
}


@pytest.fixture
async def record() -> AsyncIterator[Staff]:
    async with App("mongomock://", database="names", plugins=[SecurityPlugin()]):
        with system(reason="fill"):
            staff = await Staff.create({"name": "Ann"})
        yield staff


async def told(ask: Ask, record: Staff) -> str:
    """Return the text of the error that a question ends with."""
    try:
        result = ask(record)
        if hasattr(result, "__await__"):
            await result
    except (EarnORMError, AttributeError) as error:
        return f"{error} {error.__notes__ if hasattr(error, '__notes__') else ''}"
    return "no error"


async def test_no_error_names_a_field_that_one_may_not_use(record: Staff) -> None:
    with act_as(EVE):
        texts = {way: await told(ask, record) for way, ask in FIELDS.items()}
    named = r"terms\.bonsu|offers\.(0\.)?bonsu|'terms'|'offers'"
    telling = {
        way: text
        for way, text in texts.items()
        if text == "no error" or ("denied" not in text and SECRET.search(re.sub(named, "", text)))
    }
    assert telling == {}


async def test_no_error_names_a_field_of_a_closed_model(record: Staff) -> None:
    with act_as(EVE):
        texts = {way: await told(ask, record) for way, ask in CLOSED.items()}
    assert {w: text for w, text in texts.items() if text == "no error" or SECRET.search(text)} == {}


async def test_the_ways_of_this_test_have_hints_for_the_system(record: Staff) -> None:
    with system(reason="show that the test asks what has a hint"):
        texts = {way: await told(ask, record) for way, ask in (FIELDS | CLOSED).items()}
    silent = {way for way, text in texts.items() if not re.search("did you mean|known:", text)}
    assert silent == {"untrusted", "untrusted inside", "untrusted order"}


async def test_a_required_value_is_named_only_to_who_may_use_its_field(record: Staff) -> None:
    for make in (lambda r: Vault(), lambda r: Vault.create({}), lambda r: Vault.create([{}, {}])):
        with act_as(EVE):
            text = await told(make, record)
        assert "a value is required that you may not set" in text and not SECRET.search(text)
        with system(reason="show what is left out"):
            assert "combination: a value is required" in await told(make, record)


async def test_fields_that_one_may_use_are_named(record: Staff) -> None:
    with act_as(EVE):
        assert "did you mean 'name'" in await told(
            lambda r: Staff.search([("nmae", "=", 1)]), record
        )
        assert "did you mean 'iban'" in await told(
            lambda r: Staff.search([("ibna", "=", 1)]), record
        )
        assert "did you mean 'wish'" in await told(lambda r: r.write({"wihs": "x"}), record)
        text = await told(lambda r: Inbox.create({"mesage": "hi"}), record)
        assert "did you mean 'message'" in text
    with act_as(Principal("hana", ["hr"])):
        text = await told(lambda r: Staff.search([("terms.bonsu", "=", 1)]), record)
        assert "did you mean 'bonus'" in text


async def test_who_declares_a_rule_wrongly_is_told_the_nearest_name() -> None:
    class Slip(models.BaseModel):
        _name = "names.slip"
        _access = []
        _rules = [Rule("own", [("onwer", "=", 1)])]
        owner = String()

    try:
        with pytest.raises(earnorm.ConfigurationError, match="did you mean 'owner'"):
            async with App("mongomock://", database="slip", plugins=[SecurityPlugin()]):
                await Slip.search()
    finally:
        earnorm.forget(Slip)


HINTING = {
    "features/backfilling/backfill.py": "for system",
    "features/bodies/body.py": "declarations",
    "features/computed/computing.py": "declarations",
    "features/computed/dependencies.py": "declarations",
    "features/computed/whole_models.py": "declarations",
    "features/delegation/declaring.py": "declarations",
    "features/explaining/why.py": "operations, for system",
    "features/grouping/grouping.py": "units, and names that the caller gave",
    "features/grouping/inspection.py": "words of the server",
    "features/grouping/pipeline.py": "stages, options, and models that may be read",
    "features/indexes/collection_options.py": "declarations",
    "features/indexes/declarations.py": "declarations",
    "features/sequences/plugin.py": "declarations",
    "features/trees/declaring.py": "declarations",
    "model/reading/parts.py": "asks may_name() first",
    "model/relations/ghosts.py": "declarations",
    "model/relations/prefetch.py": "declarations",
    "model/validation/constraints.py": "declarations",
}
"""What hints at something else than a field that a caller has named, with what it is about."""


def test_all_other_hints_ask_who_acts() -> None:
    root = Path(earnorm.__file__).parent
    found = {
        str(path.relative_to(root))
        for room in ("model", "features")
        for path in (root / room).rglob("*.py")
        if re.search(r"(?<![\w_])nearest\(", path.read_text())
    }
    assert found == HINTING.keys()
