"""docs/cli.md: its program runs, and its tables name what is there."""

from __future__ import annotations

import pytest

from earnorm.cli.application import application
from tests.cli.documentation import DOCS, programs, run_program


@pytest.mark.parametrize("program", programs("cli.md"))
def test_each_program_of_the_page_runs(program: str) -> None:
    run_program(program)


def test_each_command_of_the_core_has_a_row() -> None:
    page = (DOCS / "cli.md").read_text()
    names = [c.name or c.callback.__name__ for c in application.registered_commands if c.callback]
    assert names == ["models", "recompute", "version", "plugins", "doctor"]
    assert [name for name in names if f"| `earnorm {name}" not in page] == []
