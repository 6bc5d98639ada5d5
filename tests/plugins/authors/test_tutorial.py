"""docs/plugin-tutorial.md: its commands are run, its files are written over those of a new plugin, and tests, mypy and the build say what it says."""

from __future__ import annotations

import re
import shlex
import tomllib
import zipfile
from pathlib import Path

import pytest

from tests.cli.generated import Generated, generate

PAGE = (Path(__file__).parents[3] / "docs" / "plugin-tutorial.md").read_text()
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
COMMANDS = [line for kind, text in BLOCKS if kind == "sh" for line in text.splitlines()]
# What reaches for the network, or ends in another shell's folder.
NOT_RUN = ("cd ", "python -m pip install", "python -m twine upload")


def files() -> dict[str, str]:
    """The python blocks: each is a file, which its first line names."""
    named: dict[str, str] = {}
    for kind, text in BLOCKS:
        if kind == "python":
            first = text.partition("\n")[0]
            assert first.startswith("# "), first
            named[first.removeprefix("# ")] = text  # as a reader copies it: the line counts
    return named


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Generated:
    """The plugin as the page leaves it."""
    where = tmp_path_factory.mktemp("tutorial")
    [new] = [shlex.split(line) for line in COMMANDS if line.startswith("earnorm ")]
    assert new[:3] == ["earnorm", "new", "plugin"]
    made = generate(where, *new[3:])
    for path, text in files().items():
        target = made.root / path
        assert target.is_file() or path == "what_it_is.py", f"{path} is no file of a new plugin"
        target.write_text(text)
    return made


def texts(start: str) -> str:
    """The one text block that begins so."""
    [text] = [text for kind, text in BLOCKS if kind == "text" and text.startswith(start)]
    return text


def test_each_command_is_run_or_known() -> None:
    run = {"earnorm new plugin slugs --with field,settings"}
    run |= {"python -m pytest", "python -m mypy", "python -m build"}
    assert {line for line in COMMANDS if not line.startswith(NOT_RUN)} == run


def test_its_tests_pass_on_both_backends_when_the_readme_has_its_row(project: Generated) -> None:
    readme = project.root / "README.md"
    with pytest.raises(AssertionError, match="test_the_readme_has_a_row_for_each_setting"):
        project.run("pytest", "-q", "-p", "no:cacheprovider", "tests/test_settings.py")
    before = readme.read_text()
    limit = next(line for line in before.splitlines() if line.startswith("| `limit`"))
    readme.write_text(before.replace(f"{limit}\n", texts("| `reserved`")))
    printed = project.run("pytest", "-q", "-p", "no:cacheprovider")
    assert " passed" in printed
    assert "failed" not in printed


def test_mypy_says_what_the_page_says(project: Generated, tmp_path: Path) -> None:
    flags = ("--follow-imports=silent", f"--cache-dir={tmp_path}")
    assert project.run("mypy", *flags).startswith("Success")
    with pytest.raises(AssertionError) as failed:
        project.run("mypy", *flags, "what_it_is.py")
    said = [line for line in str(failed.value).splitlines() if line.startswith("what_it_is.py")]
    assert said == texts("what_it_is.py").splitlines()


def test_it_is_built_with_the_license_that_was_chosen(project: Generated, tmp_path: Path) -> None:
    [chosen] = [text for kind, text in BLOCKS if kind == "toml"]
    pyproject = project.root / "pyproject.toml"
    text = pyproject.read_text()
    begin, end = text.index("# Choose a license"), text.index("dependencies = [")
    kept = text[:begin].replace('description = "', '# "')
    lines = chosen.split("[project]\n")[1]
    pyproject.write_text(kept + lines + text[end:])
    (project.root / "LICENSE").write_text("MIT")
    assert tomllib.loads(pyproject.read_text())["project"]["license"] == "MIT"
    project.run("hatchling", "build", "--directory", str(tmp_path))  # `build` calls it
    [wheel] = tmp_path.glob("earnorm_slugs-0.1.0-*.whl")
    assert list(tmp_path.glob("earnorm_slugs-0.1.0.tar.gz"))
    with zipfile.ZipFile(wheel) as archive:
        info = "earnorm_slugs-0.1.0.dist-info"
        metadata = archive.read(f"{info}/METADATA").decode()
        points = archive.read(f"{info}/entry_points.txt").decode()
    assert "License-Expression: MIT" in metadata
    assert "Private ::" not in metadata
    assert "slugs = earnorm_slugs:SlugsPlugin" in points
