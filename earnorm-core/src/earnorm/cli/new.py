"""``earnorm new plugin``: writes a plugin that can be installed, with its tests."""

from __future__ import annotations

import keyword
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Final

import typer

from earnorm.application import App, init
from earnorm.cli.options import TracebackOption
from earnorm.cli.template import render
from earnorm.exceptions import ConfigurationError, nearest
from earnorm.kernel.life.settings import parameters_of
from earnorm.kernel.plugins.metadata import distribution_of, distribution_version
from earnorm.kernel.plugins.selection import (
    CORE_DISTRIBUTION,
    HOUSE_PLUGINS,
    installed,
)
from earnorm.testing import app_with

PARTS: Final[Mapping[str, str]] = {
    "field": "fields",
    "model": "models",
    "layer": "layers",
    "observer": "observers",
    "operator": "operators",
    "command": "commands",
    "service": "services",
    "settings": "settings",
}
"""The parts of a plugin that ``--with`` names, each with its module."""
ALL: Final = "all"
_TAKERS: Final[Mapping[str, Callable[..., object]]] = {
    "App": App,
    "App.__init__": App.__init__,
    "earnorm.init": init,
    "earnorm.testing.app_with": app_with,
}
"""The functions that take a plugin's settings as a keyword of its name."""

new = typer.Typer(
    name="new",
    help="Begin something: a plugin.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Name = Annotated[
    str, typer.Argument(help="The plugin's name, e.g. quotas; the distribution is earnorm-quotas.")
]
With = Annotated[
    list[str] | None,
    typer.Option(
        "--with",
        help=f"Parts with an example and its test each: {', '.join(PARTS)}, or {ALL}. Several with "
        f"commas; may be repeated.",
        show_default=False,
    ),
]
Where = Annotated[
    Path,
    typer.Option("--in", help="The folder to put the new one into.", show_default="this one"),
]


@new.callback()
def begin() -> None:
    """Begin something: a plugin."""


@new.command()
def plugin(
    name: Name, with_: With = None, where: Where = Path(), traceback: TracebackOption = False
) -> None:
    """Write a plugin that can be installed at once, with tests that pass; it never overwrites."""
    name = _checked_name(name)
    parts = _checked_parts(with_ or ())
    root = where / distribution_name(name)
    contents = dict(plugin_files(name, parts))
    _check_free(name, root)
    for path, text in contents.items():
        target = root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")
        typer.echo(f"{root / path}")
    typer.echo(
        f"\nNext:\n  cd {root}\n  python -m pip install --editable '.[test]'\n"
        f"  python -m pytest && python -m mypy"
    )


# -- what is written ------------------------------------------------------------------------------


def plugin_files(name: str, parts: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Yield the path and the text of each file of a new plugin.

    Args:
        name: The plugin's name.
        parts: The names of its parts.
    """
    wanted = frozenset(parts)
    values = {
        "name": name,
        "Class": _class_name(name),
        "package": package_name(name),
        "distribution": distribution_name(name),
        "core": core_requirement(),
    }
    for place, path in _places(wanted):
        template = files("earnorm.cli").joinpath("plugin_template", f"{place}.txt")
        yield (
            path.replace("package", values["package"]),
            render(template.read_text(encoding="utf-8"), values, wanted),
        )


def _places(parts: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Yield the place of each template that is used, and the path of what it becomes."""
    for place in ("pyproject.toml", "README.md"):
        yield place, place
    yield "gitignore", ".gitignore"
    yield "github/ci.yml", ".github/workflows/ci.yml"
    modules = ["__init__.py", "py.typed", "plugin.py"]
    modules += [f"{PARTS[part]}.py" for part in PARTS if part in parts]
    tests = ["conftest.py", "test_contract.py"]
    tests += [f"test_{part}.py" for part in PARTS if part in parts]
    for folder, names in (("src/package", modules), ("tests", tests)):
        for name in names:
            yield f"{folder}/{name}", f"{folder}/{name}"


def package_name(name: str) -> str:
    """Return the name of the package of a plugin."""
    return f"earnorm_{name}"


def distribution_name(name: str) -> str:
    """Return the name of the distribution of a plugin."""
    return package_name(name).replace("_", "-")


def _class_name(name: str) -> str:
    return "".join(word.capitalize() for word in name.split("_"))


def core_requirement() -> str:
    """Return the versions of the core that a plugin of today fits: until the next minor one."""
    major, minor = (distribution_version(CORE_DISTRIBUTION) or "0.1").split(".")[:2]
    return f">={major}.{minor},<{major}.{int(minor) + 1}"


# -- names ----------------------------------------------------------------------------------------


def _checked_name(given: str) -> str:
    """Return a plugin's name as an App takes it: its settings are a keyword of this name.

    Raises:
        typer.BadParameter: It cannot be a name, or every App has it.
    """
    name = given.replace("-", "_")
    if name == "earnorm" or name.startswith("earnorm_"):
        rest = name.removeprefix("earnorm").strip("_").replace("_", "-") or "NAME"
        raise typer.BadParameter(
            f"{given}: leave out 'earnorm', which the distribution has before it: {rest}"
        )
    if not re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", name):
        raise typer.BadParameter(
            f"{given!r} is no name: small letters, digits and hyphens, a letter first: soft-quotas"
        )
    if keyword.iskeyword(name):
        raise typer.BadParameter(f"{name} is a word of Python, and settings are a keyword {name}=")
    if name.startswith("test"):
        raise typer.BadParameter(
            f"{given}: pytest takes a class {_class_name(name)}Plugin for a class of tests"
        )
    if distribution_name(name) == CORE_DISTRIBUTION:
        raise typer.BadParameter(f"{CORE_DISTRIBUTION} is the distribution of EarnORM itself")
    for what, taker in _TAKERS.items():
        if name in parameters_of(taker):
            raise typer.BadParameter(
                f"{what} has a parameter {name}, so the plugin could get no settings"
            )
    if name in App.features or name in App.core_plugins:
        raise typer.BadParameter(f"{name} is the name of a feature of EarnORM")
    if name in HOUSE_PLUGINS:
        raise typer.BadParameter(f"{name} is the name of a plugin of EarnORM")
    return name


def _checked_parts(given: Iterable[str]) -> frozenset[str]:
    """Return the names of parts.

    Raises:
        typer.BadParameter: There is no such part.
    """
    names = {name.strip() for text in given for name in text.split(",")} - {""}
    unknown = sorted(names - {*PARTS, ALL})
    if unknown:
        raise typer.BadParameter(
            f"--with: there is no part {unknown[0]!r}{nearest(unknown[0], PARTS)}; "
            f"there are {', '.join(PARTS)}"
        )
    return frozenset(PARTS) if ALL in names else frozenset(names)


def _check_free(name: str, root: Path) -> None:
    """Refuse a name that another plugin or package here has, and a folder that is there.

    Raises:
        ConfigurationError: One is taken.
    """
    known = installed()
    if name in known:
        distribution, version = distribution_of(known[name])
        raise _taken(f"a plugin {name!r} is installed: {distribution} {version}")
    if find_spec(package_name(name)) is not None:
        raise _taken(f"there is a package {package_name(name)} in this environment")
    if root.exists() or root.is_symlink():
        raise _taken(f"{root} is there already, and nothing is overwritten")
    if not root.parent.is_dir():
        raise _taken(f"there is no folder {root.parent}")


def _taken(why: str) -> ConfigurationError:
    return ConfigurationError(
        f"{why}; give the plugin another name, or another place (--in)"
    ).coded("new_plugin")
