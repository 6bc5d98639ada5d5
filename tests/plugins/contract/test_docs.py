"""docs/plugins.md: its programs run, and it has every name of earnorm.plugin."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

import earnorm.plugin
from earnorm.plugin import Way
from tests.cli.documentation import programs, run_program


@pytest.mark.parametrize("program", programs("plugins.md"))
def test_each_program_of_the_page_runs(program: str) -> None:
    server = os.environ["EARNORM_TEST_MONGO_URI"]  # tests/conftest.py has set it
    run_program(program.replace("mongodb://localhost:27017", server))


PAGE = (Path(__file__).parents[3] / "docs/plugins.md").read_text()


def test_every_name_for_plugins_stands_on_the_page() -> None:
    told = set(re.findall(r"\w+", " ".join(re.findall(r"`[^`\n]+`", PAGE))))
    assert set(earnorm.plugin.__all__) - told == set()


@pytest.mark.parametrize("way", Way)
def test_every_way_stands_on_the_page(way: Way) -> None:
    assert f"| `Way.{way.name}` | " in PAGE
