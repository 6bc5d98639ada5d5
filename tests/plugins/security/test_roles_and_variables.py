"""Restrictions and permissions, variables in domains, roles that imply others, pure functions."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from earnorm import (
    AccessDenied,
    App,
    ConfigurationError,
    Int,
    List,
    Many2one,
    Principal,
    String,
    act_as,
    models,
    system,
)
from earnorm_security import Access, Role, Rule, SecurityPlugin, context, user


class Company(models.BaseModel):
    _name = "rv.company"
    name = String()


class Paper(models.BaseModel):
    """Own ones and public ones are seen; nobody but a chief sees secret ones; auditors see numbers below 3."""

    _name = "rv.paper"
    _rules = [
        Rule("own", [("owner", "=", user.id)], restrict=False),
        Rule("public", [("state", "=", "public")], restrict=False),
        Rule("chiefs", [], roles=["chief"]),
        Rule("low numbers", [("number", "<", 3)], roles=["auditor"], restrict=True),
    ]
    owner = String()
    state = String(default="draft")
    number = Int(default=0)


class Sheet(models.BaseModel):
    _name = "rv.sheet"
    _access = [Access("editor", read=True, write=True)]
    _rules = [
        Rule("companies", [("company_id", "in", user.company_ids)]),
        Rule(
            "tenant",
            ["|", ("tenant", "=", context.tenant), ("tenants", "in", [context.tenant, "all"])],
        ),
    ]
    company_id = Many2one(Company)
    tenant = String()
    tenants = List(String())


class Nested(models.BaseModel):
    _name = "rv.nested"
    _rules = [Rule("of mine", [("paper_id", "any", [("owner", "=", user.id)])])]
    paper_id = Many2one(Paper)


CALLS: list[object] = []


def counted(env):
    CALLS.append(env.principal)
    return [("owner", "=", env.principal.id)]


class Pure(models.BaseModel):
    _name = "rv.pure"
    _rules = [Rule("own", counted, pure=True)]
    owner = String()


async def numbers(principal):
    with act_as(principal):
        return sorted((await Paper.search()).mapped("number"))


async def test_permissions_add_up_and_restrictions_take_away(opened):
    async with opened():
        with system(reason="fill"):
            rows = [("ann", "draft"), ("bob", "public"), ("bob", "draft"), ("ann", "public")]
            await Paper.create(
                [{"owner": o, "state": s, "number": n} for n, (o, s) in enumerate(rows)]
            )
        assert await Paper.count() == 2  # nobody has no id, so the public ones
        assert await numbers(Principal("ann")) == [0, 1, 3]
        assert await numbers(Principal("eve")) == [1, 3]
        assert await numbers(Principal("eve", roles=["auditor"])) == [1]
        assert await numbers(Principal("eve", roles=["chief"])) == [0, 1, 2, 3]
        assert await numbers(Principal("eve", roles=["chief", "auditor"])) == [0, 1, 2]
        with act_as("ann"), pytest.raises(AccessDenied):
            await Paper.create({"owner": "bob"})
        with act_as(Principal("ann", roles=["auditor"])):
            await Paper.create({"owner": "ann", "number": 2})
            with pytest.raises(AccessDenied):
                await Paper.create({"owner": "ann", "number": 3})


async def test_values_of_the_principal_and_of_the_context(opened):
    async with opened():
        with system(reason="fill"):
            one, two = await Company.create([{"name": "1"}, {"name": "2"}])
            await Sheet.create(
                [
                    {"company_id": one, "tenant": "a"},
                    {"company_id": one, "tenants": ["all"]},
                    {"company_id": two, "tenant": "a"},
                    {"company_id": one, "tenant": "b"},
                    {"tenant": "a"},
                    {"company_id": one},
                ]
            )

        async def seen(principal, **values):
            with act_as(principal, **values):
                return len(await Sheet.search())

        ann = Principal("ann", ["editor"], {"company_ids": [one.pk]})
        assert await seen(ann, tenant="a") == 2
        assert await seen(ann, tenant="b") == 2
        assert await seen(ann) == 0  # no tenant, so nothing; not the records without one
        assert await seen(ann, tenant=None) == 0
        assert await seen(Principal("ann", ["editor"], {"company_ids": []}), tenant="a") == 0
        assert await seen(Principal("ann", ["editor"]), tenant="a") == 0
        both = Principal("ann", ["editor"], {"company_ids": [one.pk, two.id]})
        assert await seen(both, tenant="a") == 3
        with act_as(ann, tenant="a"), pytest.raises(AccessDenied):
            await Sheet.search([("tenant", "=", "a"), ("company_id", "=", one)]).update(
                {"tenant": "b"}
            )


async def test_a_variable_inside_a_condition_about_other_records(opened):
    async with opened():
        with system(reason="fill"):
            mine, others = await Paper.create([{"owner": "ann"}, {"owner": "bob"}])
            await Nested.create([{"paper_id": mine}, {"paper_id": others}, {}])
        with act_as("ann"):
            [found] = await Nested.search()
            assert found.paper_id == mine
        assert await Nested.count() == 0


HOSTILE = [
    {"$ne": None},
    {"$gt": ""},
    "$owner",
    "\0earnorm:user.id",
    ["$where"],
    ".*",
    None,
    True,
    0,
]


@pytest.mark.parametrize("value", HOSTILE, ids=repr)
async def test_a_value_never_becomes_an_operator(opened, value):
    async with opened():
        with system(reason="fill"):
            one = await Company.create({"name": "1"})
            await Sheet.create([{"company_id": one, "tenant": "a"}, {"company_id": one}])
        with act_as(Principal("eve", ["editor"], {"company_ids": [one.pk]}), tenant=value):
            try:
                assert await Sheet.count() == 0
            except Exception as error:
                assert "tenant" in str(error)  # refused: the value does not fit the field
        with act_as(Principal("eve", ["editor"], {"company_ids": value}), tenant="a"):
            try:
                assert await Sheet.count() == 0
            except Exception as error:
                assert "company_id" in str(error)


async def test_a_role_has_what_the_roles_have_that_it_implies(opened):
    roles = [
        Role("boss", implies=["manager"]),
        Role("manager", implies=["editor", "boss"]),  # a circle makes them equal
    ]
    async with opened(roles=roles) as app:
        security = app.services["security"]
        for name, can in (("boss", True), ("manager", True), ("editor", True), ("guest", False)):
            with act_as(Principal("x", [name])) as env:
                assert security.can(env, Sheet, "write") is can
                if not can:
                    with pytest.raises(AccessDenied):
                        await Sheet.search()
        with act_as(Principal("x", ["boss"], {"company_ids": []}), tenant="a"):
            assert await Sheet.count() == 0


NAMES = st.sampled_from("abcdef")


@given(st.dictionaries(NAMES, st.lists(NAMES, max_size=3)), st.frozensets(NAMES))
def test_implied_roles_are_what_can_be_reached(implies, own):
    from earnorm_security.roles import Roles

    roles = Roles([Role(name, implies=names) for name, names in implies.items()])
    reached = set(own)
    for _ in "abcdef":
        reached |= {name for role in reached for name in implies.get(role, ())}
    assert roles.with_implied(own) == reached == roles.with_implied(own)


async def test_a_pure_function_is_called_once_for_each_principal_and_context(opened):
    CALLS.clear()
    async with opened():
        for _ in range(3):
            with act_as("ann"):
                await Pure.create({"owner": "ann"})
                assert await Pure.count() == len(await Pure.search())
            with act_as("bob"):
                assert await Pure.count() == 0
            with act_as("ann", unhashable=[]):
                await Pure.count()
    assert CALLS.count(Principal("ann")) == 1 + 3 and CALLS.count(Principal("bob")) == 1


@pytest.mark.parametrize(
    ("rule", "says"),
    [
        (Rule("r", [("titel", "=", user.id)]), "did you mean 'title'"),
        (Rule("r", [("title", "=", user.id)], restrict="yes"), "restrict is True or False"),
        (Rule("r", [("title", "=", user.id)], pure=1), "pure is True or False"),
    ],
)
async def test_mistakes_in_rules_stop_the_start(rule, says):
    import earnorm

    class Wrong(models.BaseModel):
        _name = "rv.wrong"
        _rules = [rule]
        title = String()

    try:
        with pytest.raises(ConfigurationError, match=says):
            async with App("mongomock://", database="x", plugins=[SecurityPlugin()]) as app:
                app.bind(Wrong)
    finally:
        earnorm.forget(Wrong)


@pytest.mark.parametrize(
    ("roles", "says"),
    [
        (["boss"], "contains str"),
        ([Role("a"), Role("a")], "another role"),
        ([Role("")], "names of roles"),
        ([Role("a", implies="b")], "a list of names"),
        ([Role("a", implies=["*"])], r"not '\*'"),
        ([Role("a", implies=[1])], "not 1"),
    ],
)
async def test_mistakes_in_roles_stop_the_start(roles, says):
    with pytest.raises(ConfigurationError, match=says):
        async with App(
            "mongomock://", database="x", plugins=["security"], security={"roles": roles}
        ):
            pass


def test_a_variable_is_shown_as_it_is_written() -> None:
    assert repr(Rule("r", [("owner", "=", user.id)]).domain) == "[('owner', '=', user.id)]"
    assert repr(context) == "context"
