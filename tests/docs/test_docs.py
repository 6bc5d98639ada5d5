"""What README.md and docs/ show with the core alone is executed; links lead somewhere."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docs.blocks import ROOT, Block, Runs, blocks, pages, projects
from tests.docs.typed import copies

PROJECTS = projects()
CORE_BLOCKS = [block for block in blocks() if not block.needs_plugins]
LINK = re.compile(r"\]\((?!https?://|#)([^)#\s]+)")
FENCE = re.compile(r"^```(\w*)\n.*?^```$", re.MULTILINE | re.DOTALL)
LANGUAGES = frozenset({"python", "text", "bash", "sh", "json", "toml"})


@pytest.fixture(scope="module")
def runs() -> Iterator[Runs]:
    found = Runs(CORE_BLOCKS, {"EARNORM_PLUGINS": ""})
    yield found
    found.close()


@pytest.mark.parametrize("block", CORE_BLOCKS, ids=str)
def test_a_block_of_the_documentation_runs_as_it_stands(runs: Runs, block: Block) -> None:
    runs.check(block)


@pytest.mark.parametrize("page", PROJECTS)
def test_the_tests_of_a_page_pass(page: str, tmp_path: Path) -> None:
    for name, content in PROJECTS[page].items():
        (tmp_path / name).write_text(content)
    command = (sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist")
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{page}\n{done.stdout}{done.stderr}"


@pytest.mark.parametrize("path", copies())
def test_type_checkers_read_the_first_programs_as_they_stand(path: str) -> None:
    assert (ROOT / path).read_text() == copies()[path], "python -m tests.docs.typed"


def test_the_readme_and_most_pages_show_a_program() -> None:
    shown = {block.page for block in CORE_BLOCKS}
    assert {"README.md", "docs/index.md", "docs/models.md", "docs/relations.md"} <= shown


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.name)
def test_every_block_says_what_it_is(page: Path) -> None:
    found = {match[1] for match in FENCE.finditer(page.read_text())}
    assert found <= LANGUAGES, f"{page.name}: blocks marked {sorted(found - LANGUAGES)}"


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.name)
def test_every_link_between_pages_leads_somewhere(page: Path) -> None:
    targets = LINK.findall(FENCE.sub("", page.read_text()))
    missing = [target for target in targets if not (page.parent / target).exists()]
    assert missing == []


HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
WITH_ANCHOR = re.compile(r"\]\((?!https?://)([^)#\s]*)#([^)\s]+)\)")


def anchors(page: Path) -> set[str]:
    """The names by which links name the headings of a page, as GitHub makes them."""
    headings = HEADING.findall(FENCE.sub("", page.read_text()))
    texts = (re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).lower() for heading in headings)
    return {re.sub(r"[^\w\- ]", "", text).replace(" ", "-") for text in texts}


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.name)
def test_every_link_to_a_heading_leads_to_one(page: Path) -> None:
    missing = [
        f"{target}#{anchor}"
        for target, anchor in WITH_ANCHOR.findall(FENCE.sub("", page.read_text()))
        if anchor not in anchors((page.parent / target) if target else page)
    ]
    assert missing == []


TABLE = re.compile(r"(?:^\|.*\n)+", re.MULTILINE)
RULE = re.compile(r"\|(?: *:?-+:? *\|)+")
CELL = re.compile(r"(?<!\\)\|")


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.name)
def test_every_table_has_a_head_and_rows_of_one_width(page: Path) -> None:
    broken: list[str] = []
    for table in TABLE.findall(FENCE.sub("", page.read_text() + "\n")):
        lines = table.splitlines()
        widths = {len(CELL.findall(line)) for line in lines}
        if len(lines) < 2 or not RULE.fullmatch(lines[1]) or len(widths) != 1:
            broken.append(lines[0])
    assert broken == []


@pytest.mark.parametrize("front", ["README.md", "docs/index.md"])
def test_every_page_is_reached_from_the_front(front: str) -> None:
    page = ROOT / front
    linked = {(page.parent / target).resolve() for target in LINK.findall(page.read_text())}
    missing = {each.name for each in pages() if each != page and each.name != "README.md"} - {
        each.name for each in linked
    }
    assert missing == set()


def test_the_first_screen_of_the_readme_has_the_two_commands() -> None:
    first_screen = "\n".join((ROOT / "README.md").read_text().splitlines()[:30])
    for session in ("demo", "tests"):
        assert f"python -m pip install nox && python -m nox -s {session}" in first_screen
