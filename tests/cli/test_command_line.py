"""The command ``earnorm``: what it prints, how it ends, and what it never does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from packaging.specifiers import SpecifierSet  # pytest brings it
from typer.testing import CliRunner

import earnorm
from earnorm.cli import doctor
from earnorm.cli.application import application
from tests.cli.distributions import write_distribution
from tests.core.conftest import definitions

GOOD = "import earnorm\nclass Plugin:\n    api = 1\n"
MARK = "    @earnorm.hookimpl\n"
VARIABLES = (
    "EARNORM_PLUGINS",
    "EARNORM_DISABLED_PLUGINS",
    "EARNORM_URI",
    "EARNORM_DATABASE",
    "EARNORM_DRIVER",
    "EARNORM_APP",
    "EARNORM_MODELS",
    "EARNORM_SETTINGS",
    "EARNORM_DEBUG",
)
Install = Callable[..., None]


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COLUMNS", "400")  # no line of a table is folded


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """``install("bad", source)`` installs earnorm-bad in this process; only those are selected."""

    def installing(name: str, source: str = GOOD, **options: Any) -> None:
        site, _ = write_distribution(tmp_path, name, source, **options)
        monkeypatch.syspath_prepend(str(site))
        selected = [*os.environ.get("EARNORM_PLUGINS", "").split(","), name]
        monkeypatch.setenv("EARNORM_PLUGINS", ",".join(filter(None, selected)))

    return installing


def run(*arguments: str) -> Any:
    return CliRunner().invoke(application, arguments)


def rows(*arguments: str) -> dict[str, dict[str, str]]:
    result = run("plugins", "--json", *arguments)
    assert result.exit_code == 0, result.output
    return {row["name"]: row for row in json.loads(result.stdout)}


def findings(*arguments: str, exit_code: int = 0) -> list[tuple[str, str, str]]:
    result = run("doctor", "--json", *arguments)
    assert result.exit_code == exit_code, result.output
    return [(f["level"], f["what"], f["what_to_do"]) for f in json.loads(result.stdout)]


def of_level(level: str, found: list[tuple[str, str, str]]) -> list[tuple[str, str]]:
    return [(what, to_do) for each, what, to_do in found if each == level]


# -- plugins --------------------------------------------------------------------------------------


def test_plugins_lists_each_with_its_status_and_reason(
    install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("one", "two"):
        install(name)
    monkeypatch.setenv("EARNORM_PLUGINS", "one,nonsuch")
    listed = rows()
    assert listed["one"] == {
        "name": "one",
        "distribution": "earnorm-one",
        "version": "1.2",
        "status": "active",
        "reason": "",
    }
    assert (listed["two"]["status"], listed["nonsuch"]["status"]) == (
        "not selected",
        "not installed",
    )
    assert "EARNORM_PLUGINS leaves it out" in listed["two"]["reason"]
    assert listed["nonsuch"]["reason"] == "pip install earnorm-nonsuch"
    monkeypatch.setenv("EARNORM_DISABLED_PLUGINS", "one")
    assert rows()["one"]["status"] == "disabled"
    assert "EARNORM_DISABLED_PLUGINS" in rows()["one"]["reason"]


def test_plugins_imports_none_and_so_a_broken_one_is_listed_all_the_same(
    install: Install, tmp_path: Path
) -> None:
    mark = tmp_path / "imported"
    install("bad", f"open({str(mark)!r}, 'w').close()\nraise RuntimeError('no licence')")
    assert rows()["bad"]["status"] == "active"
    result = run("plugins")
    assert result.exit_code == 0
    assert "earnorm-bad" in result.stdout
    assert not mark.exists()


def test_a_reason_in_brackets_is_printed_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EARNORM_PLUGINS", "[red]x[/]")
    assert "pip install earnorm-[red]x[/]" in run("plugins").stdout


def test_two_distributions_with_one_name_are_listed_as_such(
    install: Install, tmp_path: Path
) -> None:
    install("one")
    install("two")
    for points in tmp_path.glob("*/*/entry_points.txt"):
        points.write_text(points.read_text().replace("two =", "one ="))
    install("three")
    told = "earnorm-one and earnorm-two both register a plugin named 'one'; uninstall one of them"
    assert (rows()["one"]["status"], rows()["one"]["reason"]) == ("ambiguous", told)
    assert rows()["three"]["status"] == "active"
    [to_do] = [do for what, do in of_level("error", findings(exit_code=1)) if what == told]
    assert "EARNORM_DISABLED_PLUGINS=one" in to_do
    result = run("nonsense")
    assert f"warning: {told}" in result.stderr
    assert isinstance(result.exception, SystemExit)


# -- commands of plugins --------------------------------------------------------------------------

COMMANDS = """
from __future__ import annotations
from typing import TYPE_CHECKING, Annotated
import typer
from earnorm import hookimpl
if TYPE_CHECKING:
    from earnorm import App
    from nowhere import Thing

def add(one: int, two: Annotated[int, typer.Option(help="the other")] = 1):
    "Add two numbers."
    print(one + two)

async def where(app: App, *, loud: bool = False) -> Thing:
    print(app.settings.database.upper() if loud else app.settings.database, app.is_started)

def refuse():
    from earnorm import NotFound
    raise NotFound("no such letter")

class Plugin:
    api = 1
    @staticmethod
    @hookimpl
    def register_commands():
        return {"add": add, "where": where, "refuse": refuse}
"""


def test_a_plugins_command_has_its_arguments_and_options(install: Install) -> None:
    install("sums", COMMANDS)
    assert run("add", "2", "--two", "3").stdout == "5\n"
    assert run("add", "2").stdout == "3\n"
    assert run("add", "x").exit_code == 2
    listed = run("--help").stdout
    assert "Add two numbers." in listed
    assert "doctor" in listed


def test_a_parameter_named_app_is_a_started_app(
    install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    install("sums", COMMANDS)
    given = run("where", "--uri", "mongomock://", "--database", "shop", "--loud")
    assert given.stdout == "SHOP True\n", given.output
    assert "--app" in run("where", "--help").stdout  # where the App comes from
    assert run("where", "--app", "shop").exit_code == 2
    refused = run("where")
    assert refused.exit_code == 1
    assert "--uri and --database, or EARNORM_URI and EARNORM_DATABASE" in refused.stderr
    monkeypatch.setenv("EARNORM_URI", "mongomock://")
    monkeypatch.setenv("EARNORM_DATABASE", "post")
    assert run("where").stdout == "post True\n"


def test_an_error_of_a_command_is_one_line(install: Install) -> None:
    install("sums", COMMANDS)
    result = run("refuse")
    assert (result.exit_code, result.stderr) == (1, "earnorm: no such letter\n")


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("raise RuntimeError('no licence')", "'bad' from earnorm-bad 1.2 failed to load"),
        ("class Plugin: ...", "does not say which API"),
        (GOOD + "    def register_commands(self): return {}", "hook and not marked: @hookimpl"),
        (
            GOOD + MARK + "    def register_commands(self): return {}",
            "register_commands() is asked before there is an instance: @staticmethod",
        ),
        (
            GOOD
            + "    @staticmethod\n"
            + MARK
            + "    def register_commands(): return {'doctor': lambda: None}",
            "brings a command 'doctor', which earnorm itself has",
        ),
        (
            "def go(x: 'Nowhere'): ...\n"
            + GOOD
            + "    @staticmethod\n"
            + MARK
            + "    def register_commands(): return {'go': go}",
            "plugin 'bad': its command 'go' cannot be offered: name 'Nowhere' is not defined",
        ),
    ],
)
def test_a_plugin_with_bad_commands_hides_no_other(
    source: str, told: str, install: Install
) -> None:
    install("bad", source)
    install("sums", COMMANDS)
    assert run("add", "2").stdout == "3\n"
    listed = run("--help")
    assert listed.exit_code == 0
    assert told in listed.stderr
    missing = run("nonsuch")
    assert missing.exit_code == 2
    assert told in missing.stderr


# -- doctor ---------------------------------------------------------------------------------------


def test_doctor_finds_nothing_wrong_with_a_real_server(monkeypatch: pytest.MonkeyPatch) -> None:
    uri = os.environ["EARNORM_TEST_MONGO_URI"]
    monkeypatch.setenv("EARNORM_PLUGINS", "")
    found = findings("--uri", uri, "--database", "doctor")
    assert of_level("warning", found) == []
    told = [what for what, _ in of_level("ok", found)]
    assert any("MongoDB" in what and "answers" in what for what in told)
    assert any("transactions are available (replica set" in what for what in told)
    assert "database 'doctor' can be read; collections: 0" in told
    assert f"earnorm-core {earnorm.__version__}" in told


def test_doctor_names_host_and_port_of_a_missing_server_and_no_password(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("EARNORM_PLUGINS", "")
    monkeypatch.setattr(doctor, "SERVER_SECONDS", 0.2)
    result = run("doctor", "--uri", "mongodb://ann:s3cret@127.0.0.1:1/", "--database", "x")
    assert result.exit_code == 1
    assert "127.0.0.1:1" in result.stdout
    assert "see that the server runs" in result.stdout
    assert "s3cret" not in result.output


@pytest.mark.parametrize(
    ("uri", "driver"),
    [("postgres://ann:s3cret@x", ""), ("mongodb://ann:s3cret@:x:y", ""), ("mongodb://x", "mtoor")],
)
def test_doctor_refuses_what_is_no_address(
    uri: str, driver: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EARNORM_PLUGINS", "")
    monkeypatch.setenv("EARNORM_DRIVER", driver)
    found = findings("--uri", uri, exit_code=1)
    [(what, to_do)] = of_level("error", found)
    assert "s3cret" not in what
    assert to_do == "correct the URI or EARNORM_DRIVER"


def test_doctor_warns_where_it_has_no_server_or_one_without_transactions(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("EARNORM_PLUGINS", "")
    assert of_level("warning", findings()) == [
        ("the server was not looked at", "give --uri, or set EARNORM_URI")
    ]
    [(what, to_do)] = of_level("warning", findings("--uri", "mongomock://"))
    assert "data is lost" in what
    assert "mongodb://" in to_do


def test_doctor_names_what_is_selected_and_not_installed(
    install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    install("greeter")
    monkeypatch.setenv("EARNORM_PLUGINS", "gretter")
    monkeypatch.setenv("EARNORM_DISABLED_PLUGINS", "greter,watching")
    found = findings(exit_code=1)
    [(what, to_do)] = of_level("error", found)
    assert "EARNORM_PLUGINS names 'gretter'" in what
    assert "did you mean 'greeter'?" in what
    assert to_do == "correct the name, or take it out of EARNORM_PLUGINS"
    assert "EARNORM_DISABLED_PLUGINS names 'greter'" in of_level("warning", found)[0][0]
    assert "watching" not in str(found)  # a feature's name


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("raise RuntimeError('no licence')", "RuntimeError: no licence"),
        ("class Plugin:\n    api = 7", "written for plugin API 7"),
        (
            "import earnorm\n" + GOOD + "    @earnorm.hookimpl\n    def startup(self, ap): ...",
            "expected startup(self, app)",
        ),
    ],
)
def test_doctor_loads_plugins_and_says_what_is_wrong(
    source: str, told: str, install: Install
) -> None:
    install("bad", source)
    install("good")
    found = findings(exit_code=1)
    [(what, to_do)] = of_level("error", found)
    assert told in what
    assert "EARNORM_DISABLED_PLUGINS=bad" in to_do
    assert ("plugin 'good' (earnorm-good 1.2) is active", "") in of_level("ok", found)


def test_doctor_only_warns_where_the_program_has_the_settings(install: Install) -> None:
    source = (
        "import earnorm, pydantic\n"
        "class S(pydantic.BaseModel):\n    key: str\n"
        "class Plugin:\n    api = 1\n    def __init__(self, s): ...\n"
        "    @staticmethod\n    @earnorm.hookimpl\n    def settings(): return S\n"
    )
    install("keyed", source)
    (what, to_do), _ = of_level("warning", findings())
    assert "settings of plugin 'keyed': key: Field required" in what
    assert to_do == "pass its settings: App(..., keyed={...})"


@pytest.mark.parametrize(
    "pin", ["earnorm-core>=9", "earnorm_core (<0.1)", "Earnorm.Core[cli] ~=7.1"]
)
def test_doctor_finds_a_plugin_for_another_core(pin: str, install: Install) -> None:
    install("late", requires=pin)
    [(what, to_do)] = of_level("error", findings(exit_code=1))
    assert f"installed is {earnorm.__version__}" in what
    assert to_do == "pip install --upgrade earnorm-late earnorm-core"


@pytest.mark.parametrize(
    ("version", "specifier", "is_within"),
    [
        ("0.1.0", ">=0.1,<0.2", True),
        ("0.2.0", ">=0.1,<0.2", False),
        ("0.2", "==0.2.0", True),
        ("1.10", ">1.9", True),
        ("1.4.5", "~=1.4.2", True),
        ("1.5.0", "~=1.4.2", False),
        ("1.4.5", "==1.4.*", True),
        ("1.5", "!=1.5.*", False),
        ("4.13.0", "", True),
        ("1.0rc1", ">=1", False),
        ("1.0rc1", ">=1.0rc1", True),
        ("1.0rc1", "<1", False),
        ("1.1rc1", ">=1", True),
        ("1.0.dev3", ">=1.0", False),
        ("1.0+local", "==1.0", True),
    ],
)
def test_pins_are_read_as_pip_reads_them(version: str, specifier: str, is_within: bool) -> None:
    assert doctor.fits(version, specifier) is is_within


NUMBER = st.lists(st.integers(0, 3), min_size=2, max_size=4).map(lambda n: ".".join(map(str, n)))
PRE = st.sampled_from(["", "a1", "b2", "rc1"])
SUFFIX = st.sampled_from(["", "a1", "b2", "rc1", "rc2", ".dev1", ".post1", "rc1.dev1", "rc1.post1"])
CLAUSE = st.builds(
    lambda sign, number, pre, star: (
        sign + number + (star if sign in ("==", "!=") and not pre else pre)
    ),
    st.sampled_from([">=", "<=", ">", "<", "==", "!=", "~="]),
    NUMBER,
    PRE,
    st.sampled_from(["", ".*"]),
)


@given(st.builds(str.__add__, NUMBER, SUFFIX), st.lists(CLAUSE, max_size=3).map(",".join))
def test_pins_agree_with_packaging(version: str, specifier: str) -> None:
    expected = SpecifierSet(specifier).contains(version, prereleases=True)
    assert doctor.fits(version, specifier) == expected


# -- the command itself ---------------------------------------------------------------------------


@pytest.mark.parametrize("asked", ["version", "--version"])
def test_version_names_the_core_its_drivers_and_plugins(asked: str, install: Install) -> None:
    install("broken", "raise RuntimeError")  # it is asked for its metadata alone
    printed = run(asked).stdout.splitlines()
    assert printed[0] == f"earnorm-core {earnorm.__version__}"
    assert [line.split()[0] for line in printed[1:3]] == ["pymongo", "motor"]
    assert "earnorm-broken 1.2" in printed
    assert printed[-1].startswith("Python 3.")


def test_a_shell_completes_commands_and_options(tmp_path: Path) -> None:
    def completed(words: str) -> list[str]:
        variables = {"_EARNORM_COMPLETE": "complete_bash", "COMP_WORDS": words}
        position = {"COMP_CWORD": str(len(words.split()) - 1)}
        command = (sys.executable, "-m", "earnorm.cli")
        environment = {**os.environ, **variables, **position}
        done = subprocess.run(
            command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False
        )
        return done.stdout.split()

    assert completed("earnorm ind") == ["indexes"]
    assert completed("earnorm models --with") == ["--with", "--without"]


@pytest.mark.parametrize("missing", ["typer", "rich"])
def test_without_the_extra_it_says_what_to_install(missing: str, tmp_path: Path) -> None:
    program = f"import sys; sys.modules[{missing!r}] = None\nfrom earnorm.cli import main\nmain()\n"
    done = subprocess.run(
        (sys.executable, "-c", program), capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert 'pip install "earnorm-core[cli]"' in done.stderr
    assert "Traceback" not in done.stderr


def test_importing_the_core_imports_no_typer() -> None:
    program = "import sys, earnorm, earnorm.cli; print({'typer', 'rich'} & sys.modules.keys())"
    done = subprocess.run(
        (sys.executable, "-c", program), capture_output=True, text=True, check=False
    )
    assert done.stdout == "set()\n", done.stderr


EXTENDING = """
from earnorm import Index, String, hookimpl, models

class UserPhone(models.BaseModel):
    _inherit = "cli.user"
    _indexes = [Index("phone")]
    _rules = [("own", "phone")]
    phone = String()

class Plugin:
    api = 1
    @hookimpl
    def register_models(self):
        return [UserPhone]
"""


@pytest.fixture
def user_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    name = f"users_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(
        "from earnorm import String, models\n"
        "class User(models.BaseModel):\n"
        "    _name = 'cli.user'\n"
        "    name = String(index=True)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    with definitions(alone=True):  # each test has a module of its own with a model of this name
        yield name


def test_models_tells_which_distribution_each_part_is_of(
    install: Install, user_module: str
) -> None:
    install("phone", EXTENDING)
    result = run("models", "cli.user", "-m", user_module, "--json")
    assert result.exit_code == 0, result.output
    parts = {(p["kind"], p["name"]): p["origin"] for p in json.loads(result.stdout)}
    assert parts == {
        ("field", "_id"): "earnorm-core",
        ("field", "name"): user_module,
        ("field", "phone"): "earnorm-phone 1.2 (plugin phone)",
        ("index", "name_1"): user_module,
        ("index", "phone_1"): "earnorm-phone 1.2 (plugin phone)",
        ("declaration", "_rules"): "earnorm-phone 1.2 (plugin phone)",
    }
    assert "field phone (String), of earnorm-phone 1.2" in run("models", "-m", user_module).stdout
    assert run("models", "cli.usr", "-m", user_module).exit_code == 1


LINKED = """
from earnorm import BaseModel, List, Many2many, Many2one, Reference, String


class Other(BaseModel):
    _name = "cli.other"


class Part(BaseModel):
    _name = "cli.part"
    label = String(required=True, max_length=9, choices=["a", "b"], string="Label")
    tags = List(String(max_length=3), default=list)
    whole_id = Many2one(lambda: Part, on_delete="cascade")
    other_ids = Many2many("cli.part", exists=True)
    about = Reference("cli.part", "cli.other")
    anything = Reference()
"""


def test_models_tells_options_of_fields_and_targets_of_relations(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cli_linked.py").write_text(LINKED)
    monkeypatch.syspath_prepend(str(tmp_path))
    with definitions(alone=True):
        told = run("models", "cli.part", "-m", "cli_linked").output.splitlines()
        listed = json.loads(run("models", "cli.part", "-m", "cli_linked", "--json").stdout)
    assert [line for line in told if " field " in line and "_id (Obj" not in line] == [
        f"cli.part: field {said}, of cli_linked"
        for said in (
            "label (String, required, max_length=9, choices=['a', 'b'])",
            "tags (List, item=String(max_length=3), default=list)",
            "whole_id (Many2one to cli.part, on_delete='cascade')",
            "other_ids (Many2many to cli.part, exists)",
            "about (Reference to cli.part or cli.other)",
            "anything (Reference)",
        )
    ]
    parts = {part["name"]: part for part in listed}
    assert parts["about"]["targets"] == ["cli.part", "cli.other"]
    assert parts["label"]["options"][:2] == ["required", "max_length=9"]


def test_models_tells_what_installing_or_removing_a_plugin_changes(
    install: Install, user_module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    install("phone", EXTENDING)
    asked = ("models", "cli.user", "-m", user_module)
    lines = run(*asked, "--without", "phone").stdout.splitlines()
    assert [line.split(",")[0] for line in lines] == [
        "- cli.user: field phone (String)",
        "- cli.user: index phone_1 (index)",
        "- cli.user: declaration _rules (tuple)",
    ]
    monkeypatch.setenv("EARNORM_PLUGINS", "")
    found = json.loads(run(*asked, "--with", "phone", "--json").stdout)
    assert [part["name"] for part in found["added"]] == ["phone", "phone_1", "_rules"]
    assert found["removed"] == []
    assert "Nothing would change" in run(*asked, "--without", "phone").stdout


LAYERED = """
from earnorm import hookimpl
from earnorm.plugin import Layer, Stage, Step

class Plugin:
    api = 1
    @hookimpl
    def wrap_operation(self, model, operation):
        return [(Layer.DEFAULT + 5, self.layer)] if operation in ("search", "write") else []
    @hookimpl
    def register_steps(self, model):
        return [Step(Stage.STAMP, "stamp", lambda batch: None)] if "name" in model.fields else []
    @hookimpl
    def startup(self):
        raise AssertionError("nothing is started")
    async def layer(self, op, call_next):
        return await call_next(op)
"""


def test_plugins_hooks_lists_hooks_with_their_meaning_and_layers_of_models(
    install: Install, user_module: str
) -> None:
    install("layered", LAYERED)
    install("phone", EXTENDING)
    (layered, phone) = json.loads(run("plugins", "--hooks", "--json").stdout)
    assert layered["name"] == "layered"
    assert layered["version"] == "1.2"
    assert phone["hooks"] == {"register_models": "Return this plugin's models."}
    assert list(layered["hooks"]) == ["register_steps", "startup", "wrap_operation"]
    assert layered["layers"] == layered["steps"] == []
    (layered, phone) = json.loads(run("plugins", "--hooks", "--json", "-m", user_module).stdout)
    assert {
        "model": "cli.user",
        "operation": "write",
        "layer": "DEFAULT+5",
        "number": 505,
    } in layered["layers"]
    assert {layer["operation"] for layer in layered["layers"]} == {"search", "write"}
    assert {"model": "cli.user", "stage": "STAMP", "step": "stamp"} in layered["steps"]
    printed = run("plugins", "--hooks", "-m", user_module).stdout
    for told in ("Return this plugin's models.", "DEFAULT+5 505", "STAMP"):
        assert told in printed


def test_plugins_hooks_without_a_plugin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EARNORM_PLUGINS", "")
    assert run("plugins", "--hooks").stdout == "No plugin is active.\n"
    assert json.loads(run("plugins", "--hooks", "--json").stdout) == []


def _bringing(name: str) -> str:
    return (
        "def go(): print('went')\n"
        + GOOD
        + "    @staticmethod\n"
        + MARK
        + f"    def register_commands(): return {{{name!r}: go}}"
    )


def test_a_command_of_two_plugins_runs_neither_and_names_both(install: Install) -> None:
    install("one", _bringing("go"))
    assert run("go").stdout == "went\n"
    install("two", _bringing("go"))
    done = run("go")
    assert (done.exit_code, done.stdout) == (1, "")
    told = "plugin 'two' brings a command 'go', which plugin 'one' has"
    assert told in done.stderr
    assert told in run("--help").stderr
    [(what, _)] = of_level("error", findings(exit_code=1))
    assert what == f"{told} already"


def test_doctor_refuses_a_command_that_earnorm_has(install: Install) -> None:
    install("own", _bringing("doctor"))
    [(what, to_do)] = of_level("error", findings(exit_code=1))
    assert what == "plugin 'own' brings a command 'doctor', which EarnORM has already"
    assert "EARNORM_DISABLED_PLUGINS=own" in to_do
