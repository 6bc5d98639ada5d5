"""An extension of a model that does not exist is a mistake where its name is nearly that of one that does."""

from __future__ import annotations

import logging
from collections.abc import Iterable

import pytest

from earnorm import App, PluginError, String, models
from earnorm.plugin import ModelView, hookimpl


class Person(models.BaseModel):
    _name = "targets.person"
    name = String()


class OfPersn(models.BaseModel):
    _inherit = "targets.persn"
    phone = String()


class OfTruck(models.BaseModel):
    _inherit = "lorry.park"
    phone = String()


def app_with(*extensions: type[models.BaseModel]) -> App:
    class PhonePlugin:
        api = 1
        name = "phone"

        @hookimpl
        def register_models(self) -> Iterable[type[models.BaseModel]]:
            return extensions

    return App("mongomock://", database="targets", plugins=[PhonePlugin])


async def test_a_misspelt_target_is_an_error_at_the_start_and_names_the_nearest() -> None:
    with pytest.raises(PluginError) as caught:
        async with app_with(OfPersn):
            pass
    assert caught.value.code == "extends_nothing"
    for part in ("plugin 'phone'", "OfPersn", "'targets.persn'", "mean 'targets.person'"):
        assert part in str(caught.value)


async def test_a_target_that_is_like_no_other_waits_with_a_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.WARNING, "earnorm"):
        async with app_with(OfTruck) as app:
            assert "phone" not in ModelView(app.model("targets.person")).fields

            class Truck(models.BaseModel):
                _name = "lorry.park"

            assert "phone" in ModelView(app.model("lorry.park")).fields
    (warning,) = [r.getMessage() for r in caplog.records if "extends" in r.getMessage()]
    assert "plugin 'phone'" in warning and "OfTruck" in warning and "'lorry.park'" in warning
