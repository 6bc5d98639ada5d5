"""The checks of ``earnorm doctor``. Each gives findings, and none raises.

The server is checked without any plugin, so that a broken plugin does not hide a broken server.
"""

from __future__ import annotations

import platform
import re
import sys
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, fields, replace
from typing import Any

import importlib_metadata

from earnorm.application import App, AppSettings
from earnorm.backends import ServerSettings, open_backend
from earnorm.backends.native.loading import VARIABLE, decision
from earnorm.cli.app_source import AppSource
from earnorm.cli.contributed import commands_of
from earnorm.cli.failures import in_a_line
from earnorm.exceptions import ConfigurationError, EarnORMError, PluginError, nearest
from earnorm.features import FEATURES
from earnorm.kernel.contract.findings import Finding
from earnorm.kernel.contract.handed_in import checked_findings
from earnorm.kernel.life.lifecycle import check_commands
from earnorm.kernel.plugins.loading import load, load_class
from earnorm.kernel.plugins.metadata import distribution_version
from earnorm.kernel.plugins.selection import (
    CORE_DISTRIBUTION,
    PluginInfo,
    Selection,
    installed,
    remedy,
    survey,
)
from earnorm.kernel.plugins.versions import fits, release

OLDEST_PYTHON = (3, 11)
OLDEST_SERVER = (6, 0)
"""The oldest server that the test suite runs on."""
DRIVERS = ("pymongo", "motor")
SERVER_SECONDS = 5
_UNINSTALLED = "unknown (not installed as a distribution)"


def versions() -> dict[str, str]:
    """Return the versions of the core and its drivers, by distribution name."""
    return {
        name: distribution_version(name) or _UNINSTALLED for name in (CORE_DISTRIBUTION, *DRIVERS)
    }


def plugin_versions() -> dict[str, str]:
    """Return the versions of the distributions that register plugins; no plugin is imported."""
    rows = survey(Selection())
    return {row.distribution: row.version for row in rows if row.distribution}


async def examine(environ: Mapping[str, str], source: AppSource) -> list[Finding]:
    """Run every check.

    Args:
        environ: The process's environment.
        source: The App to check. The server is not checked without a URI, and without the name of a
            database only the server is.
    """
    findings = [*_python(), *_distributions(), _decoder()]
    try:
        source.import_models()
    except EarnORMError as error:
        findings.append(Finding("error", str(error), "correct the name, or repair the module"))
    if source.factory is not None:
        return [*findings, *await _program(source, environ)]
    try:
        server = _server_of(source.keywords)
    except EarnORMError as error:
        findings.append(Finding("error", in_a_line(error), "correct the file"))
        source = replace(source, file=None)
        server = _server_of(source.keywords)
    findings += _plugins(source)
    findings += await _models_of(source)
    findings += [finding async for finding in _answers(server, environ)]
    return findings


async def _program(source: AppSource, environ: Mapping[str, str]) -> list[Finding]:
    """Check the App that the program's own function makes."""
    findings: list[Finding] = []
    try:
        async with source.made() as app:
            check_commands(app)
            features = [PluginInfo(name, status="active") for name in FEATURES]
            for row in app.plugins:
                findings.append(_plugin(row, [*app.plugins, *features], None))
            findings += await _models(app)
            setup = app._lifecycle
            options = app.settings.driver_options()
            server = _Server(setup.uri, app.settings.database, setup.driver, options, setup.client)
            findings += [finding async for finding in _answers(server, environ)]
    except Exception as error:
        findings.append(
            Finding("error", f"--app {source.factory}: {in_a_line(error)}", "correct the program")
        )
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


def _decoder() -> Finding:
    try:
        decided = decision()
    except ConfigurationError as error:
        return Finding("error", str(error), f"unset {VARIABLE}, or set it to 0")
    if decided.is_on:
        return Finding("ok", "the compiled decoder is on")
    what = f"the compiled decoder is off: {decided.reason}"
    if decided.is_faulty:
        return Finding(
            "warning", what, f"the driver decodes, slower; {VARIABLE}=0 says it is meant"
        )
    return Finding("ok", what)


# -- plugins --------------------------------------------------------------------------------------


def _plugins(source: AppSource) -> Iterator[Finding]:
    try:
        selection = source.selection()
        known = installed()
        rows = survey(selection)
    except EarnORMError as error:
        yield Finding("error", str(error), "correct the selection")
        return
    wanted = {str(name) for name in selection.plugins or ()}
    where = selection.chosen_by
    if source.file is not None and where == "plugins=":
        where = f"plugins of {source.file}"
    for name in sorted(wanted - known.keys() - selection.disabled):
        yield Finding(
            "error",
            f"{where} names {name!r}, which is not installed{nearest(name, known)}",
            f"{_installing(name, known)}take it out of {where}",
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
    owners = dict.fromkeys(App.built_in_commands, "EarnORM")
    for row in rows:
        finding = _plugin(row, [*rows, *features], source.keywords)
        if row.status == "active" and finding.level != "error":
            finding = _commands(row.name, known[row.name], owners) or finding
        yield finding


def _commands(
    plugin: str, point: importlib_metadata.EntryPoint, owners: dict[str, str]
) -> Finding | None:
    """Check the commands of a plugin, and note their names; None is for no problem."""
    to_do = f"repair it, or set EARNORM_DISABLED_PLUGINS={plugin}"
    try:
        names = commands_of(plugin, load_class(plugin, point))
    except EarnORMError as error:
        return Finding("error", str(error), to_do)
    for name in names:
        if name in owners:
            what = f"plugin {plugin!r} brings a command {name!r}, which {owners[name]} has already"
            return Finding("error", what, to_do)
        owners[name] = f"plugin {plugin!r}"
    return None


def _installing(name: str, known: Iterable[str]) -> str:
    """Return the advice on a name that is not installed, up to an alternative."""
    advice = remedy(name, known)
    return (
        f"{advice.removeprefix(': ')}, or " if advice.startswith(":") else "correct the name, or "
    )


def _plugin(
    row: PluginInfo, among: Sequence[PluginInfo], keywords: Mapping[str, object] | None
) -> Finding:
    """Check one plugin.

    Args:
        row: The plugin.
        among: The others, and the features.
        keywords: The keywords of the App, with the settings of its plugins; None where the plugin
            is loaded already.
    """
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
        if keywords is not None:
            own = {name: keywords[name] for name in (row.name,) if name in keywords}
            load(Selection(plugins=(row.name,)), own, among=among)
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


# -- models ---------------------------------------------------------------------------------------


async def _models_of(source: AppSource) -> list[Finding]:
    """Check the models that ``--models`` names; nothing where the App cannot be made."""
    if not source.models:
        return []
    try:
        async with source.made() as app:
            return await _models(app)
    except EarnORMError:  # what is wrong with the selection, a plugin or a module is told already
        return []


async def _models(app: App) -> list[Finding]:
    """Ask each plugin for its layers, steps and readings of each model, and check what it gives.

    An App asks for those of models that no plugin brings when they are first used.
    """
    try:
        async with nullcontext() if app.is_started else app._lifecycle.described():
            models = app.known_models()
            faults = {str(fault): fault for fault in app.catalog.faults(models)}
            by_plugin = [] if faults else app.loaded.collect("diagnose", app=app)
            of_plugins = [one for name, found in by_plugin for one in checked_findings(name, found)]
    except EarnORMError as error:
        return [Finding("error", str(error), "repair the model, or disable the plugin")]
    findings = [_fault(what, fault, app.is_started) for what, fault in faults.items()]
    if models and not findings:
        number = f"{len(models)} models" if len(models) > 1 else "1 model"
        return [Finding("ok", f"{number}, with the layers and steps of each"), *of_plugins]
    return findings


def _fault(what: str, fault: EarnORMError, is_started: bool) -> Finding:
    if not isinstance(fault, PluginError):
        return Finding("error", what, "repair the model")
    if fault.code == "plugin_failed" and not is_started:
        return Finding("warning", what, "look whether it does so after its startup(), too")
    return Finding("error", what, "repair the plugin, or disable it")


# -- the server -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Server:
    """The server to check."""

    uri: str | None
    database: str | None
    driver: str | None
    options: Mapping[str, object]
    client: object | None = None


def _server_of(keywords: Mapping[str, Any]) -> _Server:
    """Return the server that the keywords of an App name.

    Raises:
        ConfigurationError: A keyword has a value that no App takes.
    """
    names = {field.name for field in fields(AppSettings)} - {"database"}
    given = {name: value for name, value in keywords.items() if name in names}
    database: str | None = keywords.get("database")
    options = AppSettings(database or "admin", **given).driver_options()
    return _Server(keywords.get("mongo_uri"), database, keywords.get("driver"), options)


async def _answers(server: _Server, environ: Mapping[str, str]) -> AsyncIterator[Finding]:
    if not server.uri and server.client is None:
        yield Finding("warning", "the server was not looked at", "give --uri, or set EARNORM_URI")
        return
    # Nothing is written, so the default database may be any.
    settings = ServerSettings(
        server.uri or "",
        server.database or "admin",
        client=server.client,
        options={**server.options, "serverSelectionTimeoutMS": SERVER_SECONDS * 1000},
    )
    try:
        backend = open_backend(settings, server.driver or environ.get("EARNORM_DRIVER") or None)
    except EarnORMError as error:
        yield Finding("error", str(error), "correct the URI or EARNORM_DRIVER")
        return
    try:
        await backend.connect()
        answer = await backend.ping()
        hosts = ", ".join(map(str, answer.get("hosts") or ())) or "this process's memory"
        version = f"{answer.get('version', '')}"
        if backend.name == "memory":
            yield Finding(
                "warning", f"{hosts}: data is lost at the end", "use mongodb:// but in tests"
            )
        elif release(version) < OLDEST_SERVER:
            oldest = ".".join(map(str, OLDEST_SERVER))
            yield Finding(
                "warning",
                f"{hosts}: MongoDB {version} is older than {oldest}, the oldest that is tested",
                f"upgrade the server to {oldest} or later",
            )
        else:
            yield Finding("ok", f"{hosts}: MongoDB {version} answers (driver {backend.name})")
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
        if server.database:
            count = len(await backend.list_collections())
            yield Finding("ok", f"database {server.database!r} can be read; collections: {count}")
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
