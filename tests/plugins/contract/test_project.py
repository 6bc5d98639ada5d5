"""The selection of plugins in a project's pyproject.toml."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from earnorm import App, ConfigurationError, PluginError
from tests.plugins.contract.conftest import Distribute

GOOD = "class Plugin:\n    api = 1\n"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, distribute: Distribute) -> Path:
    """The file of a project with plugins one and two installed; the work is done in a folder of it."""
    for name in ("one", "two"):
        distribute(name, GOOD)
    folder = tmp_path / "project" / "src" / "shop"
    folder.mkdir(parents=True)
    monkeypatch.chdir(folder)
    for variable in ("EARNORM_PLUGINS", "EARNORM_DISABLED_PLUGINS"):
        monkeypatch.delenv(variable, raising=False)
    return tmp_path / "project" / "pyproject.toml"


def active(**keywords: Any) -> set[str]:
    made = App("mongomock://", database="project", **keywords)
    return {i.name for i in made.plugins if i.status == "active"} & {"one", "two"}


def test_a_project_selects_where_nobody_else_does(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert active() == {"one", "two"}
    project.write_text('[tool.earnorm]\nplugins = ["one"]\n')
    assert active() == {"one"}
    assert active(required=["two"]) == {"one", "two"}
    assert active(plugins=["two"]) == {"two"}
    monkeypatch.setenv("EARNORM_PLUGINS", "two")
    assert active() == {"two"}
    monkeypatch.setenv("EARNORM_PLUGINS", "")
    assert active() == set()


def test_what_a_project_disables_yields_to_whoever_names_it(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.write_text('[tool.earnorm]\ndisabled = ["one", "watching"]\n')
    assert active() == {"two"}
    assert "watching" not in App("mongomock://", database="project").loaded.available
    assert active(plugins=["one"]) == {"one"}
    assert active(required=["one"]) == {"one", "two"}
    assert active(disabled=["two"]) == set()
    monkeypatch.setenv("EARNORM_DISABLED_PLUGINS", "two")
    assert active() == {"one"}
    monkeypatch.setenv("EARNORM_DISABLED_PLUGINS", "")
    assert active() == {"one", "two"}
    monkeypatch.delenv("EARNORM_DISABLED_PLUGINS")
    monkeypatch.setenv("EARNORM_PLUGINS", "one")
    assert active() == {"one"}


def test_the_nearest_file_with_the_table_counts(project: Path) -> None:
    project.write_text('[tool.earnorm]\nplugins = ["one"]\n')
    nearer = project.parent / "src" / "pyproject.toml"
    nearer.write_text('[project]\nname = "earnorm-shop"\n[tool.other]\nplugins = 3\n')
    assert active() == {"one"}
    nearer.write_text('tool = { earnorm = { plugins = ["two"] } }\n')
    assert active() == {"two"}
    nearer.write_text("this is no TOML\n")  # nobody's business: it does not speak of earnorm
    assert active() == {"one"}


WRONG = {
    "[tool.earnorm]\npluggins = []": "[tool.earnorm] has no key 'pluggins'; did you mean 'plugins'?",
    '[tool.earnorm]\nplugins = "one"': "[tool.earnorm] plugins is a list of names",
    "[tool.earnorm]\ndisabled = [1]": "[tool.earnorm] disabled is a list of names",
    '[tool]\nearnorm = "one"': "tool.earnorm is a table with plugins and disabled",
    "[tool.earnorm\n": "cannot be read: ",
}


@pytest.mark.parametrize("content", WRONG)
def test_a_wrong_table_is_an_error_that_names_the_file(project: Path, content: str) -> None:
    project.write_text(content)
    with pytest.raises(ConfigurationError) as caught:
        active(plugins=[])
    assert str(project) in str(caught.value)
    assert WRONG[content] in str(caught.value)
    assert caught.value.code == "project_file"


def test_an_unknown_name_is_an_error_that_names_the_file(project: Path) -> None:
    project.write_text('[tool.earnorm]\nplugins = ["onne"]\n')
    with pytest.raises(PluginError, match="did you mean 'one'") as caught:
        active()
    assert str(project) in str(caught.value)
    project.write_text('[tool.earnorm]\ndisabled = ["twoo"]\n')
    with pytest.raises(ConfigurationError, match="did you mean 'two'") as refused:
        active()
    assert str(project) in str(refused.value)
