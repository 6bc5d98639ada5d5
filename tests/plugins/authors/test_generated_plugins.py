"""What authors get: plugins that ``earnorm new plugin`` writes, and the example, pass their own tests and mypy."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from earnorm.cli.new import plugin_files
from tests.cli.generated import Generated, generate, installed_by_hand
from tests.cli.test_new_plugin import SELECTIONS

EXAMPLE = Path(__file__).parents[3] / "examples" / "third_party_plugin"


@pytest.fixture(scope="module")
def mypy_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("mypy")


def passes(project: Generated, cache: Path) -> None:
    """Check that its tests pass, and that mypy finds nothing in it."""
    printed = project.run("pytest", "-q", "-p", "no:cacheprovider")
    assert " passed" in printed
    assert "failed" not in printed
    # EarnORM itself is checked elsewhere.
    flags = ("--follow-imports=silent", f"--cache-dir={cache}")
    assert project.run("mypy", *flags).startswith("Success")


@pytest.mark.parametrize(
    ("name", "arguments"), [("stamps", ["--with", "all"]), ("soft-quotas", [])]
)
def test_a_new_plugin_passes_its_tests_on_both_backends_and_mypy(
    name: str, arguments: list[str], tmp_path: Path, mypy_cache: Path
) -> None:
    project = generate(tmp_path, name, *arguments)
    passes(project, mypy_cache)
    for command in (["check", "--select=E,F,I,B,UP,RUF"], ["format", "--check"]):
        done = subprocess.run(
            [sys.executable, "-m", "ruff", *command, "--no-cache", "."],
            cwd=project.root,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout


def test_no_selection_of_parts_has_an_unused_or_undefined_name(tmp_path: Path) -> None:
    for number, parts in enumerate(SELECTIONS):
        for path, text in plugin_files("quotas", parts):
            target = tmp_path / str(number) / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text)
    command = [sys.executable, "-m", "ruff", "check", "--no-cache", "--select=F,I", "."]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_the_example_passes_its_tests_on_both_backends_and_mypy(
    tmp_path: Path, mypy_cache: Path
) -> None:
    passes(installed_by_hand(EXAMPLE, tmp_path), mypy_cache)


def test_the_example_has_the_files_of_a_new_plugin() -> None:
    parts = ("field", "model", "layer", "command", "service", "settings")
    written = {path for path, _ in plugin_files("slugs", parts)}
    assert {path for path in written if not (EXAMPLE / path).is_file()} == set()
    for path, text in plugin_files("slugs", parts):
        if path in (".gitignore", ".github/workflows/ci.yml", "tests/conftest.py"):
            assert (EXAMPLE / path).read_text() == text, f"{path}: write it anew"
