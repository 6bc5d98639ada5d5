"""What README.md and docs/ show with plugins is executed."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.docs.blocks import Block, Runs, blocks

PLUGIN_BLOCKS = [block for block in blocks() if block.needs_plugins]


@pytest.fixture(scope="module")
def runs() -> Iterator[Runs]:
    found = Runs(PLUGIN_BLOCKS, {})
    yield found
    found.close()


@pytest.mark.parametrize("block", PLUGIN_BLOCKS, ids=str)
def test_a_block_of_the_documentation_runs_as_it_stands(runs: Runs, block: Block) -> None:
    runs.check(block)
