"""What the type checkers find in ``documented.py`` and ``annotated.py``: ``python -m tests.mistakes`` prints the table, and fails where it changed."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

MARK = re.compile(r"# (M\d\d) (unseen: )?(.*)")
FILES = ("documented.py", "annotated.py")


def lines_of_mypy(path: Path) -> set[int]:
    """Return the numbers of the lines that mypy --strict flags."""
    options = ("--strict", "--no-error-summary", f"--cache-dir={os.devnull}")
    command = [sys.executable, "-m", "mypy", *options, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode not in (0, 1):
        raise SystemExit(done.stdout + done.stderr)
    return set(map(int, re.findall(rf"{path.name}:(\d+): error", done.stdout)))


def lines_of_pyright(path: Path) -> set[int]:
    """Return the numbers of the lines that pyright flags."""
    command = [
        sys.executable,
        "-m",
        "pyright",
        "--pythonpath",
        sys.executable,
        "--outputjson",
        str(path),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return {
        each["range"]["start"]["line"] + 1
        for each in json.loads(done.stdout)["generalDiagnostics"]
        if each["severity"] == "error"
    }


def main() -> int:
    """Print the table of each file; return 1 if a line is flagged and should not be, or the other way round."""
    wrong: list[str] = []
    for name in FILES:
        path = Path(__file__).with_name(name)
        found = {"mypy": lines_of_mypy(path), "pyright": lines_of_pyright(path)}
        print(f"{name:<60} {'mypy':>8} {'pyright':>8}")
        flagged = number = 0
        for line, text in enumerate(path.read_text().splitlines(), 1):
            mark = MARK.search(text)
            seen = [line in lines for lines in found.values()]
            is_expected = mark is not None and not mark[2]
            if mark is not None:
                number += 1
                flagged += all(seen)
                cells = " ".join(f"{'flagged' if each else '-':>8}" for each in seen)
                print(f"{mark[1]} {mark[3]:<56} {cells}")
            if seen != [is_expected] * len(seen):
                wrong.append(f"{name}:{line}: {text.strip()}")
        print(f"{flagged} of {number} mistakes are flagged by both\n")
    print("\n".join(wrong and ["otherwise than its comment says:", *wrong]))
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
