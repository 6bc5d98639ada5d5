"""Every error has a stable code and an HTTP status, and docs/errors.md has a row for each."""

from __future__ import annotations

import ast
import copy
import pickle
import re
from pathlib import Path

from earnorm import exceptions

ROOT = Path(__file__).parents[2]
ROW = re.compile(r"^\| `(\w+)` \| `(\w+)` \| (\d{3}) \| ", re.MULTILINE)
ERRORS = {
    name: error
    for name, error in vars(exceptions).items()
    if isinstance(error, type) and issubclass(error, exceptions.EarnORMError)
}
ROWS = {
    code: (error, int(status))
    for code, error, status in ROW.findall((ROOT / "docs/errors.md").read_text())
}
PLACES = (
    *("kernel/attributes", "kernel/document_steps", "kernel/durable", "kernel/loading"),
    *("kernel/operations", "kernel/reading", "kernel/steps", "kernel/value_steps"),
    *("features/computed/plugin", "model/declaring"),
)
"""The modules in which each of these errors has a narrower code."""
BROAD = {"ConfigurationError", "NotSupported", "PluginError"}
CODED = re.compile(r"""\.coded\(\s*["'](\w+)["']""")


def test_each_class_has_a_code_of_its_own_and_a_row() -> None:
    concrete = {name: error for name, error in ERRORS.items() if name != "EarnORMError"}
    codes = {error.code: name for name, error in concrete.items()}
    assert len(codes) == len(concrete)
    for code, name in codes.items():
        assert ROWS[code] == (name, ERRORS[name].status)


def test_each_narrower_code_has_a_row_and_no_row_is_left_over() -> None:
    narrower = {
        code
        for file in ROOT.glob("earnorm-*/src/**/*.py")
        for code in CODED.findall(file.read_text())
    }
    assert {error.code for error in ERRORS.values()} | narrower == {"error", *ROWS}
    for code in narrower:
        name, status = ROWS[code]
        assert ERRORS[name].status == status


def test_a_narrower_code_stays_with_the_error() -> None:
    error = exceptions.PluginError("x").coded("circular_steps")
    assert (
        error.code
        == copy.copy(error).code
        == pickle.loads(pickle.dumps(error)).code
        == "circular_steps"
    )
    assert exceptions.PluginError("x").code == "plugin"


def test_what_plugins_do_wrong_has_a_narrower_code() -> None:
    broad: list[str] = []
    for place in PLACES:
        source = (ROOT / f"earnorm-core/src/earnorm/{place}.py").read_text()
        tree = ast.parse(source)
        coded = {
            id(node.value)
            for node in ast.walk(tree)
            if isinstance(node, ast.Attribute) and node.attr == "coded"
        }
        broad += [
            f"{place}:{node.lineno}"
            for node in ast.walk(tree)
            if isinstance(node, ast.Call)
            and isinstance(node.func, ast.Name)
            and node.func.id in BROAD
            and id(node) not in coded
        ]
    assert not broad
