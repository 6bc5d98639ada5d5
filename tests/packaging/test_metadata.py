"""What the five pyproject.toml files say, held together: versions, pins, extras, entry points, licence."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parents[2]
CORE = "earnorm-core"
PLUGINS = {
    "cache": "earnorm_cache:CachePlugin",
    "security": "earnorm_security:SecurityPlugin",
    "audit": "earnorm_audit:AuditPlugin",
    "pool": "earnorm_pool:PoolPlugin",
}
PACKAGES = {CORE: "earnorm"} | {f"earnorm-{name}": f"earnorm_{name}" for name in PLUGINS}
VERSION = "0.1.0"
LICENCE = "https://creativecommons.org/licenses/by-nc/4.0/"
KNOWN_HOSTS = {"creativecommons.org"}
LINK = re.compile(r"\]\(([^)\s]+)\)")
FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
# Import names whose distribution is named otherwise, or comes as an exactly pinned part of another.
DISTRIBUTIONS = {
    "bson": "pymongo",
    "gridfs": "pymongo",
    "pydantic_core": "pydantic",
    "mongomock": "mongomock-motor",
    "click": "typer",
}
# pytest comes with the extra that its fixtures are for; _typeshed is there for type checkers alone.
FRAMEWORKS = {"pytest", "_typeshed"}

each_package = pytest.mark.parametrize("package", PACKAGES)
each_plugin = pytest.mark.parametrize("plugin", PLUGINS)


def project(package: str) -> dict[str, Any]:
    with (ROOT / package / "pyproject.toml").open("rb") as file:
        table: dict[str, Any] = tomllib.load(file)["project"]
    return table


def source(package: str) -> Path:
    return ROOT / package / "src" / PACKAGES[package]


@each_package
def test_the_version_is_the_same_literal_in_metadata_and_code(package: str) -> None:
    assert project(package)["version"] == VERSION
    module = ast.parse((source(package) / "__init__.py").read_text())
    literals = [
        ast.literal_eval(node.value)
        for node in module.body
        if isinstance(node, ast.Assign)
        and [getattr(target, "id", None) for target in node.targets] == ["__version__"]
    ]
    assert literals == [VERSION]


@each_package
def test_every_package_states_its_name_licence_and_python(package: str) -> None:
    table = project(package)
    assert table["name"] == package
    assert table["license"] == "CC-BY-NC-4.0"
    assert table["license-files"] == ["LICENSE"]
    assert table["requires-python"] == ">=3.11"
    assert "dynamic" not in table


@each_package
def test_every_package_carries_the_whole_licence_a_readme_and_its_types(package: str) -> None:
    assert (ROOT / package / "LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()
    assert (ROOT / package / "README.md").read_text().startswith(f"# {package}\n")
    assert (source(package) / "py.typed").is_file()


@each_package
def test_every_package_has_the_same_links_and_none_to_a_place_that_nobody_named(
    package: str,
) -> None:
    urls = project(package)["urls"]
    assert urls == project(CORE)["urls"]
    assert urls["License"] == LICENCE
    # The owner has named no address of the project; one goes here and into KNOWN_HOSTS once there is.
    assert {urlsplit(url).hostname for url in urls.values()} <= KNOWN_HOSTS


@each_package
def test_every_link_of_a_package_readme_works_outside_of_the_repository(package: str) -> None:
    text = (ROOT / package / "README.md").read_text()
    targets = LINK.findall(FENCE.sub("", text))
    assert LICENCE in targets
    places = [urlsplit(target) for target in targets]
    assert {place.scheme for place in places} == {"https"}
    assert {place.hostname for place in places} <= KNOWN_HOSTS


def test_every_extra_of_a_package_is_in_its_readme() -> None:
    for package in PACKAGES:
        text = (ROOT / package / "README.md").read_text()
        for extra in project(package).get("optional-dependencies", {}):
            assert re.search(rf"`{extra}`|\[[\w,]*\b{extra}\b[\w,]*\]", text), (package, extra)
    front = (ROOT / "README.md").read_text()
    assert {e for e in project(CORE)["optional-dependencies"] if f"`{e}`" not in front} == set()


def test_the_licence_is_the_complete_legal_code() -> None:
    text = (ROOT / "LICENSE").read_text()
    assert text.startswith("Attribution-NonCommercial 4.0 International\n")
    positions = [text.find(f"\nSection {number} -- ") for number in range(1, 9)]
    assert -1 not in positions and positions == sorted(positions)
    assert text.endswith("Creative Commons may be contacted at creativecommons.org.\n")


@each_plugin
def test_a_plugin_pins_the_core_to_its_own_series(plugin: str) -> None:
    pins = [Requirement(text) for text in project(f"earnorm-{plugin}")["dependencies"]]
    assert [str(pin) for pin in pins if pin.name == CORE] == ["earnorm-core<0.2,>=0.1"]


@each_plugin
def test_a_plugin_registers_exactly_one_entry_point(plugin: str) -> None:
    entry_points = project(f"earnorm-{plugin}")["entry-points"]
    assert entry_points == {"earnorm.plugins": {plugin: PLUGINS[plugin]}}


def test_the_core_registers_its_command_and_no_plugin() -> None:
    table = project(CORE)
    assert table["scripts"] == {"earnorm": "earnorm.cli:main"}
    assert "entry-points" not in table


def test_the_core_depends_on_no_plugin() -> None:
    assert not [text for text in project(CORE)["dependencies"] if text.startswith("earnorm")]


TABLES = ("pandas", "polars", "arrow")
WEB = ("fastapi", "starlette", "flask", "django", "litestar")


def test_the_extras_are_those_of_plugins_command_line_memory_tests_tables_web_and_all() -> None:
    extras = project(CORE)["optional-dependencies"]
    assert set(extras) == {*PLUGINS, "cli", "memory", "testing", *TABLES, *WEB, "all"}
    for plugin in PLUGINS:
        assert extras[plugin] == [f"earnorm-{plugin}>=0.1,<0.2"]
    [everything] = map(Requirement, extras["all"])
    assert everything.name == CORE
    # No program runs with its tests, and few with every web framework.
    assert everything.extras == set(extras) - {"all", "testing", *WEB}


@each_package
def test_every_dependency_has_a_lower_bound(package: str) -> None:
    table = project(package)
    extras = table.get("optional-dependencies", {}).values()
    for text in [*table["dependencies"], *(item for extra in extras for item in extra)]:
        stated = Requirement(text)
        if stated.name == package:
            continue  # an extra made of other extras
        bounds = [one for one in stated.specifier if one.operator == ">="]
        assert len(bounds) == 1, f"{package}: {text}"
        assert Version(bounds[0].version) > Version("0")


@each_package
def test_a_package_imports_only_what_it_declares(package: str) -> None:
    table = project(package)
    extras = table.get("optional-dependencies", {}).values()
    declared = {
        Requirement(text).name
        for text in [*table["dependencies"], *(item for extra in extras for item in extra)]
    }
    own = {PACKAGES[package]} | ({"earnorm"} if package != CORE else set())
    undeclared = {
        f"{file.relative_to(ROOT)}: {name}"
        for file in source(package).rglob("*.py")
        for name in imported(ast.parse(file.read_text()))
        if name not in sys.stdlib_module_names | own | FRAMEWORKS
        and DISTRIBUTIONS.get(name, name.replace("_", "-")) not in declared
    }
    assert undeclared == set()


def imported(tree: ast.AST) -> Iterator[str]:
    """Yield the top name of everything that a module imports."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.module.partition(".")[0]
