"""What a plugin hands in is checked when it is handed in: its hooks, its settings, what hooks give."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Annotated, Any

import pydantic
import pytest
import typer
from pymongo.monitoring import CommandListener

from earnorm import (
    App,
    BaseModel,
    ConfigurationError,
    DateTime,
    Field,
    Int,
    PluginError,
    String,
    forget,
    hookimpl,
)
from earnorm.cli.application import application
from earnorm.domain import OPERATORS
from earnorm.fields import ConvertingField, N
from earnorm.kernel.contract.handed_in import HOOKS
from earnorm.plugin import Attribute, DocumentBatch, ModelView, Stage, Step
from earnorm.testing import check_plugin, make
from earnorm.testing.conformance import CHECKS
from earnorm.testing.conformance.checks import Result

STATIC = ("settings", "model_attributes", "needed_by", "register_commands")


def plugin(**methods: Any) -> type:
    return type("BadPlugin", (), {"api": 1, "name": "bad"} | methods)


def app(*plugins: object, **settings: Any) -> App:
    return App("mongomock://", database="bad", plugins=plugins, **settings)


def method(hook: str, parameters: str, body: str = "return None", *, is_async: bool = False) -> Any:
    scope: dict[str, Any] = {}
    start = "async def" if is_async else "def"
    exec(f"{start} {hook}({parameters}):\n    {body}", scope)
    return scope[hook]


def marked(hook: str, parameters: str, body: str = "return None", **options: Any) -> Any:
    function = method(hook, parameters, body, is_async=options.pop("is_async", False))
    function = hookimpl(**options)(function)
    return staticmethod(function) if hook in STATIC else function


# -- hooks ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("hook", HOOKS)
def test_a_method_named_like_a_hook_is_marked(hook: str) -> None:
    parameters = "" if hook in STATIC else "self"
    function = method(hook, parameters)
    unmarked: Any
    for unmarked in (function, staticmethod(function), classmethod(function)):
        with pytest.raises(
            PluginError, match=rf"{hook}\(\) is named like a hook and not"
        ) as caught:
            app(plugin(**{hook: unmarked}))
        assert caught.value.code == "hook_contract"


class Data:
    """Values under the names of hooks are no methods."""

    api = 1
    name = "data"
    health = "good"

    def __init__(self) -> None:
        self.startup = {"at": 1}


def test_a_value_that_is_named_like_a_hook_is_none() -> None:
    assert [info.name for info in app(Data).plugins if info.status == "active"] == ["data"]
    App("mongomock://", database="bad", plugins=[Data()])


class Plain(pydantic.BaseModel):
    level: int = 1
    other: str = pydantic.Field("", alias="autre")


class Called:
    def __call__(self) -> None:
        raise AssertionError


NO_METHODS: list[object] = [Called(), property(lambda self: None), partial(print), Called, Plain]


@pytest.mark.parametrize("value", NO_METHODS, ids=lambda value: type(value).__name__)
@pytest.mark.parametrize("hook", HOOKS)
def test_what_looks_like_a_hook_and_is_no_method_is_refused(hook: str, value: object) -> None:
    with pytest.raises(
        PluginError, match=f"{hook} is named like a hook and is no method"
    ) as caught:
        app(plugin(**{hook: value}))
    assert caught.value.code == "hook_contract"


@pytest.mark.parametrize("value", [Called(), print, partial(print)])
def test_a_function_that_init_puts_under_the_name_of_a_hook_is_refused(value: object) -> None:
    def init(self: Any) -> None:
        self.startup = value

    cls = plugin(__init__=init)
    for given in (cls, cls()):
        with pytest.raises(PluginError, match=r"startup.* is named like a hook and"):
            app(given)


@pytest.mark.parametrize("name", [5, "", " ", property(lambda self: "x"), ["x"]])
def test_a_name_that_is_none_is_refused(name: object) -> None:
    with pytest.raises(
        PluginError, match=r"its class attribute 'name' is .*, not a name"
    ) as caught:
        app(plugin(name=name))
    assert caught.value.code == "hook_contract"


@pytest.mark.parametrize(
    "option", ["wrapper", "hookwrapper", "tryfirst", "trylast", "optionalhook"]
)
def test_an_option_of_pluggy_without_a_meaning_is_refused(option: str) -> None:
    body = "yield" if "wrapper" in option else "return None"
    given = plugin(before_create=marked("before_create", "self, op", body, **{option: True}))
    with pytest.raises(PluginError, match=rf"before_create\(\) says {option}=True"):
        app(given)


@pytest.mark.parametrize("options", [{"optionalhook": True}, {"specname": "startup"}])
def test_a_method_that_is_no_hook_cannot_pass_for_one(options: dict[str, Any]) -> None:
    with pytest.raises(PluginError, match=rf"strtup\(\) says {next(iter(options))}="):
        app(plugin(strtup=marked("strtup", "self", **options)))


@pytest.mark.parametrize(
    ("hook", "near"),
    [("before_creat", "before_create"), ("start_up", "startup"), ("settins", "settings")],
)
def test_an_unknown_hook_names_the_nearest_alone(hook: str, near: str) -> None:
    with pytest.raises(PluginError) as caught:
        app(plugin(**{hook: marked(hook, "self")}))
    told = f"plugin 'bad' breaks the contract: there is no hook {hook!r}; did you mean {near!r}?"
    assert str(caught.value) == told


def test_a_hook_like_no_other_is_told_where_the_hooks_are() -> None:
    with pytest.raises(PluginError, match=r"no hook 'zzz'; docs/plugins\.md lists the hooks"):
        app(plugin(zzz=marked("zzz", "self")))


@pytest.mark.parametrize("hook", HOOKS)
def test_an_unknown_argument_is_told_with_the_signature(hook: str) -> None:
    parameters = "other" if hook in STATIC else "self, other"
    with pytest.raises(PluginError, match=rf"unknown argument 'other'; expected {hook}\("):
        app(plugin(**{hook: marked(hook, parameters)}))


ASYNC = {name for name, hook in HOOKS.items() if "Awaitable" in hook.__annotations__["return"]}


@pytest.mark.parametrize("hook", HOOKS)
def test_a_hook_is_async_only_where_it_is_awaited(hook: str) -> None:
    parameters = "" if hook in STATIC else "self"
    given = plugin(**{hook: marked(hook, parameters, is_async=True)})
    if hook in ASYNC:
        app(given)
        return
    with pytest.raises(PluginError, match=rf"{hook}\(\) is never awaited"):
        app(given)


def test_a_generator_that_would_never_run_is_refused() -> None:
    with pytest.raises(PluginError, match=r"before_create\(\) has a 'yield'"):
        app(plugin(before_create=marked("before_create", "self, op", "yield")))
    with pytest.raises(PluginError, match=r"startup\(\) has a 'yield'"):
        app(plugin(startup=marked("startup", "self", "yield", is_async=True)))
    app(plugin(register_models=marked("register_models", "self", "yield from ()")))


@pytest.mark.parametrize("hook", STATIC)
def test_a_hook_that_is_asked_without_an_instance_is_static(hook: str) -> None:
    with pytest.raises(PluginError, match=rf"{hook}\(\) is asked before there is an instance"):
        app(plugin(**{hook: hookimpl(method(hook, "self"))}))


# -- settings -------------------------------------------------------------------------------------


class Ignoring(Plain):
    model_config = pydantic.ConfigDict(extra="ignore")


def settings(model: object) -> Any:
    return staticmethod(hookimpl(lambda: model))


def test_settings_are_checked() -> None:
    with pytest.raises(PluginError, match="gave dict; it has to give the class of a pydantic mod"):
        app(plugin(settings=settings(dict)))
    with pytest.raises(PluginError, match=r"def __init__\(self, settings: Plain\)"):
        app(plugin(settings=settings(Plain)))
    with pytest.raises(PluginError, match="is called without arguments: missing a required arg"):
        app(plugin(__init__=lambda self, settings: None))


def test_a_misspelt_setting_is_refused_unless_the_model_says_that_it_may_be() -> None:
    def taking(model: object) -> type:
        return plugin(settings=settings(model), __init__=lambda self, settings: None)

    with pytest.raises(ConfigurationError, match="levl: unknown setting; did you mean 'level'"):
        app(taking(Plain), bad={"levl": 2})
    app(taking(Plain), bad={"level": 2, "autre": "x"})
    app(taking(Ignoring), bad={"levl": 2})


# -- what hooks give ------------------------------------------------------------------------------


class Foreign(BaseModel):
    _name = "handed.foreign"
    text = String()


EQUAL = OPERATORS["="]


async def later(*arguments: object) -> None: ...


def main() -> None: ...


def named(name: str, **parts: Any) -> object:
    return replace(EQUAL, name=name, **parts)


GIVEN: list[tuple[str, object, str]] = [
    ("register_listeners", 7, "gave a int; it has to give a list of event listeners"),
    ("register_listeners", [5], "gave a int; it has to give objects of the listeners of pymongo"),
    ("register_listeners", [CommandListener], "gave CommandListener; it has to give objects of"),
    ("register_models", 7, "gave a int; it has to give a list of models"),
    ("register_models", Foreign, "has to give a list of models"),
    ("register_models", [Foreign, 7], "gave a int; it has to give subclasses of models.BaseModel"),
    ("register_models", [object], "gave object; it has to give subclasses of models.BaseModel"),
    (
        "register_models",
        [BaseModel],
        "gave BaseModel; it has to give subclasses of models.BaseModel",
    ),
    ("register_fields", [String], "gave a list; it has to give a dict of field types by name"),
    ("register_fields", {"Own": 7}, "gave a int; it has to give a class of fields for 'Own'"),
    ("register_fields", {7: String}, "gave a int; it has to give names that are texts"),
    ("register_fields", {"String": Int}, "named 'String', which EarnORM has; give it another"),
    ("register_fields", {"Point": Int}, "named 'Point', which EarnORM has; give it another"),
    ("register_operators", "x", "gave a str; it has to give a list of operators"),
    ("register_operators", ["x"], "gave a str; it has to give objects of earnorm.Operator"),
    ("register_operators", [named("&")], "an operator named '&', which no condition can have"),
    ("register_operators", [named("|")], "an operator named '|', which no condition can have"),
    ("register_operators", [named("!")], "an operator named '!', which no condition can have"),
    ("register_operators", [named("")], "an operator named '', which no condition can have"),
    ("register_services", ["x"], "gave a list; it has to give a dict of objects by name"),
    (
        "register_operators",
        [named("is", prepare=None)],
        "a plain function prepare(field, value) of the operator",
    ),
    (
        "register_operators",
        [named("is", to_mongo=5)],
        "a plain function to_mongo(path, operand) of the operator",
    ),
    (
        "register_operators",
        [named("is", matches="x")],
        "a plain function matches(operand) of the operator",
    ),
    ("register_operators", [named("is", to_mongo=lambda path: {})], "to_mongo(path, operand)"),
    ("register_operators", [named("is", matches=later)], "gave a function; it has to give a plain"),
    (
        "register_operators",
        [named("is", negated=5)],
        "as negated of the operator 'is'",
    ),
    ("register_services", {"x": None}, "gave None; it has to give an object for 'x'"),
    ("register_services", {1: 1}, "gave a int; it has to give names that are texts"),
    ("register_commands", ["x"], "gave a list; it has to give a dict of functions by name"),
    ("register_commands", {"go": 7}, "gave a int; it has to give a function without *args"),
    ("register_commands", {"go": lambda *a: None}, "it has to give a function without *args"),
    ("register_commands", {"go": lambda **k: None}, "it has to give a function without *args"),
    ("register_commands", {"--help": main}, "a command named '--help', which nobody can type"),
    ("register_commands", {"a b": main}, "a command named 'a b', which nobody can type"),
    ("register_commands", {"doctor": main}, "a command 'doctor', which EarnORM has already"),
]


@pytest.mark.parametrize(("hook", "given", "told"), GIVEN)
async def test_what_a_hook_gives_is_checked_at_the_start(hook: str, given: Any, told: str) -> None:
    implementation: Any = (
        hookimpl(lambda: given) if hook in STATIC else hookimpl(lambda self: given)
    )
    given_by = staticmethod(implementation) if hook in STATIC else implementation
    started = app(plugin(**{hook: given_by}))
    with pytest.raises(PluginError) as caught:
        await started.start()
    assert "plugin 'bad'" in str(caught.value)
    assert told in str(caught.value)
    assert caught.value.code in ("hook_result", "name_taken")
    assert not started.is_started


@pytest.mark.parametrize(
    "hook", ["register_models", "register_fields", "register_operators", "register_services"]
)
async def test_an_awaitable_that_a_collector_gives_is_refused(hook: str) -> None:
    async def later() -> list[Any]:
        return []

    given = plugin(**{hook: hookimpl(lambda self: later())})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(
            PluginError, match="gave a coroutine; it has to give its answer at once"
        ):
            await app(given).start()


def generated(self: object) -> Iterator[type[BaseModel]]:
    yield Foreign


@pytest.mark.parametrize("given", [hookimpl(lambda self: None), hookimpl(generated)])
async def test_nothing_and_a_generator_are_no_mistakes(given: Callable[..., Any]) -> None:
    async with app(plugin(register_models=given)):
        assert await Foreign.count() == 0


async def test_two_plugins_with_one_command_are_both_named() -> None:
    def bringing(name: str) -> type:
        commands = staticmethod(hookimpl(lambda: {"go": main}))
        return type("P", (), {"api": 1, "name": name, "register_commands": commands})

    with pytest.raises(PluginError, match="'two' brings a command 'go', which plugin 'one' has"):
        await app(bringing("two"), bringing("one")).start()


def test_the_names_of_the_built_in_commands_are_those_of_the_command_line() -> None:
    group: Any = typer.main.get_command(application)
    own = set(group.commands)
    assert sorted(own) == list(App.built_in_commands)


# -- kinds of fields ------------------------------------------------------------------------------


class Unbuildable(Field[str, N]):
    def annotation(self) -> Any:
        return Annotated[str, pydantic.StringConstraints(pattern=r"(?<=a)b")]


class Owning(BaseModel):
    _name = "handed.owning"
    own = Unbuildable()


async def test_an_annotation_that_pydantic_cannot_build_is_told_at_the_start() -> None:
    told = "handed.owning.own: pydantic cannot build the annotation\\(\\) of Unbuildable"
    with pytest.raises(ConfigurationError, match=told) as caught:
        await app(plugin(register_models=hookimpl(lambda self: [Owning]))).start()
    assert caught.value.code == "field_annotation"
    async with App("mongomock://", database="own", plugins=[]):  # nobody brings it to this App
        with pytest.raises(ConfigurationError, match=told):
            await Owning.count()


class Declaring(BaseModel):
    _name = "handed.declaring"
    _odd = True


async def test_a_declared_field_of_a_plugins_own_model_is_checked_at_the_start() -> None:
    attribute = Attribute(
        "_odd", type=bool, default=False, declare=lambda made: made.add_field("odd", Unbuildable())
    )
    given = plugin(
        model_attributes=staticmethod(hookimpl(lambda: [attribute])),
        register_models=hookimpl(lambda self: [Declaring]),
    )
    told = r"handed.declaring.odd: pydantic cannot build the annotation\(\) of Unbuildable"
    with pytest.raises(ConfigurationError, match=told) as caught:
        await app(given).start()
    assert caught.value.code == "field_annotation"


@pytest.mark.parametrize("hook", ["wrap_operation", "register_steps", "register_reading"])
@pytest.mark.parametrize(
    "given", [lambda self: ["x"], lambda self: 1 / 0, lambda self: Step(wys=1)]
)
async def test_layers_steps_and_readings_of_brought_models_are_checked_at_the_start(
    hook: str, given: Any
) -> None:
    bringing = hookimpl(lambda self: [Foreign])
    started = app(plugin(register_models=bringing, **{hook: hookimpl(given)}))
    with pytest.raises(PluginError, match="plugin 'bad'"):
        await started.start()
    assert not started.is_started


async def waits(self: object, *values: object) -> None: ...


ODD: list[tuple[type, dict[str, Any], str]] = [
    (String, {"encode": waits}, r"encode\(\) of Odd is never awaited: make it a plain 'def'"),
    (String, {"annotation": waits}, r"annotation\(\) of Odd is never awaited"),
    (String, {"bson_schema": lambda self: None}, r"bson_schema\(\) of Odd gives None"),
    (String, {"bson_schema": lambda self: 1 / 0}, r"bson_schema\(\) of Odd raises ZeroDivision"),
    (
        String,
        {"operand_types": str},
        "operand_types of Odd is a tuple of classes, not <class 'str'>",
    ),
    (ConvertingField, {"annotation": lambda self: str}, r"without is_decoded\(value\)"),
]


@pytest.mark.parametrize(("base", "members", "told"), ODD)
async def test_the_methods_of_a_field_type_are_looked_at(
    base: type, members: dict[str, Any], told: str
) -> None:
    odd: Any = type("Odd", (base,), members)
    with pytest.raises(
        PluginError, match=f"plugin 'bad': register_fields gave 'Odd', and .*{told}"
    ):
        await app(plugin(register_fields=hookimpl(lambda self: {"Odd": odd}))).start()
    model: Any = type("OddModel", (BaseModel,), {"_name": "handed.odd", "odd": odd()})
    async with App("mongomock://", database="own", plugins=[]):
        with pytest.raises(ConfigurationError, match=f"handed.odd.odd: .*{told}"):
            await model.count()
    forget(model)


class Broken(ConvertingField[str, N]):
    def annotation(self) -> Any:
        return str

    def is_decoded(self, value: Any) -> bool:
        return True

    def encode(self, value: Any) -> Any:
        return 1 / 0


class Breaking(BaseModel):
    _name = "handed.breaking"
    value = Broken()


async def test_an_encode_that_fails_names_the_field() -> None:
    async with App("mongomock://", database="own", plugins=[]):
        with pytest.raises(ZeroDivisionError) as caught:
            await Breaking.create({"value": "a"})
    assert caught.value.__notes__ == ["in encode() of handed.breaking.value, a Broken"]


class Ends(DateTime[N]):
    """A kind of time that a step of its plugin gives."""

    generated = True


class Ending(BaseModel):
    _name = "handed.ending"
    ends = Ends(required=True)


def end(batch: DocumentBatch) -> None:
    batch.fill("ends", batch.now)


async def test_a_kind_of_time_may_be_filled_in_by_a_step() -> None:
    given = plugin(register_steps=hookimpl(lambda self: [Step(Stage.STAMP, "end", end)]))
    async with app(given):
        ending = await Ending.create({})
        assert ending.ends is not None
        assert (await make(Ending)).ends >= ending.ends
        assert Ending.pydantic_model().model_json_schema()["properties"]["ends"]["readOnly"]


class EndsPlugin:
    api = 1
    name = "ends"

    @hookimpl
    def register_fields(self) -> dict[str, type[Field[Any, Any]]]:
        return {"Ends": Ends}

    @hookimpl
    def register_steps(self, model: ModelView) -> Iterator[Step]:
        for name, field in model.fields.items():
            if isinstance(field, Ends):
                yield Step(Stage.STAMP, "end", lambda batch, at=name: batch.fill(at, batch.now))  # type: ignore[misc]


NEEDED = {"signatures", "starts", "fields", "unique_nulls"}


async def test_records_that_always_have_a_value_do_not_collide_without(uri: str) -> None:
    outcomes = await check_plugin(EndsPlugin, uri=uri, skip=CHECKS.keys() - NEEDED)
    assert {o.check.name: o.result for o in outcomes if o.check.name in NEEDED} == dict.fromkeys(
        NEEDED, Result.PASSED
    )


class WithArguments(Unbuildable[Any]):
    def __init__(self, kind: str) -> None:
        super().__init__()


async def test_a_field_type_is_checked_when_it_is_registered() -> None:
    kinds = {"Odd": Unbuildable}
    told = "plugin 'bad': register_fields gave 'Odd', and pydantic cannot build the annotation"
    with pytest.raises(PluginError, match=told) as caught:
        await app(plugin(register_fields=hookimpl(lambda self: kinds))).start()
    assert caught.value.code == "field_annotation"
    # One that cannot be made without arguments is checked in the models that have it.
    needy = hookimpl(lambda self: {"Odd": WithArguments, "String": String})
    async with app(plugin(register_fields=needy)) as started:
        assert started.field_types["Odd"] is WithArguments


class Own(Field[str, N]):
    python_type = str
    operand_types = (str,)


class Coded(BaseModel):
    _name = "handed.coded"
    code = Own(unique=True)


@pytest.mark.parametrize("kind", ["mongomock://", "server"])
async def test_two_unset_values_of_a_unique_own_kind_do_not_collide(kind: str, uri: str) -> None:
    where = uri if kind == "server" else kind
    async with App(where, database="handed_in_unique", plugins=[]) as started:
        try:
            a, b = await Coded.create([{"code": "x"}, {"code": "y"}])
            await a.write({"code": None})
            await b.write({"code": None})
            await Coded.create([{"code": None}, {}, {"code": "x"}])
            with pytest.raises(Exception, match="must be unique"):
                await Coded.create({"code": "x"})
            assert await Coded.count() == 5
        finally:
            await started.dangerous_raw("the test is over").drop_collection("handed_coded")
