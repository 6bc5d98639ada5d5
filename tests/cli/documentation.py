"""The programs in a page of the documentation: each ``python`` block is run by itself."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def programs(page: str) -> list[str]:
    """The blocks of one page, in order."""
    found = BLOCK.findall((DOCS / page).read_text())
    assert found, f"docs/{page} has no program"
    return found


def run_program(program: str) -> None:
    """Run it in an interpreter of its own.

    Raises:
        AssertionError: It failed; the message is what it printed.
    """
    done = subprocess.run(
        (sys.executable, "-W", "error", "-c", program), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
