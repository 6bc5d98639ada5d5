"""A docstring says what a thing is or does in a sentence, not in the fragment of a question."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

_ROOT = Path(__file__).parents[1]
_ROOMS = (
    "earnorm-audit",
    "earnorm-cache",
    "earnorm-core/src/earnorm/__init__.py",
    "earnorm-core/src/earnorm/application.py",
    "earnorm-core/src/earnorm/backends",
    "earnorm-core/src/earnorm/cli",
    "earnorm-core/src/earnorm/concerns.py",
    "earnorm-core/src/earnorm/domain",
    "earnorm-core/src/earnorm/exceptions.py",
    "earnorm-core/src/earnorm/features",
    "earnorm-core/src/earnorm/fields",
    "earnorm-core/src/earnorm/files.py",
    "earnorm-core/src/earnorm/kernel",
    "earnorm-core/src/earnorm/mixins.py",
    "earnorm-core/src/earnorm/model",
    "earnorm-core/src/earnorm/models.py",
    "earnorm-core/src/earnorm/moved.py",
    "earnorm-core/src/earnorm/plugin.py",
    "earnorm-pool",
    "earnorm-security",
)
_FRAGMENTS = frozenset({"What", "Where", "Whose", "Whether", "Let", "How"})


def docstrings(module: ast.Module) -> Iterator[tuple[int, str]]:
    """Yield the line and the text of each docstring: of modules, classes, functions and attributes."""
    for node in ast.walk(module):
        match node:
            case ast.Expr(value=ast.Constant(value=str(text))):
                yield node.lineno, text


def python_files(room: str) -> list[Path]:
    path = _ROOT / room
    return [path] if path.is_file() else sorted(path.rglob("*.py"))


@pytest.mark.parametrize("room", _ROOMS)
def test_no_docstring_begins_as_a_fragment(room: str) -> None:
    files = python_files(room)
    fragments = [
        f"{file.relative_to(_ROOT)}:{line}: {text.splitlines()[0]}"
        for file in files
        for line, text in docstrings(ast.parse(file.read_text()))
        if (word := re.search(r"\w+", text)) is not None and word[0] in _FRAGMENTS
    ]

    assert files
    assert fragments == []


def test_attribute_docstrings_are_read_too() -> None:
    module = ast.parse('class A:\n    b = 1\n    """Where it lies."""\n')

    assert list(docstrings(module)) == [(3, "Where it lies.")]
