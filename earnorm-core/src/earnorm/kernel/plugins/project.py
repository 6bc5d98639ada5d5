"""The project's own selection of plugins: the table ``[tool.earnorm]`` of its pyproject.toml.

The nearest pyproject.toml with that table counts, from the working directory upward.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final, NamedTuple

from earnorm.exceptions import ConfigurationError, nearest

_FILE: Final = "pyproject.toml"
_KEYS: Final = ("plugins", "disabled")
_AS_KEY: Final = rb"""(?m)(?:^|[.{]|\{.*,)[ \t]*(?:earnorm|"earnorm"|'earnorm')(?![\w-])"""
"""The name as a key, or as a part of one: ``[tool.earnorm]``, ``earnorm.plugins =``, ``{ earnorm =``."""


class ProjectSelection(NamedTuple):
    """The selection of a project.

    Attributes:
        plugins: Names of plugins; None means that the project does not say.
        disabled: Names of plugins and features that are left out.
        file: The file that says so; None if there is none.
    """

    plugins: tuple[str, ...] | None = None
    disabled: frozenset[str] = frozenset()
    file: Path | None = None


NOTHING: Final = ProjectSelection()
"""The selection of a project that says nothing."""


def project_selection(directory: Path | None = None) -> ProjectSelection:
    """Return the selection of the project that a directory is in.

    Args:
        directory: The directory; None means the working directory.

    Raises:
        ConfigurationError: The file cannot be read, or the table has an unknown key or a value that
            is no list of names.
    """
    try:
        start = Path.cwd() if directory is None else directory.resolve()
    except OSError:  # the working directory was deleted
        return NOTHING
    for folder in (start, *start.parents):
        table = _table(folder / _FILE)
        if table is not None:
            return _checked(table, folder / _FILE)
    return NOTHING


def _table(file: Path) -> Mapping[str, object] | None:
    """Return the table of a file; None if there is no such file or table."""
    try:
        content = file.read_bytes()
    except OSError:
        return None
    if b"earnorm" not in content or not re.search(_AS_KEY, content):
        return None  # most files say nothing of it, and are not parsed
    return _parsed(content, file)


@functools.lru_cache(maxsize=4)
def _parsed(content: bytes, file: Path) -> Mapping[str, object] | None:
    """Return the table in the content of a file, which each App of a process reads again."""
    import tomllib  # only a project with such a file needs it

    try:
        document = tomllib.loads(content.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{file} cannot be read: {error}").coded("project_file") from error
    tools = document.get("tool")
    table = tools.get("earnorm") if isinstance(tools, dict) else None
    if table is not None and not isinstance(table, dict):
        raise ConfigurationError(
            f"{file}: tool.earnorm is a table with {' and '.join(_KEYS)}"
        ).coded("project_file")
    return table


def _checked(table: Mapping[str, object], file: Path) -> ProjectSelection:
    for key in table:
        if key not in _KEYS:
            raise ConfigurationError(
                f"{file}: [tool.earnorm] has no key {key!r}{nearest(key, _KEYS)}"
            ).coded("project_file")
    names: dict[str, tuple[str, ...]] = {}
    for key, value in table.items():
        if not isinstance(value, list) or not all(isinstance(name, str) and name for name in value):
            raise ConfigurationError(
                f'{file}: [tool.earnorm] {key} is a list of names, as in {key} = ["audit"]'
            ).coded("project_file")
        names[key] = tuple(value)
    return ProjectSelection(names.get("plugins"), frozenset(names.get("disabled", ())), file)
