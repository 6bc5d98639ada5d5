"""Imports what an extra of the package brings, or says how to install it."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from earnorm import ConfigurationError


def needed(module: str, extra: str, what: str) -> Any:
    """Return a module that an extra brings.

    Raises:
        ConfigurationError: It is not installed; the message has the pip command.
    """
    try:
        return import_module(module)
    except ImportError:
        raise ConfigurationError(
            f"{what} needs {module.partition('.')[0]!r}, which is not installed: "
            f'pip install "earnorm-security[{extra}]"'
        ).coded("security_missing_extra") from None
