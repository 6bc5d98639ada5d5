"""Malformed declarations and settings: each is refused with a message that names its place."""

from __future__ import annotations

import pytest

from earnorm import (
    AccessDenied,
    App,
    ConfigurationError,
    Domain,
    Principal,
    act_as,
    hookimpl,
    models,
    system,
)
from earnorm.fields import Int, String
from earnorm.kernel import registry
from earnorm_security import Access, Rule, SecurityPlugin


@pytest.fixture
def model():
    """Makes a model; it is forgotten afterwards, since a transaction looks at every model."""
    made = []

    def make(bases=(models.BaseModel,), **attributes):
        name = f"security.declared{len(made)}"
        body = {"_name": name, "title": String(), "__module__": __name__, **attributes}
        made.append(type("Declared", bases, body))
        return made[-1]

    yield make
    for each in made:
        registry._definitions.pop(each._name, None)


@pytest.mark.parametrize(
    ("attributes", "says"),
    [
        ({"_access": Access("editor")}, "_access is a list"),
        ({"_access": "editor"}, "_access is a list"),
        ({"_access": ["editor"]}, "contains str"),
        ({"_access": [Access("")]}, "a role"),
        ({"_access": [Access(["editor"])]}, "a role"),
        ({"_access": [Access("editor", "yes")]}, "read is True or False"),
        ({"_rules": Rule("a", [])}, "_rules is a list"),
        ({"_rules": [[("title", "=", "x")]]}, "contains list"),
        ({"_rules": [Rule("", [])]}, "a rule's name"),
        ({"_rules": [Rule("a", []), Rule("a", [])]}, "another rule"),
        ({"_rules": [Rule("a", None)]}, "'a'.*not NoneType"),
        ({"_rules": [Rule("a", {"title": "x"})]}, "'a'.*not dict"),
        ({"_rules": [Rule("a", [("titel", "=", "x")])]}, "'a'.*did you mean 'title'"),
        ({"_rules": [Rule("a", [("title", "~", "x")])]}, "'a'.*~"),
        ({"_rules": [Rule("a", [], roles="editor")]}, "'a'.*roles"),
        ({"_rules": [Rule("a", [], roles=["*"])]}, "'a'.*without roles"),
        ({"_rules": [Rule("a", [], operations="read")]}, "'a'.*operations"),
        ({"_rules": [Rule("a", [], operations=["search"])]}, "'a'.*'search'"),
        ({"_rules": [Rule("a", [], operations=[])]}, "'a'.*operations are some of"),
    ],
)
async def test_a_malformed_declaration_names_the_model_and_nothing_can_be_done_with_it(
    opened, model, attributes, says
):
    declared = model(**attributes)
    async with opened():
        for _ in range(2):  # also where the first use has failed before
            with pytest.raises(ConfigurationError, match=says) as caught:
                await declared.count()
            assert declared._name in str(caught.value)


@pytest.mark.parametrize("domain", [[], (), True, Domain(), [("title", "=", "x")]])
async def test_every_form_of_a_domain_is_taken(opened, model, domain):
    declared = model(_rules=[Rule("a", domain)])
    async with opened():
        assert await declared.count() == 0


@pytest.mark.parametrize(
    ("settings", "says"), [({"defualt": "open"}, "default"), ({"default": "shut"}, "default")]
)
def test_wrong_settings_are_refused(settings, says):
    with pytest.raises(ConfigurationError, match=says):
        App("mongomock://", database="x", plugins=[SecurityPlugin], security=settings)


async def test_an_extension_adds_its_rules_to_those_of_the_model(opened, model):
    declared = model(_rules=[Rule("nothing", False)])

    class More(models.BaseModel):
        _inherit = declared._name
        extra = String()

    class Other(models.BaseModel):
        _inherit = declared._name
        _rules = [Rule("extra", [("extra", "=", "x")])]
        extra = String()

    class Brings:
        api = 1
        name = "brings"

        def __init__(self, extension):
            self.extension = extension

        @hookimpl
        def register_models(self, app):
            return [self.extension]

    async with opened(plugins=(Brings(More),)) as app:
        effective = app.model(declared._name)
        await _create_as_system(effective, "x")
        assert await effective.count() == 0
    async with opened(plugins=(Brings(Other),)) as app:
        effective = app.model(declared._name)
        await _create_as_system(effective, "x")
        assert await effective.count() == 0  # the model's own rule holds as well


async def test_what_an_extension_grants_and_restricts_joins_what_the_model_says(opened, model):
    declared = model(
        _access=[Access("reader", read=True)], _rules=[Rule("told", [("title", "!=", "secret")])]
    )

    class Editing(models.BaseModel):
        _inherit = declared._name
        _access = (Access("editor", read=True, write=True),)
        _rules = [Rule("extra", [("extra", "=", "x")])]
        extra = String()

    class Brings:
        api = 1
        name = "brings"

        @hookimpl
        def register_models(self, app):
            return [Editing]

    titles = ["plain", "secret"]
    async with opened(plugins=(Brings(),)) as app:
        effective = app.model(declared._name)
        with system(reason="set-up"):
            await effective.create([{"extra": e, "title": t} for e in "xy" for t in titles])
        for role in ("reader", "editor"):
            with act_as(Principal("ann", roles=[role])):
                assert [(r.extra, r.title) for r in await effective.search()] == [("x", "plain")]
        with act_as(Principal("ann", roles=["editor"])):
            await (await effective.find_one([])).ensure_one().write({"title": "t"})
        with act_as(Principal("ann", roles=["reader"])), pytest.raises(AccessDenied):
            await (await effective.find_one([])).ensure_one().write({"title": "u"})
    async with opened(plugins=()):
        with act_as(Principal("ann", roles=["editor"])), pytest.raises(AccessDenied):
            await declared.search()


async def _create_as_system(effective, extra):
    with system(reason="set-up"):
        await effective.create({"extra": extra})


# -- what bases say -------------------------------------------------------------------------------


class _Shops(models.BaseModel):
    _abstract = True
    _tenant_field = "shop"
    _rules = [Rule("shown", [("title", "!=", "hidden")])]
    _access = [Access("clerk", read=True)]
    shop = Int()


class _Chiefs(models.BaseModel):
    _abstract = True
    _access = [Access("chief", read=True)]


class _Others(models.BaseModel):
    _abstract = True
    _rules = [Rule("shown", [("title", "!=", "other")])]


class _Companies(models.BaseModel):
    _abstract = True
    _tenant_field = "company"
    company = Int()


class _Shared(models.BaseModel):
    _abstract = True
    _tenant_field = "shop"
    _tenant_shared = True
    shop = Int()


@pytest.mark.parametrize(
    ("bases", "attributes", "says"),
    [
        ((_Shops,), {"_tenant_field": None}, "_tenant_field is None, and _Shops says 'shop'"),
        ((_Shops,), {"_tenant_field": "till"}, "_tenant_field of _Shops and of Declared differ"),
        ((_Shops, _Chiefs), {}, "_access of _Chiefs and of _Shops differ: the model says"),
        ((_Shops, _Others), {}, "another rule of the model has this name"),
        (
            (_Companies, _Shared),
            {},
            "_tenant_field of _Shared and of _Companies differ: a class keeps",
        ),
        ((_Shops,), {"_rules": [Rule("shown", [])]}, "'shown'.*another rule of the model"),
    ],
)
async def test_bases_that_contradict_each_other_are_refused(opened, model, bases, attributes, says):
    declared = model(bases=bases, till=Int(), **attributes)
    async with opened():
        with pytest.raises(ConfigurationError, match=says):
            await declared.count()


async def test_a_rule_that_a_class_repeats_is_one(opened, model):
    rules = [*_Shops._rules, Rule("more", [("shop", "<", 3)])]
    declared = model(bases=(_Shops,), _rules=rules)
    async with opened() as app:
        found = [rule.name for rule in app.services["security"].policy(declared).rules]
        assert found == ["_tenant_field", "shown", "more"]


async def test_what_goes_across_tenants_adds_up(opened, model):
    class Login(_Shops):
        _abstract = True
        _across_tenants = ["login"]
        login = String(unique=True)

    declared = model(bases=(Login,), _across_tenants=["code"], code=String(unique=True))
    async with opened() as app:
        (diff,) = await app.indexes.diff([declared])
        names = [spec.name for spec in (*diff.ok, *diff.missing)]
        assert "login_1" in names and "code_1" in names


async def test_the_bases_of_an_extension_have_their_say(opened, model):
    declared = model()

    class Hiding(models.BaseModel):
        _abstract = True
        _rules = [Rule("shown", [("title", "!=", "hidden")])]

    class More(Hiding):
        _inherit = declared._name

    class Brings:
        api = 1
        name = "brings"

        @hookimpl
        def register_models(self, app):
            return [More]

    async with opened(plugins=(Brings(),)) as app:
        effective = app.model(declared._name)
        with system(reason="test"):
            await effective.create([{"title": "hidden"}, {"title": "seen"}])
        assert (await effective.search()).mapped("title") == ["seen"]
