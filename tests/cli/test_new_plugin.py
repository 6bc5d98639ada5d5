"""``earnorm new plugin``: what it writes and refuses; tests/plugins/authors runs what it writes."""

from __future__ import annotations

import itertools
import tomllib
from pathlib import Path

import pytest

from earnorm.cli.new import PARTS, plugin_files
from earnorm.cli.template import render
from tests.cli.test_command_line import (  # noqa: F401  (fixtures)
    Install,
    bare_environment,
    install,
    run,
)

ALL = tuple(PARTS)
SELECTIONS = [
    (),
    *itertools.combinations(ALL, 1),
    *itertools.combinations(ALL, 2),
    *itertools.combinations(ALL, len(ALL) - 1),
    ALL,
]


@pytest.mark.parametrize("parts", SELECTIONS, ids="+".join)
def test_every_selection_of_parts_is_whole(parts: tuple[str, ...]) -> None:
    contents = dict(plugin_files("quotas", parts))
    for path, text in contents.items():
        assert "«" not in text, path
        assert "package" not in path
        if path.endswith(".py"):
            compile(text, path, "exec")
    for part, module in PARTS.items():
        assert (f"src/earnorm_quotas/{module}.py" in contents) == (part in parts)
        assert (f"tests/test_{part}.py" in contents) == (part in parts)
    project = tomllib.loads(contents["pyproject.toml"])["project"]
    assert project["entry-points"]["earnorm.plugins"] == {"quotas": "earnorm_quotas:QuotasPlugin"}
    assert ("pydantic>=2.10" in project["dependencies"]) == bool({"settings", "field"} & {*parts})
    assert ("| `limit` |" in contents["README.md"]) == ("settings" in parts)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("Stamps", "is no name: small letters"),
        ("1stamps", "is no name"),
        ("stamps!", "is no name"),
        ("../stamps", "is no name"),
        ("a--b", "is no name"),
        ("", "is no name"),
        ("class", "is a word of Python"),
        ("earnorm-stamps", "leave out 'earnorm', which the distribution has before it: stamps"),
        ("earnorm", "leave out 'earnorm', which the distribution has before it: NAME"),
        ("database", "App has a parameter database"),
        ("max-pool-size", "App has a parameter max_pool_size"),
        ("core", "earnorm-core is the distribution of EarnORM itself"),
        ("uri", "has a parameter uri"),
        ("self", "has a parameter self"),
        ("test", "pytest takes a class TestPlugin for a class of tests"),
        ("test-data", "pytest takes a class TestDataPlugin for a class of tests"),
        ("watching", "the name of a feature"),
        ("model", "the name of a feature"),
        ("audit", "the name of a plugin of EarnORM"),
    ],
)
def test_a_name_that_no_plugin_can_have_is_wrong_usage(
    name: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    refused = run("new", "plugin", name)
    assert refused.exit_code == 2
    assert told in " ".join(refused.stderr.split())
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_part_is_wrong_usage(tmp_path: Path) -> None:
    refused = run("new", "plugin", "stamps", "--in", str(tmp_path), "--with", "field,modle")
    assert refused.exit_code == 2
    assert "there is no part 'modle'; did you mean 'model'?" in refused.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["folder", "file", "link"])
def test_nothing_is_overwritten(kind: str, tmp_path: Path) -> None:
    root = tmp_path / "earnorm-stamps"
    if kind == "folder":
        root.mkdir()
        (root / "README.md").write_text("mine")
    elif kind == "file":
        root.write_text("mine")
    else:
        root.symlink_to(tmp_path / "nowhere")
    before = sorted(tmp_path.rglob("*"))
    refused = run("new", "plugin", "stamps", "--in", str(tmp_path))
    assert refused.exit_code == 1
    assert "is there already, and nothing is overwritten" in refused.stderr
    assert len(refused.stderr.splitlines()) == 1
    assert sorted(tmp_path.rglob("*")) == before
    assert kind != "folder" or (root / "README.md").read_text() == "mine"


def test_a_name_that_is_taken_here_is_an_error(
    install: Install,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    install("stamps")
    refused = run("new", "plugin", "stamps", "--in", str(tmp_path))
    assert refused.exit_code == 1
    assert "a plugin 'stamps' is installed: earnorm-stamps 1.2" in refused.stderr
    (tmp_path / "earnorm_quotas.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    refused = run("new", "plugin", "quotas", "--in", str(tmp_path))
    assert "there is a package earnorm_quotas in this environment" in refused.stderr
    refused = run("new", "plugin", "letters", "--in", str(tmp_path / "nowhere"))
    assert "there is no folder" in refused.stderr
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize(
    ("template", "told"),
    [
        ("«unknown»", "no value is named 'unknown'"),
        ("«#field»\nx", "the section field does not end"),
        ("«#field»\n«/model»", "«/model» ends no section"),
        ("«/field»", "«/field» ends no section"),
    ],
)
def test_a_broken_template_is_an_error(template: str, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        render(template, {"name": "x"}, ())


def test_a_template_keeps_what_is_wanted() -> None:
    template = (
        "«name»\n«#field|model»\nof either\n«^model»\nno model\n«/model»\n«/field|model»\n"
        "«^any»\nnothing\n«/any»\nimport «list Always Field?field Not?^field Two?model|field»\n"
    )
    assert render(template, {"name": "x"}, ()) == "x\nnothing\nimport Always, Not\n"
    both = "x\nof either\nimport Always, Field, Two\n"
    assert render(template, {"name": "x"}, ("field", "model")) == both
    assert "no model" in render(template, {"name": "x"}, ("field",))
