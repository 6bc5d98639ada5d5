"""What README.md and docs/ show with plugins is executed."""

from __future__ import annotations

from ast import literal_eval
from collections.abc import Iterator

import pytest

from earnorm import App
from earnorm.kernel.contract.attributes import brought_attributes
from tests.docs.blocks import Block, Runs, blocks
from tests.docs.tables import rows

PLUGIN_BLOCKS = [block for block in blocks() if block.needs_plugins]


@pytest.fixture(scope="module")
def runs() -> Iterator[Runs]:
    found = Runs(PLUGIN_BLOCKS, {})
    yield found
    found.close()


@pytest.mark.parametrize("block", PLUGIN_BLOCKS, ids=str)
def test_a_block_of_the_documentation_runs_as_it_stands(runs: Runs, block: Block) -> None:
    runs.check(block)


def test_the_table_of_class_attributes_has_the_defaults_of_plugins() -> None:
    app = App("mongomock://", database="x", plugins=["security", "audit", "cache", "pool"])
    brought = {a.attribute.name: a for a in brought_attributes(app.loaded, ())}
    table = {
        cells[0].strip("`"): cells for cells in rows("docs/models.md", "## Class attributes", 1)
    }
    assert brought.keys() <= table.keys()
    for name, (plugin, attribute) in brought.items():
        _, default, page, _ = table[name]
        assert literal_eval(default.strip("`")) == attribute.default and f"[{plugin}]" in page
