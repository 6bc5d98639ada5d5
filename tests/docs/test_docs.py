"""What README.md and docs/ show with the core alone is executed; links lead somewhere."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docs.blocks import ROOT, Block, Runs, blocks, pages

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
