"""The checks of ``earnorm doctor``. Each gives findings, and none raises.

The server is checked without any plugin, so that a broken plugin does not hide a broken server.
"""

from __future__ import annotations

import platform
import re
import sys
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import importlib_metadata

from earnorm.backends import ServerSettings, open_backend
from earnorm.exceptions import ConfigurationError, EarnORMError, nearest
from earnorm.features import FEATURES
from earnorm.kernel.loading import load
from earnorm.kernel.plugins import (
    CORE_DISTRIBUTION,
    PluginInfo,
    Selection,
    distribution_version,
    install_hint,
    installed,
    survey,
)
from earnorm.kernel.versions import fits, release

Level = Literal["ok", "warning", "error"]

OLDEST_PYTHON = (3, 11)
OLDEST_SERVER = (6, 0)
"""The oldest server that the test suite runs on."""
DRIVERS = ("pymongo", "motor")
SERVER_SECONDS = 5
_UNINSTALLED = "unknown (not installed as a distribution)"


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check."""

    level: Level
    what: str
    what_to_do: str = ""


def versions() -> dict[str, str]:
    """Return the versions of the core and its drivers, by distribution name."""
    return {
        name: distribution_version(name) or _UNINSTALLED for name in (CORE_DISTRIBUTION, *DRIVERS)
    }


async def examine(
    environ: Mapping[str, str], uri: str | None, database: str | None
) -> list[Finding]:
    """Run every check.

    Args:
        environ: The process's environment.
        uri: The server; without it the server is not checked.
        database: The database; without it only the server is checked.
    """
    findings = [*_python(), *_distributions(), *_plugins(environ)]
    findings += [finding async for finding in _server(environ, uri, database)]
    return findings


# -- this environment -----------------------------------------------------------------------------


def _python() -> Iterator[Finding]:
    what = f"Python {platform.python_version()}"
    if sys.version_info < OLDEST_PYTHON:  # pragma: no cover - pip refuses to install it there
        yield Finding("error", what, "install Python 3.11 or later")
    else:
        yield Finding("ok", what)


def _distributions() -> Iterator[Finding]:
    required = _requirements(CORE_DISTRIBUTION)
    for name, version in versions().items():
        wanted = required.get(name, "")
        if version == _UNINSTALLED:
            yield Finding("warning", f"{name}: {version}", f"pip install {CORE_DISTRIBUTION}")
        elif not fits(version, wanted):
            yield Finding(
                "error",
                f"{name} {version} does not fit {CORE_DISTRIBUTION}, which needs {wanted}",
                f'pip install "{name}{wanted}"',
            )
        else:
            yield Finding("ok", f"{name} {version}")


# -- plugins --------------------------------------------------------------------------------------


def _plugins(environ: Mapping[str, str]) -> Iterator[Finding]:
    try:
        selection = Selection.of_environment(environ)
        known = installed()
        rows = survey(selection)
    except EarnORMError as error:
        yield Finding("error", str(error), "correct the selection")
        return
    wanted = {str(name) for name in selection.plugins or ()}
    where = "EARNORM_PLUGINS" if selection.project.plugins is None else str(selection.project.file)
    for name in sorted(wanted - known.keys() - selection.disabled):
        yield Finding(
            "error",
            f"{where} names {name!r}, which is not installed{nearest(name, known)}",
            f"{install_hint(name)}, or take it out of {where}",
        )
    for name in sorted(selection.project.disabled - known.keys() - FEATURES.keys()):
        yield Finding(
            "error",
            f"{selection.project.file} disables {name!r}, which is not installed{nearest(name, known)}",
            "correct the name, or take it out",
        )
    for name in sorted(
        selection.disabled - selection.project.disabled - known.keys() - FEATURES.keys()
    ):
        yield Finding(
            "warning",
            f"EARNORM_DISABLED_PLUGINS names {name!r}, which is not installed{nearest(name, known)}",
            "correct the name, or take it out",
        )
    for name in sorted(selection.disabled & wanted):
        yield Finding(
            "warning",
            f"{name!r} stands in EARNORM_PLUGINS and in EARNORM_DISABLED_PLUGINS: it is disabled",
            "take it out of one of them",
        )
    core = distribution_version(CORE_DISTRIBUTION)
    features = [PluginInfo(name, CORE_DISTRIBUTION, core, "active") for name in FEATURES]
    for row in rows:
        yield _plugin(row, [*rows, *features])


def _plugin(row: PluginInfo, among: Sequence[PluginInfo]) -> Finding:
    what = f"plugin {row.name!r} ({row.distribution} {row.version})"
    if row.status == "ambiguous":
        return Finding(
            "error", row.reason, f"uninstall one, or set EARNORM_DISABLED_PLUGINS={row.name}"
        )
    if row.status != "active":
        return Finding("ok", f"{what} is {row.status}: {row.reason}")
    wanted = _requirements(row.distribution).get(CORE_DISTRIBUTION, "")
    core = distribution_version(CORE_DISTRIBUTION)
    if core and not fits(core, wanted):
        return Finding(
            "error",
            f"{what} needs {CORE_DISTRIBUTION}{wanted}; installed is {core}",
            f"pip install --upgrade {row.distribution} {CORE_DISTRIBUTION}",
        )
    try:
        load(Selection(plugins=(row.name,)), {}, among=among)
    except EarnORMError as error:
        if isinstance(error, ConfigurationError):
            # It is only a warning, because the program may pass these settings.
            return Finding(
                "warning", f"{what}: {error}", f"pass its settings: App(..., {row.name}={{...}})"
            )
        return Finding(
            "error", str(error), f"repair it, or set EARNORM_DISABLED_PLUGINS={row.name}"
        )
    return Finding("ok", f"{what} is active")


# -- the server -----------------------------------------------------------------------------------


async def _server(
    environ: Mapping[str, str], uri: str | None, database: str | None
) -> AsyncIterator[Finding]:
    if not uri:
        yield Finding("warning", "the server was not looked at", "give --uri, or set EARNORM_URI")
        return
    # Nothing is written, so the default database may be any.
    settings = ServerSettings(
        uri, database or "admin", options={"serverSelectionTimeoutMS": SERVER_SECONDS * 1000}
    )
    try:
        backend = open_backend(settings, environ.get("EARNORM_DRIVER") or None)
    except EarnORMError as error:
        yield Finding("error", str(error), "correct the URI or EARNORM_DRIVER")
        return
    try:
        await backend.connect()
        answer = await backend.ping()
        hosts = ", ".join(map(str, answer.get("hosts") or ())) or "this process's memory"
        server = f"{answer.get('version', '')}"
        if backend.name == "memory":
            yield Finding(
                "warning", f"{hosts}: data is lost at the end", "use mongodb:// but in tests"
            )
        elif release(server) < OLDEST_SERVER:
            oldest = ".".join(map(str, OLDEST_SERVER))
            yield Finding(
                "warning",
                f"{hosts}: MongoDB {server} is older than {oldest}, the oldest that is tested",
                f"upgrade the server to {oldest} or later",
            )
        else:
            yield Finding("ok", f"{hosts}: MongoDB {server} answers (driver {backend.name})")
        if "transactions" in backend.capabilities:
            kind = answer.get("replica_set")
            named = f"replica set {kind!r}" if kind else "sharded cluster"
            yield Finding("ok", f"transactions are available ({named})")
        elif backend.name != "memory":
            yield Finding(
                "warning",
                "no transactions: the server is no replica set and no sharded cluster",
                "start mongod with --replSet rs0, and run rs.initiate() once",
            )
        if database:
            count = len(await backend.list_collections())
            yield Finding("ok", f"database {database!r} can be read; collections: {count}")
    except EarnORMError as error:
        yield Finding(
            "error",
            str(error),
            "see that the server runs, that host, port and credentials are right, "
            "and that no firewall stands between",
        )
    finally:
        await backend.close()


# -- versions -------------------------------------------------------------------------------------


def _requirements(distribution: str) -> dict[str, str]:
    """Return a distribution's requirements outside its extras, from name to specifier."""
    try:
        lines = importlib_metadata.requires(distribution) or []
    except importlib_metadata.PackageNotFoundError:
        return {}
    requirements: dict[str, str] = {}
    for line in lines:
        requirement, _, marker = line.partition(";")
        match = re.match(r"\s*([\w.-]+)\s*(?:\[[^\]]*\])?\s*(.*)", requirement)
        if match and "extra" not in marker:
            requirements[re.sub(r"[-_.]+", "-", match[1]).lower()] = match[2].strip(" ()")
    return requirements
