"""The plugin packages of the house stand on the same faces as anybody's: nothing else of the core, nothing underscored."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
PACKAGES = [
    path
    for name in ("audit", "cache", "pool", "security")
    for path in ROOT.glob(f"earnorm-{name}/src/*")
    if (path / "__init__.py").exists()
]
FACES = {
    "earnorm",
    "earnorm.concerns",
    "earnorm.domain",
    "earnorm.exceptions",
    "earnorm.fields",
    "earnorm.files",
    "earnorm.models",
    "earnorm.plugin",
}


def nodes(package: Path) -> Iterator[tuple[str, ast.AST]]:
    for path in sorted(package.rglob("*.py")):
        if path.name == "driver_internals.py":
            continue  # the one place for what PyMongo has no public name for; it checks that it is there
        for node in ast.walk(ast.parse(path.read_text())):
            yield f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 0)}", node


def test_there_are_four_packages() -> None:
    assert len(PACKAGES) == 4


@pytest.mark.parametrize("package", PACKAGES, ids=lambda path: path.name)
def test_a_plugin_imports_the_faces_and_the_public_rooms_only(package: Path) -> None:
    wrong: list[str] = []
    for where, node in nodes(package):
        modules = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        wrong += [
            f"{where} {module}"
            for module in modules
            if module.partition(".")[0] == "earnorm" and module not in FACES
        ]
    assert not wrong


@pytest.mark.parametrize("package", PACKAGES, ids=lambda path: path.name)
def test_a_plugin_uses_no_underscored_name_but_its_own(package: Path) -> None:
    own: set[str] = set()
    used: dict[str, str] = {}
    for where, node in nodes(package):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            own.add(node.name)
        if not isinstance(node, ast.Attribute) or not node.attr.startswith("_"):
            continue
        if isinstance(node.value, ast.Name) and node.value.id in ("self", "cls"):
            own.add(node.attr)
        elif not node.attr.endswith("__"):
            used.setdefault(node.attr, where)
    assert {name: where for name, where in used.items() if name not in own} == {}
