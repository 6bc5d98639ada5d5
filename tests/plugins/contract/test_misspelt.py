"""A class attribute that is nearly one with a meaning is refused where an App first uses the model."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, ClassVar, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from earnorm import App, BaseModel, ConfigurationError, Int, String, depends, forget
from earnorm.kernel.contract.attribute_values import HOUSE_ATTRIBUTES
from earnorm.model.base import BaseModel as Base
from earnorm.model.misspelt import CORE_ATTRIBUTES, refuse_misspelt
from earnorm.plugin import Attribute, hookimpl
from tests.core.conftest import definitions

ROOT = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    """An App that looks at all models would refuse those that are defined here."""
    with definitions():
        yield


class QuotasPlugin:
    api = 1

    @staticmethod
    @hookimpl
    def model_attributes() -> Iterable[Attribute]:
        return [Attribute("_quota", type=int, default=0)]


def opened(*plugins: object) -> App:
    return App("mongomock://", database="misspelt", plugins=plugins)


def made(**body: Any) -> type[BaseModel]:
    return type("Thing", (BaseModel,), {"_name": "misspelt.thing", "__module__": __name__, **body})


@pytest.mark.parametrize(
    ("name", "value", "meant"),
    [
        ("_acess", [], "'_access'"),
        ("_acces", (), "'_access'"),
        ("_accses", [], "'_access'"),
        ("_rule", [], "'_rules'"),
        ("_audits", False, "'_audit'"),
        ("_audit_hiden", ("text",), "'_audit_hidden'"),
        ("_chache", False, "'_cache'"),
        ("_version", True, "'_versioned'"),
        ("_index", [{"text": 1}], "'_indexes'"),
        ("_ordering", "text", "'_order'"),
        ("_colection", "things", "'_collection'"),
        ("_quotta", 3, "'_quota' of plugin 'quotas'"),
    ],
)
async def test_a_misspelt_attribute_names_the_nearest(name: str, value: Any, meant: str) -> None:
    model = made(**{name: value})
    async with opened(QuotasPlugin):
        with pytest.raises(ConfigurationError) as caught:
            await model.count()
    assert caught.value.code == "misspelt_attribute"
    assert f"Thing.{name} means nothing; did you mean {meant}?" in str(caught.value)


async def test_what_only_a_plugin_knows_is_told_in_the_apps_with_the_plugin() -> None:
    model = made(_quotta=3)
    async with opened():
        assert await model.count() == 0
    async with opened(QuotasPlugin):
        with pytest.raises(ConfigurationError, match="_quotta"):
            await model.count()


async def test_bases_and_extensions_are_looked_at() -> None:
    class Strict(BaseModel):
        _abstract = True
        _acess: ClassVar[list[object]] = []

    class Child(Strict):
        _name = "misspelt.child"

    class Plain(BaseModel):
        _name = "misspelt.plain"

    class More(BaseModel):
        _inherit = "misspelt.plain"
        _quotta = 3

    class Extending:
        api = 1

        @hookimpl
        def register_models(self) -> Iterable[type[BaseModel]]:
            return [More]

    async with opened(QuotasPlugin):
        with pytest.raises(ConfigurationError, match=r"Strict\._acess"):
            await Child.count()
        assert await Plain.count() == 0
    with pytest.raises(ConfigurationError, match=r"More\._quotta"):
        await opened(QuotasPlugin, Extending).start()  # as other faults of an extension


async def test_what_is_a_class_s_own_is_left_alone() -> None:
    class Honest(BaseModel):
        _name = "misspelt.honest"
        _roles: Final = ("reader", "writer")  # near _rules, and says that it is a constant
        _cached: ClassVar[dict[str, int]] = {}  # no value of _cache
        _kinds = ("a", "b")  # no value of _kind
        _levels = (1, 2)
        _indexed = None
        total = Int(compute="_orders")
        _nam = String()

        @depends()
        def _orders(self) -> int:
            return 1

        @property
        def _rule(self) -> list[object]:
            return []

        @staticmethod
        def _acces() -> None: ...

    async with opened(QuotasPlugin):
        assert (await Honest.create({})).total == 1


def test_the_tables_have_every_attribute_that_somebody_looks_at() -> None:
    internal = {"_id", "_root", "_base", "_identity", "_overridden", "_unique_scope"}
    assert set(CORE_ATTRIBUTES) == Base.__annotations__.keys() - internal
    house = [file.read_text() for file in ROOT.glob("earnorm-*/src/**/*.py")]
    core = [file.read_text() for file in ROOT.glob("earnorm-core/src/**/*.py")]
    read = re.compile(
        r'(?:\.attribute\(|\b(?:added_up|with_extensions)\(view,|\bACROSS: Final =)\s*"(_\w+)"'
    )
    names = {name for text in house if text not in core for name in read.findall(text)}
    assert names - CORE_ATTRIBUTES.keys() == set(HOUSE_ATTRIBUTES)


SLIPS = sorted(name for name in {**CORE_ATTRIBUTES, **HOUSE_ATTRIBUTES} if len(name) >= 6)
VALUES: list[Any] = ["a", True, ["a"], {"a": "b"}]


@pytest.mark.fuzz
@given(st.sampled_from(SLIPS), st.data())
def test_one_wrong_letter_in_a_name_is_seen(name: str, data: st.DataObject) -> None:
    place = data.draw(st.integers(1, len(name) - 2))
    letter = data.draw(st.sampled_from("aeiosztrq"))
    way = data.draw(st.sampled_from(["missing", "more", "another", "exchanged"]))
    slip = {
        "missing": name[:place] + name[place + 1 :],
        "more": name[:place] + letter + name[place:],
        "another": name[:place] + letter + name[place + 1 :],
        "exchanged": name[:place] + name[place + 1] + name[place] + name[place + 2 :],
    }[way]
    known = {**CORE_ATTRIBUTES, **HOUSE_ATTRIBUTES}
    if slip in known or slip.startswith("__") or hasattr(Base, slip):
        return
    value = next(v for v in VALUES if isinstance(v, known[name]))
    model = made(**{slip: value})
    try:
        with pytest.raises(ConfigurationError, match="means nothing"):
            refuse_misspelt(model, ())
    finally:
        forget(model)
