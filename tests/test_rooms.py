"""The rooms of the core and the arrows between them, read from every import that runs, in functions too."""

from __future__ import annotations

import ast
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

CORE = Path(__file__).parents[1] / "earnorm-core" / "src" / "earnorm"

# From the lowest to the highest; what stands in one line may not import what stands below it in this list.
ROOMS: tuple[frozenset[str], ...] = (
    frozenset({"exceptions", "concerns", "bounded", "traffic"}),
    frozenset({"domain"}),
    frozenset({"fields"}),
    frozenset({"backends"}),
    frozenset({"kernel"}),
    frozenset({"model"}),
    frozenset({"features"}),
    frozenset({"application", "files", "mixins", "models", "moved", "plugin", "sync", "untrusted"}),
    frozenset({"", "cli", "testing", "integrations"}),
)
# Their methods may hand over to a feature, in one line each.
HANDING_OVER = ("model.base", "model.query", "model.recordset")


def modules() -> dict[str, Path]:
    """Return the modules of the core by name, without the package's own: ``""`` is its face."""
    return {
        ".".join(file.relative_to(CORE).with_suffix("").parts)
        .removesuffix("__init__")
        .strip("."): file
        for file in sorted(CORE.rglob("*.py"))
    }


MODULES = modules()


def _is_for_checkers(node: ast.stmt) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"


def imported(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Yield each import of the core that can run: the module, and its line."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.stmt) and _is_for_checkers(node):
            for other in node.orelse:  # type: ignore[attr-defined] # an If
                yield from imported(other)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "earnorm":
            source = (node.module or "").removeprefix("earnorm").strip(".")
            for alias in node.names:
                inner = f"{source}.{alias.name}".strip(".")
                yield inner if inner in MODULES else source, node.lineno
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] == "earnorm":
                    yield alias.name.removeprefix("earnorm").strip("."), node.lineno
        else:
            yield from imported(node)


def handovers(tree: ast.Module) -> set[int]:
    """Return the lines of imports in methods that do nothing but import and return one call."""
    found: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            body = [
                s
                for s in node.body
                if not (isinstance(s, ast.Expr) and isinstance(s.value, ast.Constant))
            ]
            if (
                len(body) == 2
                and isinstance(body[0], ast.ImportFrom)
                and isinstance(body[1], ast.Return)
            ):
                found.add(body[0].lineno)
    return found


def arrows() -> dict[str, set[str]]:
    """Return what each module imports, the one-line methods left out."""
    found: dict[str, set[str]] = {}
    for name, file in MODULES.items():
        tree = ast.parse(file.read_text())
        over = handovers(tree) if name in HANDING_OVER else set()
        targets = {
            m for m, line in imported(tree) if not (line in over and m.startswith("features."))
        }
        found[name] = targets - {name}
    return found


ARROWS = arrows()


def rank(module: str) -> int:
    room = module.partition(".")[0]
    return next(number for number, rooms in enumerate(ROOMS) if room in rooms)


def test_every_module_lies_in_a_room() -> None:
    for module in MODULES:
        rank(module)


def test_arrows_run_one_way() -> None:
    wrong = [
        f"{module} -> {target}"
        for module, targets in ARROWS.items()
        for target in sorted(targets)
        if rank(target) > rank(module)
    ]
    assert not wrong


def _features() -> dict[str, set[str]]:
    """Return for each feature the other features that it imports."""
    found: dict[str, set[str]] = {}
    for module, targets in ARROWS.items():
        room, _, rest = module.partition(".")
        if room == "features" and rest:
            own = rest.partition(".")[0]
            others = {t.split(".")[1] for t in targets if t.startswith("features.")} - {own}
            found.setdefault(own, set()).update(others)
    return found


@pytest.mark.parametrize("feature", sorted(_features()))
def test_a_feature_imports_only_those_that_its_docstring_says_it_builds_on(feature: str) -> None:
    said = ast.get_docstring(ast.parse((CORE / "features" / feature / "__init__.py").read_text()))
    assert said
    for other in _features()[feature]:
        assert "uilds on" in said and f"``{other}``" in said, f"{feature} imports {other}"


def rings(graph: Mapping[str, set[str]]) -> list[list[str]]:
    """Return the strongly connected parts of more than one module (Tarjan 1972)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for target in graph.get(node, ()):
            if target not in index:
                visit(target)
                low[node] = min(low[node], low[target])
            elif target in stack:
                low[node] = min(low[node], index[target])
        if low[node] == index[node]:
            part = [stack.pop()]
            while part[-1] != node:
                part.append(stack.pop())
            if len(part) > 1:
                found.append(sorted(part))

    for node in graph:
        if node not in index:
            visit(node)
    return found


def test_no_ring_of_features() -> None:
    assert rings(_features()) == []


def test_no_ring_of_more_than_two_modules() -> None:
    # The face names everything and is imported by nobody inside.
    inside = {m: t - {""} for m, t in ARROWS.items() if m}
    assert [ring for ring in rings(inside) if len(ring) > 2] == []


# What the options of fields and the attributes of models mean, their features know.
READ_BY_FEATURES = frozenset(
    {"auto_now", "auto_now_add", "computed", "delegated", "on_delete"}
    | {"_discriminator", "_inherits", "_parent_store", "_soft_delete", "_versioned"}
)


@pytest.mark.parametrize("room", ["backends", "domain", "kernel", "model"])
def test_what_a_feature_is_told_by_a_model_is_read_by_features_only(room: str) -> None:
    read = [
        f"{name}:{node.lineno}: .{node.attr}"
        for name, file in MODULES.items()
        if name.partition(".")[0] == room
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Attribute) and node.attr in READ_BY_FEATURES
    ]
    assert read == []


def in_the_kernel(module: str) -> str:
    """Return the room of the kernel that a module lies in, or the module of its heart."""
    kernel, _, rest = module.partition(".")
    return rest.partition(".")[0] if kernel == "kernel" else ""


def test_no_ring_of_rooms_in_the_kernel() -> None:
    graph: dict[str, set[str]] = {}
    for module, targets in ARROWS.items():
        if room := in_the_kernel(module):
            graph.setdefault(room, set()).update(set(map(in_the_kernel, targets)) - {room, ""})
    assert {"transactions", "contract"} < set(graph)
    assert rings(graph) == []


PLUGINS = sorted(Path(__file__).parents[1].glob("earnorm-*/src/earnorm_*"))
PUBLIC = frozenset({"", "plugin", "domain", "fields", "models", "exceptions"})


def named(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Yield each module of the core that a module of a plugin imports, for type checkers, too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            names = [(node.module or "", [alias.name for alias in node.names])]
        elif isinstance(node, ast.Import):
            names = [(alias.name, [""]) for alias in node.names]
        else:
            continue
        for module, imported_names in names:
            package, _, rest = module.partition(".")
            if package == "earnorm":
                for name in imported_names:
                    inner = f"{rest}.{name}".strip(".")
                    yield inner if inner in MODULES else rest, node.lineno


@pytest.mark.parametrize("package", PLUGINS, ids=lambda package: package.name)
def test_a_plugin_imports_public_rooms_only(package: Path) -> None:
    imports = [
        (f"{file.name}:{line}", module)
        for file in package.rglob("*.py")
        for module, line in named(ast.parse(file.read_text()))
    ]
    assert [place for place in imports if place[1] not in PUBLIC] == []
    assert imports, "a plugin imports something of the core"


def test_lint_forbids_plugins_every_room_that_is_not_public() -> None:
    settings = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())
    contracts = {c["id"]: c for c in settings["tool"]["importlinter"]["contracts"]}
    contract = contracts["plugin-rooms"]
    rooms = {name.partition(".")[0] for name in MODULES} - PUBLIC
    inner = {"earnorm.domain.*", "earnorm.fields.*"}
    assert set(contract["forbidden_modules"]) == {f"earnorm.{room}" for room in rooms} | inner
    assert sorted(contract["source_modules"]) == sorted(package.name for package in PLUGINS)
