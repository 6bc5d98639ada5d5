"""Plugins that break the contract: each is one error that names the plugin, and nothing stays open."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from earnorm import App, ConfigurationError, Field, PluginError, hookimpl
from earnorm.backends import ServerSettings
from earnorm.backends.memory import MemoryBackend
from earnorm.domain import OPERATORS
from tests.plugins.contract.conftest import Distribute

GOOD = "class Plugin:\n    api = 1\n"


def app(**keywords: Any) -> App:
    return App("mongomock://", database="bad", **keywords)


HOOK = "import earnorm\nclass Plugin:\n    api = 1\n    @earnorm.hookimpl\n    def "
# What the plugin's module says, and what the one message must name.
BROKEN = {
    "raises on import": (
        "raise RuntimeError('no licence')",
        [
            "'bad' from earnorm-bad 1.2 failed to load",
            "RuntimeError: no licence",
            "disabled=['bad']",
        ],
    ),
    "has no class": (
        "Other = 1",
        ["'bad' from earnorm-bad 1.2 failed to load", "Plugin"],
    ),
    "imports what is not there": (
        "import nowhere_to_be_found",
        ["'bad' from earnorm-bad 1.2 failed to load", "nowhere_to_be_found"],
    ),
    "implements an unknown hook": (
        HOOK + "start_up(self, app): ...",
        ["plugin 'bad' breaks the contract", "no hook 'start_up'; did you mean 'startup'?"],
    ),
    "misspells an argument": (
        HOOK + "after_create(self, op, results): ...",
        ["plugin 'bad' breaks the contract", "results", "expected after_create(self, op, result)"],
    ),
    "says no api": (
        "class Plugin: ...",
        ["plugin 'bad' does not say which API it was written for: 'api = 1'"],
    ),
    "was written for another api": (
        "class Plugin:\n    api = 2",
        ["plugin 'bad' was written for plugin API 2, this is 1", "install a version of it"],
    ),
    "cannot be instantiated": (
        GOOD + "    def __init__(self): raise OSError('no disk')",
        ["plugin 'bad' could not be instantiated: OSError: no disk"],
    ),
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_plugin_is_refused_that(what: str, distribute: Distribute) -> None:
    source, told = BROKEN[what]
    distribute("bad", source)
    with pytest.raises(PluginError) as caught:
        app(plugins=["bad"])
    assert [part for part in told if part not in str(caught.value)] == [], str(caught.value)


def test_a_broken_plugin_stops_an_app_that_takes_what_is_installed(
    distribute: Distribute, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("EARNORM_PLUGINS", raising=False)
    distribute("bad", "raise RuntimeError('no licence')")
    with pytest.raises(PluginError, match="'bad'"):
        app()
    monkeypatch.setenv("EARNORM_DISABLED_PLUGINS", "bad")
    rows = {row.name: row.status for row in app().plugins}
    assert rows["bad"] == "disabled"


SETTINGS = """
import earnorm
import pydantic

class Settings(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid")
    backend: str = "memory"
    password: int = 0

class Plugin:
    api = 1
    def __init__(self, settings): ...
    @staticmethod
    @earnorm.hookimpl
    def settings(): return Settings
"""


def test_an_unknown_setting_names_the_nearest(distribute: Distribute) -> None:
    distribute("bad", SETTINGS)
    with pytest.raises(ConfigurationError) as caught:
        app(plugins=["bad"], bad={"backnd": "redis"})
    assert "settings of plugin 'bad': backnd: unknown setting" in str(caught.value)
    assert "did you mean 'backend'?" in str(caught.value)


def test_an_invalid_setting_is_named_and_its_value_is_not_shown(distribute: Distribute) -> None:
    distribute("bad", SETTINGS)
    with pytest.raises(ConfigurationError) as caught:
        app(plugins=["bad"], bad={"password": "s3cret"})
    assert "settings of plugin 'bad': password: " in str(caught.value)
    assert "s3cret" not in str(caught.value)
    with pytest.raises(ConfigurationError, match="the settings of the plugin 'bad'"):
        app(plugins=["bad"], bad=3)


@pytest.mark.parametrize(
    ("declared", "given", "told"),
    [
        ("uuid.UUID", "secret", "x: Input should be a valid UUID"),
        ("pydantic.ImportString", "secret.path", "x: Input should be the path of something"),
        (
            "Annotated[A | B, pydantic.Field(discriminator='kind')]",
            {"kind": "secret"},
            "x: Input should have one of the kinds 'a', 'b' in 'kind'",
        ),
    ],
)
def test_no_message_of_pydantic_shows_a_setting(
    distribute: Distribute, declared: str, given: object, told: str
) -> None:
    distribute(
        "bad",
        "import uuid\nfrom typing import Annotated, Literal\nimport earnorm, pydantic\n"
        "class A(pydantic.BaseModel):\n    kind: Literal['a']\n"
        "class B(pydantic.BaseModel):\n    kind: Literal['b']\n"
        f"class Settings(pydantic.BaseModel):\n    x: {declared}\n"
        "class Plugin:\n    api = 1\n    def __init__(self, settings): ...\n"
        "    @staticmethod\n    @earnorm.hookimpl\n    def settings(): return Settings\n",
    )
    with pytest.raises(ConfigurationError) as caught:
        app(plugins=["bad"], bad={"x": given})
    assert told in str(caught.value)
    assert "secret" not in str(caught.value)


def test_settings_for_a_plugin_that_takes_none(distribute: Distribute) -> None:
    distribute("bad", GOOD)
    with pytest.raises(ConfigurationError, match="plugin 'bad' takes no settings; drop bad="):
        app(plugins=["bad"], bad={"x": 1})


def test_a_plugin_that_is_not_installed_says_what_to_install() -> None:
    with pytest.raises(PluginError) as caught:
        app(plugins=["nonsuch"])
    told = str(caught.value)
    assert told.startswith("plugin 'nonsuch' is not installed: pip install earnorm-nonsuch")


def test_a_misspelt_plugin_names_the_nearest(distribute: Distribute) -> None:
    distribute("greeter", GOOD)
    with pytest.raises(PluginError, match="did you mean 'greeter'"):
        app(plugins=["gretter"])


def test_a_required_plugin_cannot_be_disabled_from_outside(
    distribute: Distribute, monkeypatch: pytest.MonkeyPatch
) -> None:
    distribute("bad", GOOD)
    monkeypatch.setenv("EARNORM_DISABLED_PLUGINS", "bad")
    with pytest.raises(ConfigurationError, match="'bad' is required by this program"):
        app(required=["bad"])


def test_a_required_plugin_is_active_where_the_environment_leaves_it_out(
    distribute: Distribute, monkeypatch: pytest.MonkeyPatch
) -> None:
    distribute("bad", GOOD)
    monkeypatch.setenv("EARNORM_PLUGINS", "")
    rows = {row.name: row.status for row in app(required=["bad"]).plugins}
    assert rows["bad"] == "active"


def test_two_distributions_with_one_plugin_name(distribute: Distribute, tmp_path: Any) -> None:
    module = distribute("bad", GOOD)
    other = distribute("worse", GOOD)
    points = tmp_path / other / "earnorm_worse-1.2.dist-info" / "entry_points.txt"
    points.write_text(f"[earnorm.plugins]\nbad = {module}:Plugin\n")
    with pytest.raises(PluginError, match="both register a plugin named 'bad'; uninstall one"):
        app(plugins=["bad"])


# -- a start that fails ---------------------------------------------------------------------------


class Failing:
    """Fails in the hook that it is made for; ``how`` says how."""

    api = 1
    name = "failing"

    def __init__(self, hook: str) -> None:
        self.hook = hook

    def _maybe(self, hook: str) -> None:
        if self.hook == hook:
            raise RuntimeError("no licence")

    @hookimpl
    async def startup(self, app: App) -> None:
        self._maybe("startup")

    @hookimpl
    def register_listeners(self, app: App) -> list[object]:
        self._maybe("register_listeners")
        return []

    @hookimpl
    def register_fields(self, app: App) -> dict[str, Any]:
        self._maybe("register_fields")
        return {}

    @hookimpl
    def register_models(self, app: App) -> list[Any]:
        self._maybe("register_models")
        return []

    @hookimpl
    def register_operators(self, app: App) -> list[Any]:
        self._maybe("register_operators")
        return []

    @hookimpl
    def register_services(self, app: App) -> dict[str, Any]:
        self._maybe("register_services")
        return {}


class Companion:
    """Another plugin of the same App: what it opened at the start must be closed."""

    api = 1
    name = "companion"  # before "failing"

    def __init__(self) -> None:
        self.is_open = False

    @hookimpl
    def startup(self) -> None:
        self.is_open = True

    @hookimpl
    def shutdown(self) -> None:
        self.is_open = False


HOOKS = [
    "startup",
    "register_listeners",
    "register_fields",
    "register_models",
    "register_operators",
    "register_services",
]


@pytest.mark.parametrize("hook", HOOKS)
async def test_a_plugin_that_fails_at_the_start_leaves_nothing_open(
    hook: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []

    class Watched(MemoryBackend):
        def __init__(self, settings: ServerSettings) -> None:
            super().__init__(settings)
            events.append("made")

        async def close(self) -> None:
            events.append("closed")
            await super().close()

    monkeypatch.setattr("earnorm.backends.memory.MemoryBackend", Watched)
    companion = Companion()
    started = app(plugins=[Failing(hook), companion])
    with pytest.raises(PluginError) as caught:
        await started.start()
    assert str(caught.value) == (
        f"plugin 'failing' failed in its hook {hook}(self, app): RuntimeError: no licence"
    )
    assert isinstance(caught.value.__cause__, RuntimeError)
    assert events == ([] if hook == "register_listeners" else ["made", "closed"])
    assert not started.is_started
    assert not companion.is_open
    with pytest.raises(ConfigurationError, match="is not started"):
        _ = started._backend


async def test_every_shutdown_runs_where_one_fails() -> None:
    class Stubborn:
        api = 1
        name = "a_stubborn"

        @hookimpl
        async def shutdown(self, app: App) -> None:
            raise RuntimeError("not yet")

    companion = Companion()
    running = app(plugins=[Stubborn(), companion])
    await running.start()
    assert companion.is_open
    with pytest.raises(PluginError) as caught:
        await running.stop()
    assert "'a_stubborn'" in str(caught.value)
    assert "shutdown(self, app)" in str(caught.value)
    assert "not yet" in str(caught.value)
    assert not companion.is_open
    assert not running.is_started


@pytest.mark.parametrize(
    ("hook", "brought", "told"),
    [
        ("register_fields", {"Tint": Field}, "plugins 'one' and 'two' both register 'Tint'"),
        (
            "register_services",
            {"mail": 1},
            "plugins 'one' and 'two' both offer a service named 'mail'",
        ),
        (
            "register_operators",
            [replace(OPERATORS["="], name="starts")],
            "plugin 'two' brings an operator 'starts', which 'one' brings already",
        ),
        (
            "register_operators",
            [OPERATORS["="]],
            "plugin 'one' brings an operator '=', which 'earnorm-core' brings already",
        ),
    ],
)
async def test_two_plugins_that_bring_the_same_name_are_both_named(
    hook: str, brought: object, told: str
) -> None:
    def bringing(name: str) -> type:
        def implementation(self: object, app: App) -> object:
            return brought

        implementation.__name__ = hook
        return type("Bringing", (), {"api": 1, "name": name, hook: hookimpl(implementation)})

    with pytest.raises(PluginError) as caught:
        await app(plugins=[bringing("two"), bringing("one")]).start()
    assert told in str(caught.value)
