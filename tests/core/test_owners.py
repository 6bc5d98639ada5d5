"""Whose a model is, two models of one name, an App's own classes, and models that are dropped."""

from __future__ import annotations

import gc
import sys
import weakref
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest

from earnorm import (
    App,
    ConfigurationError,
    Int,
    Many2one,
    String,
    depends,
    forget,
    hookimpl,
    models,
)
from earnorm.kernel import registry
from tests.core.conftest import definitions


@pytest.fixture(autouse=True)
def forgetting() -> Iterator[None]:
    with definitions():
        yield


def an_app(name: str = "owners", *plugins: object, **keywords: Any) -> App:
    return App("mongomock://", database=name, plugins=plugins, name=name, **keywords)


def known(of: App) -> list[str]:
    return sorted(model._name for model in of.known_models() if model._name.startswith("own."))


def bringing(name: str, *brought: type) -> type:
    return type(
        name, (), {"api": 1, "name": name, "register_models": hookimpl(lambda self: [*brought])}
    )


def module(name: str, source: str) -> ModuleType:
    """Execute a module's source: classes at its top are no local ones."""
    made = ModuleType(name)
    sys.modules[name] = made
    exec("from earnorm import *\nfrom earnorm import models\n" + source, vars(made))
    return made


# -- whose a model is -----------------------------------------------------------------------------

SHOP = """
class Order(models.BaseModel):
    _name = "own.order"
    line_ids = One2many("own.line", "order_id")
    total = Int(compute="_total", store=True)

    @depends("line_ids.price")
    def _total(self):
        return sum(line.price for line in self.line_ids)

class Line(models.BaseModel):
    _name = "own.line"
    order_id = Many2one("own.order", on_delete="cascade")
    price = Int(required=True)
"""


async def uses_its_shop(shop: ModuleType) -> None:
    order = await shop.Order.create({})
    await shop.Line.create([{"order_id": order, "price": 2}, {"order_id": order, "price": 3}])
    assert (await shop.Order.search()).mapped("total") == [5]
    await shop.Order.search().delete()
    assert await shop.Line.search().count() == 0


@pytest.mark.parametrize("place", ["acme.shop", "acme_shop"])
async def test_the_models_of_an_application_whose_distribution_has_a_plugin_are_its_own(
    place: str,
) -> None:
    shop = module(place, SHOP)

    class Metrics:
        api = 1
        __module__ = "acme.metrics"

    for plugins in ([], [Metrics]):
        async with an_app("owners", *plugins) as started:
            assert known(started) == ["own.line", "own.order"]
            await uses_its_shop(shop)


async def test_a_model_that_a_plugin_returned_is_that_of_the_apps_with_the_plugin() -> None:
    shop = module("acme_shop", SHOP)
    plugin = bringing("shop", shop.Order, shop.Line)
    async with an_app("with", plugin) as one, an_app("without") as other:
        assert known(one) == ["own.line", "own.order"]
        assert known(other) == []
        await other.prepare_models()
        assert not {shop.Order, shop.Line} & other.catalog.bound.keys()
    async with an_app("later") as other:
        assert known(other) == []


async def test_an_app_that_uses_a_plugins_model_all_the_same_has_all_that_came_with_it() -> None:
    shop = module("acme_shop", SHOP)
    async with an_app("with", bringing("shop", shop.Order, shop.Line)):
        pass
    async with an_app("without") as other:
        await other.prepare_models()
        await shop.Order.search()
        assert known(other) == ["own.line", "own.order"]
        await uses_its_shop(shop)


async def test_bookkeeping_of_a_plugin_that_an_app_leaves_out_is_none_of_it() -> None:
    class Entry(models.BaseModel):
        _name = "own.entry"
        _bookkeeping = "ledger"

    class Own(models.BaseModel):
        _name = "own.jobs"
        _bookkeeping = "jobs"  # nobody has such a plugin: the application's own word

    ledger = bringing("ledger", Entry)
    assert known(an_app("one", ledger, disabled=["ledger"])) == ["own.entry", "own.jobs"]
    async with an_app("one", ledger) as started:
        assert known(started) == ["own.entry", "own.jobs"]
    assert known(an_app("two")) == ["own.jobs"]


# -- two models of one name -----------------------------------------------------------------------

ACCOUNT = "class Account(models.BaseModel):\n    _name = 'own.account'\n    {} = String()\n"
TOLD = "two models are named 'own.account': auth.models.Account and bank.models.Account"


async def test_two_models_of_one_name_are_an_error_that_names_both_modules() -> None:
    auth, bank = (module(f"{n}.models", ACCOUNT.format(n)) for n in ("auth", "bank"))
    with pytest.raises(ConfigurationError) as caught:
        await an_app().start()
    assert TOLD in str(caught.value)
    assert caught.value.code == "model_name_taken"
    forget(bank.Account)
    async with an_app():
        assert (await auth.Account.create({"auth": "a"})).to_dict()["auth"] == "a"


async def test_a_second_model_of_a_name_is_refused_while_an_app_runs() -> None:
    auth = module("auth.models", ACCOUNT.format("auth"))
    async with an_app() as started:
        with pytest.raises(ConfigurationError, match=TOLD):
            module("bank.models", ACCOUNT.format("bank"))
        assert started.model("own.account") is auth.Account  # its definition was taken back
        await auth.Account.search()
    assert registry.candidates("own.account") == [auth.Account]


async def test_a_model_defined_again_or_in_a_function_replaces_the_other() -> None:
    module("auth.models", ACCOUNT.format("auth"))
    reloaded = module("auth.models", ACCOUNT.format("auth"))
    async with an_app() as started:
        assert started.model("own.account") is reloaded.Account

        class Account(models.BaseModel):
            _name = "own.account"

        assert started.model("own.account") is Account
    async with an_app() as started:
        assert started.model("own.account") is Account


async def test_a_model_of_that_name_that_nobody_holds_is_no_choice() -> None:
    module("auth.models", ACCOUNT.format("auth"))
    del sys.modules["auth.models"]
    bank = module("bank.models", ACCOUNT.format("bank"))
    async with an_app() as started:
        assert started.model("own.account") is bank.Account


async def test_a_model_of_a_plugin_is_a_choice_only_for_an_app_with_the_plugin() -> None:
    auth = module("auth.models", ACCOUNT.format("auth"))
    bank = module("bank.models", ACCOUNT.format("bank"))
    plugin = bringing("bank", bank.Account)
    with pytest.raises(ConfigurationError, match=TOLD):
        await an_app("both", plugin).start()
    async with an_app("application") as started:
        assert started.model("own.account") is auth.Account
        assert known(started) == ["own.account"]


# -- an App's own class ---------------------------------------------------------------------------


async def test_a_class_of_one_app_is_refused_while_another_app_is_current() -> None:
    class Art(models.BaseModel):
        _name = "own.art"
        a = String()

    class More(models.BaseModel):
        _inherit = "own.art"
        b = String()

    one, two = an_app("one", bringing("more", More)), an_app("two")
    async with one, two:
        made = one.model("own.art")
        for use in (
            lambda: made.create({"a": "x"}),
            lambda: made.search(),
            lambda: made(a="x").save(),
        ):
            with pytest.raises(ConfigurationError) as caught:
                await use()
            assert "belongs to App 'one', and App 'two' is current" in str(caught.value)
            assert "with app.activate():" in str(caught.value)
            assert caught.value.code == "other_app"
        with one.activate():
            await made.create({"a": "x", "b": "y"})
            assert await made.search().count() == 1
        assert await two.model("own.art").search().count() == 0
        await Art.create({"a": "x"})  # a class of everybody works in the current App
        assert await two.model("own.art").search().count() == 1
    async with one:
        assert await made.search().count() == 0  # the App that was stopped and started again


# -- models that are dropped ----------------------------------------------------------------------


def form(number: int) -> type[models.BaseModel]:
    class Form(models.BaseModel):
        _name = f"own.form{number}"
        name = String(unique=True)
        owner_id = Many2one("own.owner", on_delete="cascade")
        size = Int(compute="_size", store=True)

        @depends("name")
        def _size(self) -> int:
            return len(self.name or "")

    return Form


async def use(model: type[models.BaseModel]) -> None:
    record = await model.create({"name": "a"})
    assert (await model.search([("name", "=", "a")])).mapped("size") == [1]
    await record.unlink()


async def test_dropped_models_are_freed_while_an_app_goes_on(app: App) -> None:
    class Owner(models.BaseModel):
        _name = "own.owner"
        name = String()

    owner = await Owner.create({"name": "Ann"})
    gone: list[weakref.ref[Any]] = []
    for number in range(3):
        model = form(number)
        await use(model)
        forget(model)
        gone.append(weakref.ref(model))
        del model
    await owner.write({"name": "Bao"})
    gc.collect()
    assert [reference() for reference in gone] == [None, None, None]
    assert known(app) == ["own.owner"]
    await owner.unlink()


async def test_a_dropped_model_cannot_be_used_and_its_name_is_free(app: App) -> None:
    first = form(1)
    await first.search()
    forget(first)
    forget(first)  # a second time is nothing
    for use_it in (first.search, lambda: first.create({})):
        with pytest.raises(ConfigurationError, match=r"was dropped with earnorm\.forget") as caught:
            await use_it()
        assert caught.value.code == "forgotten_model"
    with pytest.raises(ConfigurationError, match=r"no model is named 'own\.form1'"):
        app.model("own.form1")
    second = form(1)
    assert app.model("own.form1") is second


def test_only_a_model_can_be_dropped() -> None:
    class Base(models.BaseModel):
        _abstract = True

    class More(models.BaseModel):
        _inherit = "own.art"

    wrong: list[Any] = [Base, More, models.BaseModel, int, "own.art"]
    for each in wrong:
        with pytest.raises(ConfigurationError, match="takes classes of models, not"):
            forget(each)


async def test_a_transaction_looks_only_at_models_that_are_new(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Owner(models.BaseModel):
        _name = "own.owner"

    kept = [form(number) for number in range(20)]
    async with an_app() as started:
        await started.prepare_models()
        looked: list[str] = []
        find = started.catalog.find
        monkeypatch.setattr(
            started.catalog, "find", lambda name: [looked.append(name), find(name)][1]
        )
        await started.prepare_models()
        assert looked == []
        kept.append(form(20))
        await started.prepare_models()
        # A model of another test that no App can use is looked at whenever one may have mended it.
        assert {name for name in looked if name.startswith("own.")} == {"own.form20"}
        assert started.bind(kept[-1]).is_prepared


# -- plugins that several Apps share --------------------------------------------------------------


async def test_an_app_that_was_stopped_is_freed() -> None:
    class Row(models.BaseModel):
        _name = "own.row"
        n = Int()
        twice = Int(compute="_compute_twice", store=True)  # the App looks for what is owed

        @depends("n")
        def _compute_twice(self) -> int:
            return 2 * (self.n or 0)

    gone: list[weakref.ref[App]] = []
    for _ in range(3):
        async with an_app() as started:
            await Row.search()
        gone.append(weakref.ref(started))
        del started
    gc.collect()
    assert [reference() for reference in gone] == [None, None, None]
    before = len(registry._listeners)
    one = an_app()
    for _ in range(3):
        await one.start()
        await one.stop()
    assert len(registry._listeners) == before + 1
