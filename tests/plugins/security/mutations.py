"""Switches each guard of guards.py off, one after the other, and demands that its tests fail.

``nox -s mutation`` runs it; ``python -m tests.plugins.security.mutations NAME …`` takes some of them.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from tests.plugins.security.guards import GUARDS, VARIABLE

FOLDER: Final = Path(__file__).parent
ROOT: Final = FOLDER.parents[2]
_FAILED: Final = re.compile(r"^FAILED \S*/(?P<test>\w+\.py::\w+)(?P<error>.*)$", re.MULTILINE)
_BROKEN: Final = re.compile(r"\b(TypeError|AttributeError|NameError|ImportError|RecursionError)\b")
"""The errors of a replacement that does not fit any more, and so switches nothing off."""


def failures(tests: Sequence[str], off: str = "") -> Mapping[str, str]:
    """Run tests in a process of its own, with a guard switched off.

    Args:
        tests: The tests, as ``file::function``.
        off: The name of the guard; empty for none.

    Returns:
        The tests that failed, each with the line that pytest tells of it.

    Raises:
        RuntimeError: Pytest could not run them.
    """
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "no:xdist"]
    command += ["-q", "-rf", "--tb=no", "--no-header", *(str(FOLDER / test) for test in tests)]
    environment = {**os.environ, VARIABLE: off, "COLUMNS": "400"}
    ran = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=600
    )
    if ran.returncode not in (0, 1):
        raise RuntimeError(f"{' '.join(tests)}: pytest ended with {ran.returncode}\n{ran.stdout}")
    return {match["test"]: match["error"] for match in _FAILED.finditer(ran.stdout)}


def problems(tests: Sequence[str], failed: Mapping[str, str]) -> list[str]:
    """Return what is wrong with the tests of a guard: they stay green, or fail for another reason."""
    green = [f"{test} stays green" for test in tests if test not in failed]
    return green + [f"{test}{line}" for test, line in failed.items() if _BROKEN.search(line)]


def main(names: Sequence[str]) -> int:
    """Print what holds, and return the number of guards that nothing holds."""
    wanted = names or list(GUARDS)
    tests = sorted({test for name in wanted for test in GUARDS[name].tests})
    red = failures(tests)
    if red:
        print(f"with every guard on, these fail: {', '.join(red)}")
        return 1
    print(f"{len(tests)} tests pass with every guard on")
    bad = 0
    for name in wanted:
        begun = time.monotonic()
        failed = failures(GUARDS[name].tests, name)
        wrong = problems(GUARDS[name].tests, failed)
        bad += bool(wrong)
        print(f"{'WRONG' if wrong else 'ok':5} {name} ({time.monotonic() - begun:.0f} s)")
        for line in wrong or [f"{test}{error[:150]}" for test, error in failed.items()]:
            print(f"      {line}")
    print(f"{len(wanted) - bad} of {len(wanted)} guards are held by tests")
    return bad


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
