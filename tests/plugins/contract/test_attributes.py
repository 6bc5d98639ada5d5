"""Class attributes of models that a plugin brings: they add fields and indexes in the Apps that selected it."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from earnorm import App, ConfigurationError, DateTime, PluginError, String, models
from earnorm.plugin import Attribute, Declaration, Declared, hookimpl, name_of


class Letter(models.BaseModel):
    _name = "attributes.letter"
    _sealed = True
    text = String()


class Postcard(models.BaseModel):
    _name = "attributes.postcard"
    text = String()


class Parcel(models.BaseModel):
    _name = "attributes.parcel"
    _sealed = "tightly"


class SealedPostcard(models.BaseModel):
    _inherit = "attributes.postcard"
    _sealed = True


def seal(declaration: Declaration) -> None:
    """Give the model a seal, unless it has one."""
    if "seal" not in declaration.fields:
        declaration.add_field("seal", String(default="wax"))
        declaration.add_index({"seal": 1})


class Sealing:
    api = 1
    name = "sealing"

    @staticmethod
    @hookimpl
    def model_attributes() -> Iterable[Attribute]:
        return [Attribute("_sealed", bool, False, seal)]


class Extending:
    api = 1
    name = "extending"

    @hookimpl
    def register_models(self) -> Iterable[type[models.BaseModel]]:
        return [SealedPostcard]


def opened(*plugins: object) -> App:
    return App("mongomock://", database="attributes", plugins=plugins)


async def test_a_model_with_the_attribute_gets_what_it_declares_in_this_app_alone() -> None:
    async with opened(Sealing) as app:
        letter = await Letter.create({"text": "Dear"})
        assert letter.to_dict()["seal"] == "wax"
        assert [each.text for each in await Letter.search([("seal", "=", "wax")])] == ["Dear"]
        assert isinstance(letter, Letter) and name_of(letter) == "attributes.letter"
        (diff,) = await app.indexes.diff([Letter])
        assert [spec.name for spec in diff.ok] == ["seal_1"]
        assert "seal" not in app.model("attributes.postcard")._fields
    assert "seal" not in Letter._fields and not Letter._indexes
    async with opened() as app:
        assert app.model("attributes.letter") is Letter


async def test_an_extension_may_have_the_attribute() -> None:
    async with opened(Sealing, Extending):
        assert (await Postcard.create({"text": "Hi"})).to_dict()["seal"] == "wax"


async def test_a_value_of_another_type_is_refused_where_the_model_is_used() -> None:
    async with opened(Sealing):
        with pytest.raises(ConfigurationError) as caught:
            await Parcel.count()
    assert str(caught.value) == "Parcel._sealed is of the type bool, which 'tightly' is not"
    async with opened():
        assert await Parcel.count() == 0


def plugin(*attributes: object) -> type:
    class Some:
        api = 1
        name = "some"

        @staticmethod
        @hookimpl
        def model_attributes() -> Iterable[object]:
            return attributes

    return Some


@pytest.mark.parametrize(
    ("kind", "value", "fits"),
    [
        (int, True, False),
        (int, 3, True),
        (int | str, False, False),
        (int | None, True, False),
        (int | bool, True, True),
        (bool, True, True),
        (bool, 1, False),
        (object, True, True),
    ],
)
async def test_true_and_false_are_no_numbers(kind: type, value: object, fits: bool) -> None:
    class Counted(models.BaseModel):
        _name = "attributes.counted"
        _most = value

    async with opened(plugin(Attribute("_most", type=kind))):
        if fits:
            assert await Counted.count() == 0
        else:
            with pytest.raises(ConfigurationError, match="_most is of the type"):
                await Counted.count()


def refusing(declaration: Declaration) -> None:
    declaration.refuse("not today")


def failing(declaration: Declaration) -> None:
    raise ZeroDivisionError("oops")


def taking_a_method(declaration: Declaration) -> None:
    declaration.add_field("save", String())


def taking_a_key(declaration: Declaration) -> None:
    declaration.add_field("other", String(db_name="text"))


def taking_a_field(declaration: Declaration) -> None:
    declaration.add_field("text", DateTime())


def adding_a_field_twice(declaration: Declaration) -> None:
    declaration.add_field("seal", DateTime())
    declaration.add_field("seal", String())


@pytest.mark.parametrize(
    ("declare", "error", "message"),
    [
        (refusing, ConfigurationError, "plugin 'some': Letter._sealed: not today"),
        (
            failing,
            PluginError,
            "plugin 'some' failed to declare _sealed of 'attributes.letter': ZeroDivisionError: oops",
        ),
        (
            taking_a_method,
            ConfigurationError,
            "plugin 'some': Letter._sealed: a field 'save', whose name is taken by a method or an "
            "attribute",
        ),
        (
            taking_a_key,
            ConfigurationError,
            "plugin 'some': Letter._sealed: a field 'other', which is stored as 'text', where 'text' is",
        ),
        (
            taking_a_field,
            ConfigurationError,
            "plugin 'some': Letter._sealed: a field 'text' (DateTime), which "
            "tests.plugins.contract.test_attributes.Letter has already (String); rename one, or look "
            "at declaration.fields first",
        ),
    ],
)
async def test_what_cannot_be_declared_names_plugin_model_and_attribute(
    declare: object, error: type[Exception], message: str
) -> None:
    made = plugin(Attribute("_sealed", bool, False, declare))  # type: ignore[arg-type]
    async with opened(made):
        with pytest.raises(error) as caught:
            await Letter.count()
    assert str(caught.value) == message


async def test_two_plugins_cannot_add_one_field() -> None:
    class Second:
        api = 1
        name = "second"

        @staticmethod
        @hookimpl
        def model_attributes() -> Iterable[Attribute]:
            return [Attribute("_stamped", bool, False, lambda d: d.add_field("seal", DateTime()))]

    class Stamped(models.BaseModel):
        _name = "attributes.stamped"
        _sealed = True
        _stamped = True

    async with opened(Sealing, Second):
        with pytest.raises(ConfigurationError) as caught:
            await Stamped.count()
    assert "which plugin 'sealing' has already (String)" in str(caught.value)
    assert "plugin 'second': Stamped._stamped: a field 'seal' (DateTime)" in str(caught.value)


async def test_a_plugin_may_replace_its_own_field() -> None:
    async with opened(plugin(Attribute("_sealed", bool, False, adding_a_field_twice))) as app:
        assert isinstance(app.model("attributes.letter")._fields["seal"], String)


async def waiting(declaration: Declaration) -> None: ...


@pytest.mark.parametrize(
    ("attribute", "message"),
    [
        ("_sealed", r"plugin 'some': model_attributes\(\) gives Attributes, not '_sealed'"),
        (Attribute("sealed", bool), "begins with one underscore, .* 'sealed'"),
        (None, r"plugin 'some': model_attributes\(\) gives Attributes, not None"),
        (Attribute("_sealed", 5), r"plugin 'some': the attribute '_sealed' has type=5; expected"),  # type: ignore[arg-type]
        (Attribute("_sealed", bool, False, waiting), "has declare=.*; expected a plain function"),  # type: ignore[arg-type]
        (Attribute("_sealed", bool, False, 5), "has declare=5; expected a plain function"),  # type: ignore[arg-type]
        (Attribute("_name", str), "plugins 'earnorm' and 'some' both bring .* '_name'"),
        (Attribute("_bookkeeping", str), "plugins 'earnorm' and 'some' both bring"),
        (Attribute("_versioned", bool), "plugins 'earnorm' and 'some' both bring .* '_versioned'"),
    ],
)
def test_what_a_plugin_hands_in_is_checked(attribute: object, message: str) -> None:
    with pytest.raises(PluginError, match=message):
        opened(plugin(attribute))


def test_two_plugins_cannot_bring_one_attribute() -> None:
    with pytest.raises(PluginError, match="plugins 'sealing' and 'some' both bring the attribute"):
        opened(Sealing, plugin(Attribute("_sealed", str)))


async def test_an_attribute_without_declare_is_only_checked() -> None:
    stamped = plugin(Attribute("_sealed", bool | str), Attribute("_stamped_at", DateTime))
    async with opened(stamped) as app:
        assert await Parcel.count() == 0
        assert app.model("attributes.letter") is Letter


class Waxed(models.BaseModel):
    _abstract = True
    _sealed = True


class Taped(Waxed):
    _abstract = True
    _sealed = None


class Coffer(Taped):
    _name = "attributes.coffer"
    _sealed = False


class SealedCoffer(Waxed):
    _inherit = "attributes.coffer"


class Doubling(Extending):
    name = "doubling"

    @hookimpl
    def register_models(self) -> Iterable[type[models.BaseModel]]:
        return [SealedCoffer, SealedPostcard]


async def test_a_view_tells_what_each_class_of_a_model_says() -> None:
    async with opened(Sealing, Doubling) as app:
        coffer, postcard = app.view("attributes.coffer"), app.view("attributes.postcard")
        assert coffer.declarations("_sealed") == [
            Declared(Waxed, True, False),  # a base of the extension, too, and told once
            Declared(Coffer, False, False),
        ]
        assert postcard.declarations("_sealed") == [Declared(SealedPostcard, True, True)]
        assert postcard.declarations("_other") == []
