"""How a command gets its App, and how an exception ends it: the same for every command."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

import earnorm
from earnorm.cli.app_source import AppSource
from earnorm.cli.application import application
from earnorm.kernel.life.settings import parameters_of
from earnorm.plugin import current_env
from tests.cli.test_command_line import (  # noqa: F401  (fixtures)
    Install,
    bare_environment,
    install,
    run,
)
from tests.core.conftest import definitions

SECRET = "s3cret-value"
VARIABLES = ("EARNORM_URI", "EARNORM_DATABASE", "EARNORM_APP", "EARNORM_SETTINGS", "EARNORM_MODELS")

PLUGIN = """
import asyncio, pydantic
from earnorm import ConfigurationError, hookimpl

class Settings(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid")
    key: str = "none"
    size: int = 1

async def tell(app):
    key = app.services["keyed"].key
    names = sorted(m._name for m in app.known_models() if m._name.startswith("cli."))
    print(app.settings.database, app.is_started, key, names)

def fail(kind: str):
    if kind == "pydantic":
        Settings(size="s3cret-value")
    if kind == "group":
        raise ExceptionGroup("two", [ValueError("one of them"), KeyError("other")])
    if kind == "large group":
        raise ExceptionGroup("many\\nof them", [ValueError(str(n)) for n in range(5)])
    if kind == "base":
        class Stop(BaseException): pass
        raise Stop("now")
    if kind == "broken":
        class Broken(Exception):
            def __str__(self): raise RuntimeError("no text")
        raise Broken
    if kind == "cancelled":
        async def go():
            task = asyncio.current_task()
            task.cancel()
            await asyncio.sleep(1)
        return go()
    if kind == "lines":
        raise RuntimeError("first\\n  second")
    if kind == "exit":
        raise SystemExit(3)
    if kind == "interrupt":
        raise KeyboardInterrupt
    if kind == "silent":
        raise LookupError
    if kind == "ours":
        raise ConfigurationError("not\\nso")

async def fail_with_app(app, kind: str):
    result = fail(kind)
    if result is not None:
        await result

def own(app, models: str = "", traceback: bool = False):
    print("own", models, traceback, app.settings.database)

class Plugin:
    api = 1
    def __init__(self, settings): self.key = settings.key
    @staticmethod
    @hookimpl
    def settings(): return Settings
    @hookimpl
    def register_services(self): return {"keyed": self}
    @staticmethod
    @hookimpl
    def register_commands():
        return {"tell": tell, "fail": fail, "fail-with-app": fail_with_app, "own": own}
"""

PROGRAM = """
import earnorm
from earnorm import BaseModel, String

class Letter(BaseModel):
    _name = "cli.letter"
    text = String(index=True)

def make(**settings):
    return earnorm.App("mongomock://", database="made", keyed={"key": "mine"}, **settings)

async def make_async():
    return make()

async def make_started():
    return await make().start()

def make_with(argument):
    return make()

def make_nothing():
    return {"password": "s3cret-value"}

def make_failing():
    raise RuntimeError("no\\nlicence")

class Container:
    app = make()
"""


@pytest.fixture
def program(
    install: Install,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[str]:
    """The name of a module that makes an App with the plugin ``keyed``, which is installed."""
    install("keyed", PLUGIN)
    name = f"program_{uuid.uuid4().hex[:8]}"
    (tmp_path / f"{name}.py").write_text(PROGRAM)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    for variable in VARIABLES:
        monkeypatch.delenv(variable, raising=False)
    with definitions():
        yield name
    sys.modules.pop(name, None)


def toml(path: Path, text: str) -> str:
    path.write_text(text)
    return str(path)


# -- where it comes from --------------------------------------------------------------------------


@pytest.mark.parametrize("attribute", ["make", "make_async", "make_started", "Container.app"])
def test_an_app_of_the_program(program: str, attribute: str) -> None:
    told = run("tell", "--app", f"{program}:{attribute}")
    assert told.output == "made True mine ['cli.letter']\n"


def test_an_app_of_options_with_a_file_of_settings(program: str, tmp_path: Path) -> None:
    file = toml(
        tmp_path / "shop.toml",
        'mongo_uri = "mongomock://"\ndatabase = "filed"\nmax_pool_size = 5\nplugins = ["keyed"]\n'
        '[keyed]\nkey = "of the file"\n',
    )
    assert run("tell", "--settings", file).output == "filed True of the file []\n"
    (tmp_path / "shop.json").write_text(
        json.dumps({"mongo_uri": "mongomock://", "database": "j", "keyed": {"key": "k"}})
    )
    assert run("tell", "--settings", "shop.json").output == "j True k []\n"
    told = run("tell", "--settings", file, "--database", "typed", "--models", program)
    assert told.output == "typed True of the file ['cli.letter']\n"


def test_what_is_typed_wins_over_the_environment_and_this_over_a_file(
    program: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = toml(tmp_path / "a.toml", 'mongo_uri = "mongomock://"\ndatabase = "filed"\n')
    monkeypatch.setenv("EARNORM_SETTINGS", file)
    assert run("tell").output.startswith("filed ")
    monkeypatch.setenv("EARNORM_DATABASE", "environment")
    assert run("tell").output.startswith("environment ")
    assert run("tell", "--database", "typed").output.startswith("typed ")
    # A program's own App, in the environment, wins over the parts there, and not over a typed one.
    monkeypatch.setenv("EARNORM_APP", f"{program}:make")
    assert run("tell").output.startswith("made ")
    assert run("tell", "--database", "typed").output.startswith("typed ")
    monkeypatch.setenv("EARNORM_APP", "")
    assert run("tell").output.startswith("environment ")


@pytest.mark.parametrize("beside", ["--uri", "--database", "--settings"])
def test_an_app_of_the_program_beside_its_parts_is_wrong_usage(program: str, beside: str) -> None:
    refused = run("tell", "--app", f"{program}:make", beside, "x")
    assert refused.exit_code == 2
    assert f"leave out {beside}, or leave out --app" in refused.stderr


@pytest.mark.parametrize("name", ["program", "program:", ":make"])
def test_a_name_without_module_or_function_is_wrong_usage(
    program: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run("tell", "--app", name).exit_code == 2
    monkeypatch.setenv("EARNORM_APP", name)
    assert "a module and a function" in run("tell").stderr


@pytest.mark.parametrize(
    ("attribute", "told"),
    [
        ("nothing", "has no 'nothing'"),
        ("make_with", "is called without arguments: missing a required argument: 'argument'"),
        ("make_nothing", "it gave a dict"),
        ("make_failing", "RuntimeError: no licence"),
        ("Letter", "it gave a Letter"),
    ],
)
def test_what_makes_no_app_is_one_line(program: str, attribute: str, told: str) -> None:
    for command in ("tell", "models", "recompute", "plugins"):
        refused = run(command, "--app", f"{program}:{attribute}")
        assert refused.exit_code == 1
        assert told in refused.stderr
        assert len(refused.stderr.splitlines()) == 1
        assert SECRET not in refused.output
    assert told in run("doctor", "--app", f"{program}:{attribute}").output


def test_a_module_that_cannot_be_imported_is_one_line(program: str, tmp_path: Path) -> None:
    (tmp_path / "broken_one.py").write_text("import nowhere_at_all")
    for given in (("--app", "broken_one:app"), ("--models", "broken_one", "--uri", "mongomock://")):
        refused = run("tell", *given, *(("--database", "x") if len(given) > 2 else ()))
        assert refused.exit_code == 1
        assert "ModuleNotFoundError: No module named 'nowhere_at_all'" in refused.stderr
        assert len(refused.stderr.splitlines()) == 1


def _commands(command: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    for part, inner in getattr(command, "commands", {}).items():
        yield from _commands(inner, f"{name} {part}".strip())
    if not hasattr(command, "commands"):
        yield name, command


@pytest.mark.parametrize(("name", "command"), list(_commands(typer.main.get_command(application))))
def test_every_command_of_the_core_takes_the_same_options(name: str, command: Any) -> None:
    options = {p.opts[0]: p.envvar for p in command.params if p.opts[0].startswith("--")}
    wanted = ("app", "uri", "database", "settings", "models")
    if name in ("version", "new plugin"):  # they are about no App
        assert not {f"--{part}" for part in wanted} & options.keys()
        return
    assert {option: options.get(option) for option in map("--{}".format, wanted)} == {
        f"--{part}": f"EARNORM_{part.upper()}" for part in wanted
    }


def test_every_command_of_the_core_works_with_an_app_of_the_program(program: str) -> None:
    app = ("--app", f"{program}:make")
    assert f"cli.letter: index text_1 (index), of {program}" in run("models", *app).output
    assert "cli.letter" not in run("models", "--without", "keyed", *app).output
    recomputed = run("recompute", "--model", "cli.letter", *app)
    assert recomputed.output == "no model has stored computed fields\n"
    assert "cli_letter" in run("indexes", "diff", *app).output
    rows = {row["name"]: row for row in json.loads(run("plugins", "--json", *app).output)}
    assert rows["keyed"]["status"] == "active"
    found = json.loads(run("doctor", "--json", *app).output)
    assert any("data is lost at the end" in finding["what"] for finding in found)
    assert any(f["what"] == "plugin 'keyed' (earnorm-keyed 1.2) is active" for f in found)


def test_a_file_selects_plugins_and_gives_doctor_their_settings(
    install: Install,  # noqa: F811
    program: str,
    tmp_path: Path,
) -> None:
    install("other")
    file = toml(tmp_path / "a.toml", 'plugins = ["keyed"]\n[keyed]\nsize = "s3cret-value"\n')
    rows = {
        row["name"]: row for row in json.loads(run("plugins", "--json", "--settings", file).output)
    }
    assert (rows["keyed"]["status"], rows["other"]["status"]) == ("active", "not selected")
    found = run("doctor", "--settings", file).output
    assert "settings of plugin 'keyed': size:" in found
    assert SECRET not in found


async def test_a_command_that_only_looks_creates_no_index(program: str) -> None:
    source = AppSource(f"{program}:make")
    async with source.opened(creates_indexes=False) as app:
        assert not app.settings.create_indexes
        assert current_env().app is app
    assert not app.is_started
    async with source.opened() as app:
        assert app.settings.create_indexes


# -- a plugin's own options -----------------------------------------------------------------------


def test_an_option_of_a_plugins_command_wins_over_one_of_the_app(
    program: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = ("--uri", "mongomock://", "--database", "shop")
    assert run("own", "--models", "mine", "--traceback", *place).output == "own mine True shop\n"
    assert program not in sys.modules
    assert run("own", *place, "--earnorm-models", program).output == "own  False shop\n"
    assert program in sys.modules
    del sys.modules[program]
    monkeypatch.setenv("EARNORM_MODELS", program)
    assert run("own", *place).output == "own  False shop\n"
    assert program in sys.modules


# -- values of settings ---------------------------------------------------------------------------

VALUES: dict[str, Any] = {
    "text": SECRET,
    "list": [SECRET],
    "table": {SECRET[:6]: SECRET},
    "number": -98765.25,
    "plain": True,
}


@pytest.mark.parametrize("keyword", sorted({*parameters_of(earnorm.App), "keyed", "nobody"}))
def test_no_error_shows_a_value_of_a_file(program: str, keyword: str, tmp_path: Path) -> None:
    names = {"database", "name", "plugins", "disabled", "required"}  # messages name names
    refusals = 0
    for value in VALUES.values():
        settings = {"mongo_uri": "mongomock://", "database": "x", keyword: value}
        (tmp_path / "a.json").write_text(json.dumps(settings))
        result = run("tell", "--settings", "a.json")
        refusals += result.exit_code == 1
        assert result.exit_code in (0, 1), result.output
        assert result.exit_code == 0 or result.stderr.startswith("earnorm: ")
        if keyword not in names:
            assert SECRET not in result.output
            assert "98765" not in result.output
    assert refusals >= 1


def test_a_uri_shows_no_password(program: str, tmp_path: Path) -> None:
    for uri in ("postgres://ann:s3cret-value@x", "mongodb://ann:s3cret-value@:x:y"):
        (tmp_path / "a.json").write_text(json.dumps({"mongo_uri": uri, "database": "x"}))
        result = run("tell", "--settings", "a.json")
        assert (result.exit_code, SECRET in result.output) == (1, False)


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("a.toml", "key = s3cret-value", "it is no TOML at line 1, column 7"),
        ("a.toml", 'key = "s3cret-value', "it is no TOML at"),
        ("a.json", '{"key": s3cret-value}', "it is no JSON at line 1, column 9"),
        ("a.json", '["s3cret-value"]', "one object of names and values"),
        ("a.ini", "key = s3cret-value", "its name ends in .toml or .json"),
        ("a.toml", 'client = "s3cret-value"', "an object of a program: give it with --app"),
        (
            "a.toml",
            'databse = "s3cret-value"',
            "unknown keyword 'databse'; did you mean 'database'?",
        ),
        (
            "a.toml",
            'cache = "s3cret-value"',
            "cache has the settings of the plugin 'cache', names and their values, and not one value",
        ),
    ],
)
def test_a_file_that_cannot_be_read_says_where(
    program: str, name: str, text: str, told: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_text(text)
    result = run("tell", "--settings", name)
    assert result.exit_code == 1
    assert told in result.stderr
    assert SECRET not in result.output
    assert run("tell", "--settings", "nowhere.toml").stderr.endswith("No such file or directory\n")


# -- exceptions -----------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["fail", "fail-with-app"])
@pytest.mark.parametrize(
    ("kind", "code", "line"),
    [
        ("pydantic", 1, "Settings: size: Input should be a valid integer"),
        ("group", 1, "ExceptionGroup: two: ValueError: one of them; KeyError: 'other' (--trace"),
        (
            "large group",
            1,
            "ExceptionGroup: many of them: ValueError: 0; ValueError: 1; ValueError: 2; and 2 more (",
        ),
        ("base", 1, "Stop: now (--traceback shows where)"),
        ("broken", 1, "Broken: its __str__ raises RuntimeError (--traceback shows where)"),
        ("cancelled", 1, "CancelledError"),
        ("lines", 1, "RuntimeError: first second"),
        ("silent", 1, "LookupError (--traceback shows where)"),
        ("ours", 1, "not so"),
        ("exit", 3, None),
        ("interrupt", 130, None),
    ],
)
def test_whatever_a_command_raises_is_one_line(
    program: str, command: str, kind: str, code: int, line: str | None
) -> None:
    place = ("--uri", "mongomock://", "--database", "x") if command != "fail" else ()
    result = run(command, kind, *place)
    assert (result.exit_code, result.stdout) == (code, "")
    assert SECRET not in result.output
    if line is None:
        assert result.stderr == ""
        return
    assert result.stderr.startswith(f"earnorm: {line}")
    assert len(result.stderr.splitlines()) == 1


def test_a_traceback_for_who_asks(program: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for asked in (("--traceback", "fail", "lines"), ("fail", "lines", "--traceback")):
        result = run(*asked)
        assert result.exit_code == 1
        assert "Traceback (most recent call last)" in result.stderr
        assert "in fail\n" in result.stderr
        assert result.stderr.splitlines()[-1] == "earnorm: RuntimeError: first second"
    assert "Traceback" not in run("fail", "lines").stderr  # it is asked for each time
    monkeypatch.setenv("EARNORM_DEBUG", "1")
    assert "Traceback" in run("fail", "lines").stderr
    monkeypatch.setenv("EARNORM_DEBUG", "0")
    assert "Traceback" not in run("fail", "lines").stderr


def test_a_process_that_is_interrupted_ends_with_130_and_stops_its_app(
    program: str, tmp_path: Path
) -> None:
    (tmp_path / "slow_one.py").write_text(
        "import os, signal\n"
        # A shell that starts a job in the background may have it ignore the signal.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "import earnorm\n"
        "class Slow:\n"
        "    api = 1\n"
        "    @earnorm.hookimpl\n"
        "    def shutdown(self):\n"
        "        print('stopped', flush=True)\n"
        "    @earnorm.hookimpl\n"
        "    def models_changed(self):\n"
        "        pass\n"
        "class App(earnorm.App):\n"
        "    async def recompute(self, *args, **options):\n"
        "        os.kill(os.getpid(), signal.SIGINT)\n"
        "        import asyncio\n"
        "        await asyncio.sleep(30)\n"
        "class Sum(earnorm.BaseModel):\n"
        "    one = earnorm.Int(compute='_one', store=True)\n"
        "    @earnorm.depends()\n"
        "    def _one(self): return 1\n"
        "def app(): return App('mongomock://', database='x', plugins=[Slow])\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "earnorm.cli", "recompute", "--app", "slow_one:app"],
        cwd=tmp_path,
        env={**os.environ, "EARNORM_PLUGINS": ""},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout) == (130, "stopped\n"), done.stderr
    assert "Traceback" not in done.stderr


# -- what plugins make of the models --------------------------------------------------------------

WRONG = """
from earnorm import hookimpl
class Plugin:
    api = 1
    @hookimpl
    def wrap_operation(self, model, operation):
        return [(500, None)] if model._name == "cli.letter" and operation == "write" else []
    @hookimpl
    def register_steps(self, model):
        return [5]
"""
LATE = """
from earnorm import hookimpl
class Plugin:
    api = 1
    @hookimpl
    def startup(self): self.begun = True
    @hookimpl
    def register_steps(self, model): return () if self.begun else ()
"""


@pytest.fixture
def alone(program: str) -> Iterator[str]:
    """The program, in a process in which no other test has defined a model."""
    with definitions(alone=True):
        yield program


def doctored(*arguments: str) -> list[tuple[str, str]]:
    """What doctor says of the models, each with its level."""
    found = json.loads(run("doctor", "--json", *arguments).output)
    return [(f["level"], f["what"]) for f in found if "model" in f["what"] or "layer" in f["what"]]


@pytest.mark.parametrize("how", ["--models", "make", "make_started"])
def test_doctor_asks_plugins_for_the_layers_and_steps_of_models(
    install: Install,  # noqa: F811
    alone: str,
    how: str,
) -> None:
    given = (how, alone) if how == "--models" else ("--app", f"{alone}:{how}")
    if how != "--models":  # without the program's settings the plugin `keyed` is only warned of
        assert doctored(*given) == [("ok", "1 model, with the layers and steps of each")]
    install("wrong", WRONG)
    file = Path("with.toml")
    file.write_text('plugins = ["wrong"]')
    found = doctored(*given, *(("--settings", str(file)) if how == "--models" else ()))
    assert {level for level, _ in found} == {"error"}
    told = sorted(what for _, what in found)
    assert len(told) == 2
    assert "plugin 'wrong' breaks the contract: wrap_operation gave None; a layer is" in told[0]
    assert "plugin 'wrong': register_steps(app, model) gives Steps" in told[1]


def test_doctor_only_warns_of_what_a_plugin_cannot_tell_before_its_startup(
    install: Install,  # noqa: F811
    alone: str,
) -> None:
    install("late", LATE)
    [(level, what)] = doctored("--app", f"{alone}:make")
    assert level == "warning"
    assert "plugin 'late' failed in its hook register_steps" in what
    assert doctored("--app", f"{alone}:make_started")[0][0] == "ok"


def test_doctor_tells_of_a_model_that_cannot_be_used(alone: str, tmp_path: Path) -> None:
    with (tmp_path / f"{alone}.py").open("a") as file:
        file.write('\nclass Post(BaseModel):\n    by = earnorm.Many2one("cli.letr")\n')
    [(level, what)] = doctored("--app", f"{alone}:make")
    assert level == "error"
    assert "post.by points at a model 'cli.letr'" in what
