"""docs/plugins.md: its programs run."""

from __future__ import annotations

import pytest

from tests.cli.documentation import programs, run_program


@pytest.mark.parametrize("program", programs("plugins.md"))
def test_each_program_of_the_page_runs(program: str) -> None:
    run_program(program)
