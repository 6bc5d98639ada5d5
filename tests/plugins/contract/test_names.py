"""Names of plugins: one rule, one run of each, and nobody has the name of what is built in."""

from __future__ import annotations

import importlib
import sys
from typing import Any

import pytest

from earnorm import App, ConfigurationError, PluginError
from earnorm.kernel.plugins.selection import plugin_name
from tests.plugins.contract.conftest import Distribute

GOOD = "class Plugin:\n    api = 1\n"


def app(**keywords: Any) -> App:
    return App("mongomock://", database="names", **keywords)


def active(**keywords: Any) -> list[str]:
    return [info.name for info in app(**keywords).plugins if info.status == "active"]


class Plain:
    api = 1


class MailPlugin:
    api = 1


class Named:
    api = 1
    name = "postman"


def test_a_name_is_that_of_the_entry_point_else_the_attribute_else_the_class(
    distribute: Distribute,
) -> None:
    assert [plugin_name(cls) for cls in (Plain, MailPlugin, Named)] == ["plain", "mail", "postman"]
    assert plugin_name(Named()) == "postman"
    cls = importlib.import_module(distribute("bad", GOOD + "    name = 'good'\n")).Plugin
    assert plugin_name(cls) == plugin_name(cls()) == "bad"
    assert active(plugins=["bad"]) == active(plugins=[cls]) == active(plugins=[cls()]) == ["bad"]


def test_a_class_that_its_entry_point_imports_from_elsewhere_has_the_name_of_the_entry_point(
    distribute: Distribute,
) -> None:
    module = distribute("bad", "from tests.plugins.contract.test_names import Named as Plugin")
    assert plugin_name(Named) == "postman"  # nobody has imported the entry point's module
    importlib.import_module(module)
    assert plugin_name(Named) == "bad"


def test_a_class_that_is_named_plugin_has_that_name() -> None:
    class Plugin:
        api = 1

    assert plugin_name(Plugin) == "plugin"


def test_a_name_imports_nothing(distribute: Distribute) -> None:
    module = distribute("bad", GOOD)
    assert plugin_name(Named) == "postman"
    assert module not in sys.modules


def test_a_plugin_that_is_named_and_handed_in_runs_once(distribute: Distribute) -> None:
    module = distribute(
        "bad",
        "from earnorm import hookimpl\nmade = []\n"
        + GOOD
        + "    def __init__(self):\n        made.append(self)\n",
    )
    made = importlib.import_module(module).made
    cls = importlib.import_module(module).Plugin
    for plugins in (["bad", cls], [cls, "bad"], [cls, cls], ["bad", "bad"]):
        made.clear()
        assert active(plugins=plugins, required=["bad"]) == ["bad"]
        assert len(made) == 1
    [info] = [info for info in app(plugins=[cls]).plugins if info.name == "bad"]
    assert (info.distribution, info.version) == ("earnorm-bad", "1.2")
    with pytest.raises(PluginError, match="two plugins named 'bad' are selected") as caught:
        app(plugins=[cls(), cls()])
    assert caught.value.code == "name_taken"


def test_one_class_under_two_names_is_refused(distribute: Distribute, tmp_path: Any) -> None:
    module = distribute("bad", GOOD)
    other = distribute("worse", GOOD)
    points = tmp_path / other / "earnorm_worse-1.2.dist-info" / "entry_points.txt"
    points.write_text(f"[earnorm.plugins]\nworse = {module}:Plugin\n")
    assert active(plugins=["bad"]) == ["bad"]
    with pytest.raises(PluginError, match=r"'bad' and 'worse' are one class, .*run twice"):
        app(plugins=["bad", "worse"])


def test_two_distributions_of_one_name_trouble_only_an_app_that_selects_it(
    distribute: Distribute, tmp_path: Any
) -> None:
    module = distribute("bad", GOOD)
    other = distribute("worse", GOOD)
    points = tmp_path / other / "earnorm_worse-1.2.dist-info" / "entry_points.txt"
    points.write_text(f"[earnorm.plugins]\nbad = {module}:Plugin\n")
    assert active(plugins=[]) == []
    assert active(plugins=[Plain], disabled=["bad"]) == ["plain"]
    for selecting in ({"plugins": ["bad"]}, {"plugins": [], "required": ["bad"]}):
        with pytest.raises(PluginError, match="earnorm-bad and earnorm-worse both") as caught:
            app(**selecting)
        assert caught.value.code == "name_taken"


BUILT_IN = ["files", "timestamps", "recompute", "model", "bulk"]


@pytest.mark.parametrize("name", BUILT_IN)
def test_a_built_in_name_is_refused_for_others(name: str, distribute: Distribute) -> None:
    cls = type("Other", (), {"api": 1, "name": name})
    for given in (cls, cls()):
        with pytest.raises(PluginError, match=f"a feature of the core has the name '{name}'") as e:
            app(plugins=[given])
        assert e.value.code == "name_taken"
    assert active(plugins=[name]) == []  # the built-in one itself
    distribute(name, GOOD)
    with pytest.raises(PluginError, match=f"name '{name}'; give the plugin of earnorm-{name}"):
        app(plugins=[name])
    assert active(plugins=[]) == []


def test_a_name_of_a_parameter_of_app_is_refused() -> None:
    cls = type("Other", (), {"api": 1, "name": "database"})
    with pytest.raises(PluginError, match="App has a parameter 'database'") as caught:
        app(plugins=[cls])
    assert caught.value.code == "name_taken"


def test_disabled_names_what_is_there() -> None:
    for name, told in (
        ("model", "which no App can leave out"),
        ("recompte", "did you mean 'recompute'"),
        ("postman", "no plugin or feature has this name"),
    ):
        with pytest.raises(ConfigurationError, match=told) as caught:
            app(plugins=[], disabled=[name])
        assert caught.value.code == "unknown_plugin"
    with pytest.raises(ConfigurationError, match="'recompute' is required"):
        app(plugins=[], disabled=["recompute"], required=["recompute"])


@pytest.mark.parametrize(
    ("api", "told"),
    [
        ("'1'", "'bad' says api = '1', and the version is a whole number: api = 1"),
        ("True", "'bad' says api = True"),
        ("1.0", "'bad' says api = 1.0"),
        ("2", "'bad' was written for plugin API 2, this is 1"),
    ],
)
def test_another_api_gets_a_clear_answer(api: str, told: str, distribute: Distribute) -> None:
    distribute("bad", f"class Plugin:\n    api = {api}\n")
    with pytest.raises(PluginError) as caught:
        app(plugins=["bad"])
    assert told in str(caught.value)
    assert caught.value.code == "plugin_api"


def test_an_entry_point_that_names_a_module_is_told_so(
    distribute: Distribute, tmp_path: Any
) -> None:
    module = distribute("bad", GOOD)
    points = tmp_path / module / "earnorm_bad-1.2.dist-info" / "entry_points.txt"
    points.write_text(f"[earnorm.plugins]\nbad = {module}\n")
    with pytest.raises(PluginError, match=f"names the module '{module}'; it names a class"):
        app(plugins=["bad"])


def test_a_module_that_exits_does_not_end_the_program(distribute: Distribute) -> None:
    distribute("bad", "import sys\nsys.exit(3)\n")
    with pytest.raises(
        PluginError, match=r"'bad' from earnorm-bad 1\.2 failed to load: SystemExit"
    ):
        app(plugins=["bad"])


# -- settings of a misspelt name ------------------------------------------------------------------


@pytest.mark.parametrize("misspelt", ["gretter", "greter", "Greeter"])
def test_a_misspelt_keyword_names_the_nearest_plugin_and_no_package(
    misspelt: str, distribute: Distribute
) -> None:
    distribute("greeter", GOOD)
    for plugins in (["greeter"], []):
        settings: Any = {misspelt: {"a": 1}}
        with pytest.raises(PluginError) as caught:
            app(plugins=plugins, **settings)
        told = str(caught.value)
        assert told.startswith(
            f"no plugin is named {misspelt!r}, which {misspelt}= would configure"
        )
        assert "did you mean 'greeter'?" in told
        assert "pip" not in told
        assert caught.value.code == "plugin_missing"


def test_a_keyword_that_is_like_nothing_names_no_package(distribute: Distribute) -> None:
    distribute("greeter", GOOD)
    unlike: Any = {"zzzz": {}}
    with pytest.raises(PluginError) as caught:
        app(plugins=["greeter"], **unlike)
    assert "pip" not in str(caught.value)
    assert "known: " in str(caught.value)
    assert "greeter" in str(caught.value)
