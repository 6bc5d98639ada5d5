"""The golden list of 300 generated writes: what each asks of the layers' end and of the server, and what comes of it.

What it is made of says golden_writes.py; `python -m tests.core.golden_writes` writes it anew, for a change that is meant.
"""

from __future__ import annotations

import difflib
import re
import subprocess
import sys
from pathlib import Path

import pytest

from .conftest import DRIVERS

ROOT = Path(__file__).parents[2]
LIST = Path(__file__).parent / "golden" / "writes.txt"
SHOWN = 5


def blocks(text: str) -> dict[str, list[str]]:
    """Give the lines of each write by its heading."""
    found = [block.splitlines() for block in text.strip().split("\n\n")]
    return {lines[0]: lines[1:] for lines in found}


def differences(expected: str, found: str) -> list[str]:
    """Give each block that differs, with the lines that do and those around them."""
    before, after = blocks(expected), blocks(found)
    told: list[str] = []
    for name in dict.fromkeys([*before, *after]):
        one, other = before.get(name, []), after.get(name, [])
        if one != other:
            lines = difflib.unified_diff(one, other, "expected", "found", n=4, lineterm="")
            told.append("\n".join([name, *list(lines)[2:]]))
    return told


def made(driver: str) -> str:
    """Make the list, in a process of its own: what other tests define or note is no part of it."""
    command = [sys.executable, "-m", "tests.core.golden_writes", "--driver", driver, "--print"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode()


@pytest.mark.parametrize("driver", DRIVERS)
def test_each_write_does_what_it_did(driver: str) -> None:
    expected, found = LIST.read_text(encoding="utf-8"), made(driver)
    if found != expected:
        told = differences(expected, found)
        more = f"\n\n… and {len(told) - SHOWN} more" if len(told) > SHOWN else ""
        pytest.fail(
            f"{len(told)} of the writes differ from {LIST.name}; where that is meant, write it anew:\n"
            "python -m tests.core.golden_writes\n\n" + "\n\n".join(told[:SHOWN]) + more,
            pytrace=False,
        )


def test_the_list_has_300_writes_of_every_way() -> None:
    found = blocks(LIST.read_text(encoding="utf-8"))
    assert len(found) == 300
    calls = "\n".join(lines[0] for lines in found.values())
    for way in (
        *("create", "create_many", "save", "write", "write_many", "update", "toggle", "copy"),
        *("upsert", "upsert_many", "bulk", "unlink", "delete"),
    ):
        assert len(re.findall(rf"\.{way}\(", calls)) >= 4, way
    lines = [line for each in found.values() for line in each]
    for command in ("insert", "update", "delete", "find", "aggregate", "findAndModify", "getMore"):
        assert any(line.startswith(f"   > {command} ") for line in lines), command
