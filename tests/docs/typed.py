"""The programs of the documentation that type checkers read: ``tests/typing/shown_*.py`` are copies.

``python -m tests.docs.typed`` writes the copies anew.
"""

from __future__ import annotations

from tests.docs.blocks import ROOT, blocks

FIRST = {"README.md": "readme", "docs/index.md": "index", "docs/relations.md": "relations"}
"""The pages whose first program has a copy, and its name."""


def copy_of(page: str) -> str:
    """Return the text of the copy of a page's first program."""
    code = next(block.code for block in blocks() if block.page == page)
    return f'"""The first program of {page}, which tests/docs holds equal to it."""\n\n{code}'


def copies() -> dict[str, str]:
    """Return the text of each copy by its path from the root."""
    return {f"tests/typing/shown_{name}.py": copy_of(page) for page, name in FIRST.items()}


if __name__ == "__main__":
    for path, text in copies().items():
        (ROOT / path).write_text(text)
