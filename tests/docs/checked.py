"""Runs mypy --strict and pyright over every Python block of the pages and every example: ``python -m tests.docs.checked``.

All of them are written into one directory, so that each checker runs once. A line that is there to show a mistake says so
with ``# type: ignore[...]``, which readers see, too.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.docs.blocks import ROOT, blocks, projects

EXAMPLES = ROOT / "examples"
_NOT_WORD = re.compile(r"\W")
_MYPY_LINE = re.compile(r"^(?P<file>[^:]+):(?P<line>\d+)(?::\d+)?: error: (?P<text>.*)$")


def write_blocks(directory: Path) -> dict[str, str]:
    """Write every block; return the page of each file by the file's name.

    A block has its line numbers from its page, by empty lines in front of it.
    """
    pages: dict[str, str] = {}
    for block in blocks():
        name = f"{_NOT_WORD.sub('_', block.page)}_{block.line}.py"
        (directory / name).write_text("\n" * (block.line - 1) + block.code)
        pages[name] = block.page
    return pages


def write_projects(directory: Path) -> dict[str, str]:
    """Write the files that a page shows as a project; return the page of each file by the file's name."""
    pages: dict[str, str] = {}
    for page, files in projects().items():
        for name, text in files.items():
            if name.endswith(".py"):
                assert name not in pages, f"{page} and {pages.get(name)} show a file {name}"
                (directory / name).write_text(text)
                pages[name] = page
    return pages


def inside(file: str, directory: Path) -> str:
    """Return the path of a file from the directory or, of an example, from the root."""
    path = (ROOT / file).resolve()
    base = directory.resolve() if path.is_relative_to(directory.resolve()) else ROOT
    return path.relative_to(base).as_posix()


def environment(directory: Path) -> dict[str, str]:
    """Return the environment in which the files of a page find each other, and so do those of an example."""
    sources = [directory, ROOT, *EXAMPLES.glob("*/src")]
    path = os.pathsep.join(map(str, sources))
    known = os.environ.get("PYTHONPATH", "")
    return {**os.environ, "MYPYPATH": path, "PYTHONPATH": f"{path}{os.pathsep}{known}"}


def mypy(paths: list[Path], directory: Path) -> list[tuple[str, int, str]]:
    """Return the errors of mypy --strict: the file's name, the line and the text."""
    # What hooks of plugins look like without annotations is shown, too; their bodies are checked.
    untyped = ["--allow-untyped-defs", "--allow-incomplete-defs", "--allow-untyped-calls"]
    options = ["--strict", *untyped, "--no-error-summary", "--no-pretty", "--config-file="]
    options += ["--explicit-package-bases", "--namespace-packages"]
    command = [sys.executable, "-m", "mypy", *options, *map(str, paths)]
    env = environment(directory)
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    if done.returncode not in (0, 1):
        raise SystemExit(done.stdout + done.stderr)
    found = [_MYPY_LINE.match(line) for line in done.stdout.splitlines()]
    return [
        (inside(m["file"], directory), int(m["line"]), m["text"]) for m in found if m is not None
    ]


def pyright(paths: list[Path], directory: Path) -> list[tuple[str, int, str]]:
    """Return the errors of pyright: the file's name, the line and the text."""
    command = [sys.executable, "-m", "pyright", "--pythonpath", sys.executable, "--outputjson"]
    done = subprocess.run(
        [*command, *map(str, paths)],
        cwd=ROOT,
        env=environment(directory),
        capture_output=True,
        text=True,
        check=False,
    )
    return [
        (
            Path(each["file"]).name,
            each["range"]["start"]["line"] + 1,
            each["message"].splitlines()[0],
        )
        for each in json.loads(done.stdout)["generalDiagnostics"]
        if each["severity"] == "error"
    ]


def main() -> int:
    """Print what the checkers find, with the page and its line; return 1 if they find something."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        pages = write_blocks(directory) | write_projects(directory)
        paths = [*(directory / file for file in pages), *sorted(EXAMPLES.rglob("*.py"))]
        found = [("mypy", *each) for each in mypy(paths, directory)]
        found += [("pyright", *each) for each in pyright(paths, directory)]
    for checker, file, line, text in sorted(found, key=lambda each: (each[1], each[2])):
        print(f"{pages.get(file, file)}:{line}: {checker}: {text}")
    print(f"{len(paths)} blocks and files of examples, {len(found)} errors")
    return int(bool(found))


if __name__ == "__main__":
    os.environ.setdefault("PYRIGHT_PYTHON_IGNORE_WARNINGS", "1")
    sys.exit(main())
