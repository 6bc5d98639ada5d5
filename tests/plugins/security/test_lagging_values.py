"""Rules that read stored computed fields: none judges by a value that is still owed."""

from __future__ import annotations

import logging

import pytest

from earnorm import (
    BaseModel,
    ConfigurationError,
    Int,
    Many2one,
    Principal,
    String,
    act_as,
    depends,
)
from earnorm.kernel import registry
from earnorm_security import Rule

from .conftest import Opener


class Region(BaseModel):
    _name = "lag.region"
    name = String()


class Team(BaseModel):
    _name = "lag.team"
    name = String()
    region_id = Many2one(Region)
    region_name = String(related="region_id.name", store=True)


def as_told(env):
    return env.context["rule"]


class Ticket(BaseModel):
    _name = "lag.ticket"
    _rules = [
        Rule("near", [("team_id", "any", [("region_name", "!=", "far")])]),
        Rule("named", [("label", "!=", "secret")]),
        Rule("told", as_told, roles=["user"]),
    ]
    number = Int()
    team_id = Many2one(Team)
    team_name = String(related="team_id.name", store=True)
    label = String(compute="_compute_label", search="_search_label")
    kind = String(compute="_compute_kind", store=True)
    fast = String(compute="_compute_kind", store=True, recompute="now")

    @depends("team_name")
    def _compute_label(self):
        return self.team_name

    @classmethod
    def _search_label(cls, operator, value):
        return [("team_name", operator, value)]

    @depends("number")
    def _compute_kind(self):
        return f"k{self.number}"


ANN = Principal("ann", roles=["user"])


async def test_what_a_rule_reads_is_never_owed(
    opened: Opener, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "earnorm.recompute"):
        async with opened() as app:
            assert app.may_lag("lag.team", "region_name") is None
            assert app.may_lag("lag.ticket", "label") is None
            assert app.may_lag("lag.ticket", "team_name") is None
            assert app.may_lag("lag.ticket", "fast") is None
            assert app.may_lag("lag.ticket", "kind") == "lag.ticket.kind"
            assert app.may_lag("lag.ticket", "nothing") is None
    near = "lag.team.region_name is never owed: rule 'near' of model 'lag.ticket' reads it"
    assert near in caplog.text


async def test_a_function_that_reads_what_may_be_owed_is_refused(opened: Opener) -> None:
    async with opened():
        for rule in (
            [("number", "=", 1), ("fast", "!=", "x")],
            ["!", ("team_id", "any", [("region_name", "=", "x")])],
        ):
            with act_as(ANN, rule=rule):
                assert await Ticket.count() == 0
        expected = (
            r"rule 'told' of model 'lag.ticket': its function reads lag.ticket.kind, .*"
            r'give the field recompute="now"'
        )
        with act_as(ANN, rule=[("kind", "=", "k1")]):
            with pytest.raises(ConfigurationError, match=expected):
                await Ticket.search()
            with pytest.raises(ConfigurationError, match=expected):  # and each time
                await Ticket.create({"number": 1})


class Animal(BaseModel):
    _name = "lag.animal"
    _discriminator = "kind"
    kind = String(required=True)
    region_id = Many2one(Region)
    region_name = String(related="region_id.name", store=True)


class Dog(Animal):
    _name = "lag.dog"
    chip = Int()
    chip_text = String(compute="_compute_chip_text", store=True)

    @depends("chip")
    def _compute_chip_text(self):
        return f"chip {self.chip}"


class Cage(BaseModel):
    """Has no stored computed field of its own."""

    _name = "lag.cage"
    _rules = [
        Rule("near", [("animal_id", "any", [("region_name", "!=", "far")])]),
        Rule("chipped", [("animal_id.chip_text", "!=", "chip 0")]),
    ]
    animal_id = Many2one(Animal)


async def test_what_a_rule_reads_of_other_models_is_never_owed_in_any_class_of_theirs(
    opened: Opener,
) -> None:
    async with opened() as app:
        assert app.may_lag("lag.cage", "animal_id.region_name") is None
        assert app.may_lag("lag.animal", "region_name") is None
        assert app.may_lag("lag.dog", "region_name") is None
        assert app.may_lag("lag.dog", "chip_text") is None


def define_horse(is_computed):
    class Horse(BaseModel):
        _name = "lag.horse"
        code = Int()
        place = String(compute="_compute_place", store=True) if is_computed else String()

        if is_computed:

            @depends("code")
            def _compute_place(self):
                return f"at {self.code}"


define_horse(is_computed=False)


class Stable(BaseModel):
    _name = "lag.stable"
    _rules = [Rule("told", as_told, roles=["user"])]
    horse_id = Many2one("lag.horse")


async def test_what_is_known_of_a_path_holds_as_long_as_the_models(opened: Opener) -> None:
    async with opened():
        with act_as(ANN, rule=[("horse_id.place", "=", "Hanoi")]):
            assert await Stable.count() == 0
            registry.forget(registry.definitions()["lag.horse"])
            define_horse(is_computed=True)
            try:
                with pytest.raises(ConfigurationError, match=r"reads lag\.horse\.place"):
                    await Stable.count()
            finally:
                registry.forget(registry.definitions()["lag.horse"])
                define_horse(is_computed=False)
