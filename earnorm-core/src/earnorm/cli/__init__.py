"""The ``earnorm`` command. Only it needs the extra ``cli`` (typer and rich)."""

from __future__ import annotations

_EXTRA = frozenset({"typer", "rich", "click"})


def main() -> None:
    """Run the command line.

    Raises:
        SystemExit: Always: 0 for success, 1 for a failure, 2 for wrong usage.
    """
    try:
        from earnorm.cli.application import run
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in _EXTRA:
            raise
        message = f'the command line needs {error.name}: pip install "earnorm-core[cli]"'
        raise SystemExit(f"earnorm: {message}") from None
    run()
