"""The tables of layers and stages say the same in the code and in the documentation."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import pytest

from earnorm import Layer
from earnorm.plugin import Stage

_DOCS = Path(__file__).parents[3] / "docs"
_LAYERS = [(each.name, each.value) for each in Layer]


@pytest.mark.parametrize(
    ("page", "row"),
    [
        ("plugins.md", r"^\| `Layer\.(\w+)` \| (\d+) \|"),
        ("architecture.md", r"^\| ([A-Z]+) \| (\d+) \|"),
    ],
)
def test_the_page_has_each_layer_with_its_number_in_order(page: str, row: str) -> None:
    rows = re.findall(row, (_DOCS / page).read_text(), re.MULTILINE)
    assert [(name, int(number)) for name, number in rows] == _LAYERS


def test_the_life_of_a_write_names_each_stage_in_order() -> None:
    text = (_DOCS / "architecture.md").read_text()
    life = text.partition("## The life of a write")[2].partition("```text")[2].partition("```")[0]
    assert re.findall(rf"\b({'|'.join(Stage.__members__)})\b", life) == list(Stage.__members__)


def test_the_layers_leave_gaps_for_those_of_plugins() -> None:
    numbers = [each.value for each in Layer]
    assert numbers == sorted(numbers)
    assert all(after - before >= 20 for before, after in itertools.pairwise(numbers))
