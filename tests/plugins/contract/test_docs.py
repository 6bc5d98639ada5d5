"""docs/plugins.md: its programs run, and it has every name of earnorm.plugin."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import get_args

import pytest

import earnorm
import earnorm.plugin
from earnorm.plugin import Layer, OperationName, Options, Stage, Way
from tests.cli.documentation import programs, run_program


@pytest.mark.parametrize("program", programs("plugins.md"))
def test_each_program_of_the_page_runs(program: str) -> None:
    server = os.environ["EARNORM_TEST_MONGO_URI"]  # tests/conftest.py has set it
    run_program(program.replace("mongodb://localhost:27017", server))


SOURCES = "".join(
    file.read_text()
    for room in ("features", "model")
    for file in sorted((Path(earnorm.__file__).parent / room).rglob("*.py"))
)
PAGE = (Path(__file__).parents[3] / "docs/plugins.md").read_text()


def test_every_name_for_plugins_stands_on_the_page() -> None:
    told = set(re.findall(r"\w+", " ".join(re.findall(r"`[^`\n]+`", PAGE))))
    assert set(earnorm.plugin.__all__) - told == set()


@pytest.mark.parametrize("way", Way)
def test_every_way_stands_on_the_page(way: Way) -> None:
    assert f"| `Way.{way.name}` | " in PAGE


def table(heading: str) -> list[list[str]]:
    """The cells of the rows of the table whose heading begins so."""
    after = PAGE.split(f"\n| {heading}", 1)[1].split("\n\n", 1)[0].splitlines()[2:]
    return [[cell.strip() for cell in row.strip("| ").split(" | ")] for row in after]


def names(cells: Iterable[str]) -> list[str]:
    """The names in the cells, in order."""
    return [name for cell in cells for name in re.findall(r"`([\w.]+)`", cell)]


def test_the_table_of_layers_is_that_of_the_kernel() -> None:
    rows = [(name, int(number)) for name, number, _ in table("layer | number")]
    assert rows == [(f"`Layer.{layer.name}`", int(layer)) for layer in Layer]


def test_every_stage_has_a_row_in_order() -> None:
    rows = [*table("value stage |"), *table("document stage |")]
    assert names(row[0] for row in rows) == [f"Stage.{stage.name}" for stage in Stage]


def test_every_option_of_an_operation_has_a_row() -> None:
    told = names(row[0] for row in table("an option in `op.options`"))
    assert sorted(told) == sorted(option.name for option in dataclasses.fields(Options))


def test_the_values_of_every_operation_are_told() -> None:
    told = {name for row in table("operation | `op.values`") for name in names(row[:1])}
    assert told == set(get_args(OperationName))


def test_every_origin_of_an_operation_that_a_feature_makes_has_a_row() -> None:
    told = set(names(row[0] for row in table("`op.origin`")))
    made = set(re.findall(r'(?:made_by\(|origin=)"(\w+)"', SOURCES))
    assert {"bulk", "computed", "model"} <= made
    assert made - told == set()


def test_the_table_at_the_end_has_every_name_of_the_module() -> None:
    told = {name for row in table("what for | names") for name in re.findall(r"`(\w+)", row[1])}
    assert set(earnorm.plugin.__all__) - told == set()


def test_an_argument_in_the_table_at_the_end_is_written_with_its_default() -> None:
    checked = []
    for row in table("what for | names"):
        for call in re.findall(r"`(\w+\([^`]*\))`", row[1]):
            parsed = ast.parse(call, mode="eval").body
            assert isinstance(parsed, ast.Call) and isinstance(parsed.func, ast.Name)
            if parsed.func.id not in earnorm.plugin.__all__:
                continue
            function = getattr(earnorm.plugin, parsed.func.id)
            parameters = inspect.signature(function).parameters
            for keyword in parsed.keywords:
                assert keyword.arg in parameters, call
                assert ast.literal_eval(keyword.value) == parameters[keyword.arg].default, call
                checked.append(call)
    assert len(checked) >= 3
