"""What the checkers find in the files beside this one: ``python -m tests.mistakes.peers PYTHON``.

PYTHON is an interpreter with ``pip install beanie sqlmodel sqlalchemy``. docs/typing.md has what was found.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

MARK = re.compile(r"# ([MR]\d+)$")
# What pyright's strict mode says of a library that is partly untyped, and not of the mistake.
OF_LIBRARIES = frozenset(
    {"reportUnknownMemberType", "reportUnknownArgumentType", "reportUnknownVariableType"}
)


def lines_of_mypy(path: Path, python: str) -> set[int]:
    """Return the numbers of the lines that mypy --strict flags."""
    options = ("--strict", "--no-error-summary", "--config-file=", "--python-executable", python)
    command = [sys.executable, "-m", "mypy", *options, path.name]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=path.parent)
    return set(map(int, re.findall(rf"{path.name}:(\d+): error", done.stdout)))


def lines_of_pyright(path: Path, python: str) -> set[int]:
    """Return the numbers of the lines that pyright flags."""
    command = [sys.executable, "-m", "pyright", "--pythonpath", python, "--outputjson", path.name]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=path.parent)
    return {
        each["range"]["start"]["line"] + 1
        for each in json.loads(done.stdout)["generalDiagnostics"]
        if each["severity"] == "error" and each.get("rule") not in OF_LIBRARIES
    }


def main(python: str) -> None:
    """Print each file's mistakes, and the right uses that are flagged."""
    for path in sorted(Path(__file__).parent.glob("with_*.py")):
        found = lines_of_mypy(path, python), lines_of_pyright(path, python)
        rows: dict[str, tuple[bool, bool]] = {}
        for number, line in enumerate(path.read_text().splitlines(), 1):
            if (mark := MARK.search(line)) is not None:
                rows[mark[1]] = (number in found[0], number in found[1])
        mistakes = {mark: seen for mark, seen in rows.items() if mark[0] == "M"}
        print(f"{path.name}: {sum(map(all, mistakes.values()))} of 45 are flagged by both")
        print("  by one:", *(mark for mark, seen in mistakes.items() if sum(seen) == 1))
        print("  by none:", *(mark for mark, seen in mistakes.items() if not any(seen)))
        print(
            "  right, and flagged:", *(m for m, seen in rows.items() if m[0] == "R" and any(seen))
        )


if __name__ == "__main__":
    main(sys.argv[1])
