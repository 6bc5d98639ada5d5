"""Finds the ``python`` blocks of README.md and docs/*.md, and runs each as a program of its own.

Blocks that begin with the name of a file, as ``# test_shop.py``, are the files of one project for each page,
whose tests pytest runs.

Two things are changed in a block before it runs: the address of the server, and the name of its
database, which is a new one and dropped afterwards.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import uuid
from collections.abc import Collection, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pymongo import MongoClient

ROOT = Path(__file__).parents[2]
PLUGIN_PAGES = frozenset(f"docs/{name}.md" for name in ("security", "audit", "cache", "pool"))
PLUGIN_PACKAGES = re.compile(r"earnorm_(security|audit|cache|pool)|plugins=\[\"|earnorm\.pool")
SERVER = "mongodb://localhost:27017"
SECONDS = 180
AT_ONCE = 2

_BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_FILE = re.compile(
    r"^```(?:python|toml)\n(# ([\w./]+\.(?:py|toml))\n.*?)^```$", re.MULTILINE | re.DOTALL
)
_DATABASE = re.compile(r"(database=|\"database\": )\"[^\"]+\"")


@dataclass(frozen=True)
class Block:
    """One ``python`` block.

    Attributes:
        page: The page's path from the root.
        line: Where the block begins.
        code: What stands in it.
    """

    page: str
    line: int
    code: str

    @property
    def needs_plugins(self) -> bool:
        """Whether it runs with the core alone."""
        return self.page in PLUGIN_PAGES or bool(PLUGIN_PACKAGES.search(self.code))

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


SHOWN_BY_PACKAGES = ("earnorm-core/README.md", "earnorm-audit/README.md")
"""The READMEs of packages whose blocks are whole programs."""


def pages() -> list[Path]:
    """The pages that are held to the code."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks() -> list[Block]:
    """Every ``python`` block of every page, and of the READMEs of packages."""
    found: list[Block] = []
    for page in [*pages(), *(ROOT / name for name in SHOWN_BY_PACKAGES)]:
        text = page.read_text()
        name = page.relative_to(ROOT).as_posix()
        for match in _BLOCK.finditer(text):
            if _FILE.match(match[0]):
                continue
            found.append(Block(name, text.count("\n", 0, match.start(1)) + 1, match[1]))
    return found


def projects() -> dict[str, dict[str, str]]:
    """The files that pages show, by their names, for each page that shows some."""
    found: dict[str, dict[str, str]] = {}
    for page in pages():
        files = {match[2]: match[1] for match in _FILE.finditer(page.read_text())}
        if any(name.startswith("test_") for name in files):
            found[page.relative_to(ROOT).as_posix()] = files
    return found


def run(block: Block, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a block in a process of its own, on a database of its own."""
    uri = os.environ["EARNORM_TEST_MONGO_URI"]
    database = f"docs_{uuid.uuid4().hex[:12]}"
    code = block.code.replace(SERVER, uri)
    code, named = _DATABASE.subn(rf'\g<1>"{database}"', code)
    # Empty lines in front, so that a traceback tells the page's own line.
    code = "\n" * (block.line - 1) + code
    try:
        return subprocess.run(
            [sys.executable, "-W", "error::ResourceWarning", "-c", code],
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            check=False,
            timeout=SECONDS,
        )
    finally:
        if named:
            with MongoClient[dict[str, Any]](uri) as client:
                client.drop_database(database)


class Runs:
    """The runs of many blocks, a few at once; each is asked for by its block."""

    def __init__(self, chosen: Collection[Block], environment: Mapping[str, str]) -> None:
        self._pool = ThreadPoolExecutor(AT_ONCE)
        self._runs: dict[Block, Future[subprocess.CompletedProcess[str]]] = {
            block: self._pool.submit(run, block, **environment) for block in chosen
        }

    def close(self) -> None:
        """Wait for what runs, and drop what has not begun."""
        self._pool.shutdown(cancel_futures=True)

    def check(self, block: Block) -> None:
        """Fail with what the block said, unless it ended well."""
        done = self._runs[block].result()
        assert done.returncode == 0, f"{block}\n{done.stdout}{done.stderr}"
