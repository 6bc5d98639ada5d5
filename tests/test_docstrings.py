"""A docstring says what a thing is or does in a sentence, not in the fragment of a question."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

_ROOT = Path(__file__).parents[1]
_PACKAGES = ("earnorm-audit", "earnorm-cache", "earnorm-core", "earnorm-pool", "earnorm-security")
_FRAGMENTS = frozenset({"What", "Where", "Whose", "Whether", "Let", "How"})


def docstrings(module: ast.Module) -> Iterator[tuple[int, str]]:
    """Yield the line and the text of each docstring: of modules, classes, functions and attributes."""
    for node in ast.walk(module):
        match node:
            case ast.Expr(value=ast.Constant(value=str(text))):
                yield node.lineno, text


@pytest.mark.parametrize("package", _PACKAGES)
def test_no_docstring_begins_as_a_fragment(package: str) -> None:
    files = sorted((_ROOT / package).rglob("*.py"))
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
