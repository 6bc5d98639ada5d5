"""The file of ``--settings``: an App's keywords, those of plugins among them, as TOML or JSON.

An error names keys and lines, never a value, because a value may be a password.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final, Literal, get_type_hints

import pydantic

from earnorm import concerns
from earnorm.application import App
from earnorm.exceptions import ConfigurationError
from earnorm.kernel.life.settings import parameters_of, refuse_unknown

_NAMES: Final = ("plugins", "disabled", "required")
_KINDS: Final[Mapping[str, Any]] = {
    **dict.fromkeys(_NAMES, list[str]),
    "driver": Literal["pymongo", "motor"],
}
"""The keywords that a file gives in a narrower form than a program."""
_NOT_IN_A_FILE: Final = frozenset({"client"})
"""The keywords whose values are objects of a program."""


def read_settings(path: Path) -> dict[str, Any]:
    """Read a file of settings, and check its keys and the kinds of its values.

    Args:
        path: A file that ends in ``.toml`` or ``.json``.

    Returns:
        Keywords of :class:`earnorm.App`; those of plugins are mappings.

    Raises:
        ConfigurationError: The file cannot be read, or a key or a value is not one of an App.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise _refused(path, str(error.strerror)) from None
    except UnicodeDecodeError:
        raise _refused(path, "it is no text in UTF-8") from None
    settings = _parsed(path, text)
    if not isinstance(settings, dict):
        raise _refused(path, "it holds the keywords of an App: one object of names and values")
    kinds = _kinds()
    for key in settings:
        if key in _NOT_IN_A_FILE:
            raise _refused(path, f"{key} is an object of a program: give it with --app")
    try:
        refuse_unknown({k: v for k, v in settings.items() if k not in kinds}, App)
    except ConfigurationError as error:
        raise _refused(path, str(error)) from None
    problems = [
        f"{key}: {problem}"
        for key, value in settings.items()
        if key in kinds
        for problem in _problems(kinds[key], value)
    ]
    if problems:
        raise _refused(path, "; ".join(problems))
    return settings


def _parsed(path: Path, text: str) -> Any:
    if path.suffix == ".toml":
        try:
            return tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            # The parser's own words may quote a part of a value.
            place = re.search(r"\(at (.+?)\)\s*$", str(error))
            raise _refused(path, f"it is no TOML{f' at {place[1]}' if place else ''}") from None
    if path.suffix == ".json":
        try:
            return json.loads(text)
        except json.JSONDecodeError as error:
            raise _refused(
                path, f"it is no JSON at line {error.lineno}, column {error.colno}"
            ) from None
    raise _refused(path, "its name ends in .toml or .json")


def _kinds() -> dict[str, Any]:
    """Return the type of each keyword of an App that a file may give."""
    names = {**vars(concerns), "pydantic": pydantic, "Mapping": Mapping, "Iterable": Iterable}
    hints = get_type_hints(App.__init__, localns=names)
    kinds = {name: hints[name] for name in parameters_of(App) - _NOT_IN_A_FILE}
    return kinds | dict(_KINDS)


def _problems(kind: Any, value: object) -> list[str]:
    """Return the reasons why a value is not of a type, without the value."""
    try:
        pydantic.TypeAdapter(kind).validate_python(value, strict=True)
    except pydantic.ValidationError as error:
        return list(dict.fromkeys(p["msg"] for p in error.errors(include_input=False)))
    return []


def _refused(path: Path, why: str) -> ConfigurationError:
    return ConfigurationError(f"--settings {path}: {why}").coded("settings_file")
