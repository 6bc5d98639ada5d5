"""The five wheels, built into dist/ and installed where nothing else is. Slow: `nox -s packaging` runs it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import venv
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow_packaging

ROOT = Path(__file__).parents[2]
DIST = ROOT / "dist"
PACKAGES = {
    "earnorm-core": "earnorm",
    "earnorm-cache": "earnorm_cache",
    "earnorm-security": "earnorm_security",
    "earnorm-audit": "earnorm_audit",
    "earnorm-pool": "earnorm_pool",
}
PLUGINS = {"cache", "security", "audit", "pool"}


def run(*command: str | Path, cwd: Path, expected: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, capture_output=True, text=True, check=False
    )
    assert done.returncode == expected, f"{command}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done


@dataclass(frozen=True)
class Environment:
    """An environment that had pip and nothing else in it when it was made."""

    directory: Path

    @classmethod
    def create(cls, directory: Path, wheels: dict[str, Path], extras: str = "") -> Environment:
        """Make one and install the core with these extras: a wheel by its URL, the rest by name."""
        venv.create(directory, with_pip=True)
        requirement = f"earnorm-core{extras} @ {wheels['earnorm-core'].as_uri()}"
        # The constraints make an extra's `earnorm-cache` mean the wheel that was just built.
        constraints = directory / "constraints.txt"
        lines = (f"{package} @ {wheel.as_uri()}\n" for package, wheel in wheels.items())
        constraints.write_text("".join(lines))
        environment = cls(directory)
        environment.python("-m", "pip", "install", "--quiet", "-c", constraints, requirement)
        return environment

    def python(self, *arguments: str | Path) -> str:
        # -I: neither the repository nor the user's site directory is importable.
        return run(self.directory / "bin" / "python", "-I", *arguments, cwd=self.directory).stdout

    def command(self, *arguments: str, expected: int = 0) -> subprocess.CompletedProcess[str]:
        return run(
            self.directory / "bin" / "earnorm", *arguments, cwd=self.directory, expected=expected
        )


@pytest.fixture(scope="module")
def wheels() -> dict[str, Path]:
    """Every package's wheel, built from its source distribution, so both are whole."""
    for old in DIST.glob("earnorm*"):
        old.unlink()
    built: dict[str, Path] = {}
    for package in PACKAGES:
        run(
            *(sys.executable, "-m", "build", "--no-isolation", "--outdir", DIST, ROOT / package),
            cwd=ROOT,
        )
        [built[package]] = DIST.glob(f"{package.replace('-', '_')}-*.whl")
    return built


@pytest.fixture(scope="module")
def everything(wheels: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Environment:
    directory = tmp_path_factory.mktemp("all")
    return Environment.create(directory, wheels, "[all]")


@pytest.fixture(scope="module")
def core_alone(wheels: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Environment:
    directory = tmp_path_factory.mktemp("core")
    return Environment.create(directory, wheels)


@pytest.mark.parametrize("package", PACKAGES)
def test_a_wheel_carries_its_code_types_and_licence_and_nothing_else(
    package: str, wheels: dict[str, Path]
) -> None:
    name = PACKAGES[package]
    with zipfile.ZipFile(wheels[package]) as wheel:
        files = set(wheel.namelist())
    info = "-".join(wheels[package].name.split("-")[:2]) + ".dist-info"
    assert {f"{name}/__init__.py", f"{name}/py.typed", f"{info}/licenses/LICENSE"} <= files
    assert {file.partition("/")[0] for file in files} == {name, info}


def wheel_of(source: Path, out: Path, **environment: str) -> Path:
    """Build the core's wheel from a source tree in an environment."""
    command = (sys.executable, "-m", "build", "--no-isolation", "--wheel", "--outdir", out, source)
    done = subprocess.run(
        [str(part) for part in command],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environment},
    )
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    [wheel] = out.glob("*.whl")
    return wheel


def test_the_core_s_wheel_has_the_compiled_decoder_and_uses_it(core_alone: Environment) -> None:
    """Where CI runs there is a compiler."""
    program = "from earnorm.backends.native.loading import decision; print(decision())"
    assert core_alone.python("-c", program).strip() == "compiled"


@pytest.mark.parametrize(
    "missing", [{"CC": "/no/compiler", "PATH": "/no/path"}, {"EARNORM_NATIVE": "0"}]
)
def test_without_a_compiler_the_wheel_is_a_pure_one_that_works(
    missing: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("EARNORM_NATIVE", raising=False)  # CI demands the decoder of all else
    wheel = wheel_of(ROOT / "earnorm-core", tmp_path / "out", **{"EARNORM_NATIVE": "", **missing})
    assert wheel.name.endswith("-py3-none-any.whl")
    with zipfile.ZipFile(wheel) as file:
        assert not [name for name in file.namelist() if name.endswith((".so", ".pyd"))]
    environment = Environment.create(tmp_path / "environment", {"earnorm-core": wheel})
    program = "from earnorm.backends.native.loading import decision; print(decision())"
    assert environment.python("-c", program).startswith("the driver's (it is not installed")


def test_an_editable_install_compiles_the_decoder_into_its_source_tree(tmp_path: Path) -> None:
    source = tmp_path / "core"
    ignored = shutil.ignore_patterns("*.so", "__pycache__")
    shutil.copytree(ROOT / "earnorm-core", source, ignore=ignored)
    venv.create(tmp_path / "environment", with_pip=True)
    environment = Environment(tmp_path / "environment")
    environment.python("-m", "pip", "install", "--quiet", "--editable", source)
    program = "from earnorm.backends.native.loading import decision; print(decision())"
    assert environment.python("-c", program).strip() == "compiled"
    assert len(list((source / "src/earnorm/backends/native").glob("*.so"))) == 1


def test_the_core_with_all_extras_brings_every_package(everything: Environment) -> None:
    names = sorted(PACKAGES.values())
    everything.python("-m", "pip", "check")
    said = everything.python(
        "-c", f"import {', '.join(names)}; print({', '.join(n + '.__version__' for n in names)})"
    )
    assert said.split() == ["0.1.0"] * 5


def test_the_installed_packages_are_the_ones_just_built(everything: Environment) -> None:
    program = (
        "import importlib.metadata as m, json; "
        f"print(json.dumps([m.distribution(p).read_text('direct_url.json') for p in {list(PACKAGES)}]))"
    )
    origins = json.loads(everything.python("-c", program))
    assert all(origin and DIST.as_uri() in origin for origin in origins)


def test_the_installed_command_lists_the_four_plugins(everything: Environment) -> None:
    listed = json.loads(everything.command("plugins", "--json").stdout)
    rows = listed["plugins"] if isinstance(listed, dict) else listed
    assert {row["name"] for row in rows} >= PLUGINS


def test_the_core_alone_imports_and_brings_no_plugin(core_alone: Environment) -> None:
    core_alone.python("-m", "pip", "check")
    program = (
        "import earnorm, importlib.metadata as m, importlib.util as u; "
        "print(earnorm.__version__, len(m.entry_points(group='earnorm.plugins')), "
        f"[n for n in {sorted(set(PACKAGES.values()) - {'earnorm'})} if u.find_spec(n)])"
    )
    assert core_alone.python("-c", program).split() == ["0.1.0", "0", "[]"]


def test_the_command_without_its_extra_says_what_to_install(core_alone: Environment) -> None:
    said = core_alone.command("plugins", expected=1)
    assert "earnorm-core[cli]" in said.stderr
    assert "Traceback" not in said.stderr


def test_a_new_plugin_is_installed_as_it_was_written_and_passes_its_tests(
    everything: Environment,
) -> None:
    everything.command("new", "plugin", "stamps", "--with", "all")
    project = everything.directory / "earnorm-stamps"
    # The core that it needs is there already; pip may not look for another one.
    pip = ("-m", "pip", "install", "--quiet", "--find-links", DIST)
    everything.python(*pip, "--editable", f"{project}[test]")
    listed = json.loads(everything.command("plugins", "--json").stdout)
    assert {row["name"]: row["status"] for row in listed}["stamps"] == "active"
    assert "stamps-count" in everything.command("--help").stdout
    # Without a server: the session has none.
    arguments = ("-m", "pytest", "-q", "--earnorm-memory", "-c", project / "pyproject.toml")
    assert " passed" in everything.python(*arguments, f"--rootdir={project}", project / "tests")
    # As its author would run it: the configuration is that of the folder.
    python = everything.directory / "bin" / "python"
    assert run(python, "-m", "mypy", cwd=project).stdout.startswith("Success")
    run(python, "-m", "pip", "install", "--quiet", "build", cwd=project)
    run(python, "-m", "build", cwd=project)
    [wheel] = (project / "dist").glob("*.whl")
    with zipfile.ZipFile(wheel) as file:
        names = set(file.namelist())
    assert {"earnorm_stamps/plugin.py", "earnorm_stamps/py.typed"} <= names
    assert not [name for name in names if name.startswith("tests")]
