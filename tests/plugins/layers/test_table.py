"""The table of layers says the same in the code and in docs/plugins.md."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

from earnorm import Layer

_PAGE = Path(__file__).parents[3] / "docs" / "plugins.md"


def test_the_page_has_each_layer_with_its_number_in_order() -> None:
    rows = re.findall(r"^\| `Layer\.(\w+)` \| (\d+) \|", _PAGE.read_text(), re.MULTILINE)
    assert [(name, int(number)) for name, number in rows] == [
        (each.name, each.value) for each in Layer
    ]


def test_the_layers_leave_gaps_for_those_of_plugins() -> None:
    numbers = [each.value for each in Layer]
    assert numbers == sorted(numbers)
    assert all(after - before >= 20 for before, after in itertools.pairwise(numbers))
