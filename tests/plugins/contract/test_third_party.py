"""A third party's plugin, installed as a distribution: what it brings, and where that ends."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from earnorm import (
    App,
    ConfigurationError,
    DomainError,
    Layer,
    Operation,
    ValidationError,
    hookimpl,
    models,
)
from earnorm.fields import String
from tests.plugins.contract.conftest import Opener


class Person(models.BaseModel):
    _name = "contract.person"
    name = String(required=True)

    def greeting(self) -> str:
        return f"Dear {self.name}"


async def test_a_field_on_a_model_of_somebody_else_is_stored_and_found(
    hello: Path, opened: Opener
) -> None:
    async with opened(plugins=["hello"]) as app:
        ann: Any = await Person.create({"name": "Ann", "color": "#FF0000", "nickname": "A"})
        await Person.create({"name": "Bob"})
        assert ann.color == "#ff0000"
        assert ann.greeting() == "A in #ff0000"
        assert [p.name for p in await Person.search([("color", "=", "#FF0000")])] == ["Ann"]
        assert [p.color for p in await Person.search([("name", "=", "Bob")])] == ["#000000"]
        stored = await app._backend.collection("contract_person").find({"name": "Ann"})
        assert stored[0]["color"] == "#ff0000"


async def test_its_field_type_validates_and_is_listed_in_the_app(
    hello: Path, opened: Opener
) -> None:
    async with opened(plugins=["hello"]) as app:
        assert list(app.field_types) == ["HexColor"]
        with pytest.raises(ValidationError, match="color"):
            await Person.create({"name": "Ann", "color": "red"})
        assert await Person.search([]).count() == 0


async def test_its_operator_means_the_same_on_the_server_and_in_memory(
    hello: Path, opened: Opener
) -> None:
    names = ["Ann", "Anna", "ann", "A.n", "B", "An", "Joann"]
    async with opened(plugins=["hello"]) as app:
        people = await Person.create([{"name": name} for name in names])
        for start in ("An", "A.", "", "x", "Ann"):
            domain = [("name", "starts", start)]
            found = sorted([p.name for p in await Person.search(domain)])
            assert found == sorted(n for n in names if n.startswith(start))
            assert sorted([p.name for p in people.filtered_domain(domain)]) == found
            match = app.matcher(Person, domain)
            assert sorted(n for n in names if match({"name": n})) == found
        with pytest.raises(DomainError, match="'starts' takes a text, not int"):
            await Person.search([("name", "starts", 1)])


async def test_its_async_observer_and_its_settings_belong_to_one_app(
    hello: Path, opened: Opener
) -> None:
    settings = {"greeting": "Hi", "times": 2}
    async with (
        opened(plugins=["hello"], hello=settings) as one,
        opened(plugins=["hello"]) as other,
    ):
        with one.activate():
            await Person.create({"name": "Ann"})
        with other.activate():
            await Person.create({"name": "Bob"})
        services: list[Any] = [one.services["hello"], other.services["hello"]]
        assert [s.greeted for s in services] == [["Hi, Ann!"] * 2, ["Hello, Bob!"]]
        assert [s.seen for s in services] == [["create contract.person"]] * 2


async def test_an_app_without_it_sees_nothing_of_it(hello: Path, opened: Opener) -> None:
    async with opened(plugins=["hello"]) as one, opened(plugins=[]) as other:
        hello_service: Any = one.services["hello"]
        with other.activate():
            person = await Person.create({"name": "Ann"})
            assert person.greeting() == "Dear Ann"
            assert "color" not in other.model("contract.person")._fields
            with pytest.raises(ValidationError, match="color"):
                await Person.create({"name": "Ann", "color": "#ff0000"})
            with pytest.raises(DomainError, match="no such operator"):
                await Person.search([("name", "starts", "A")])
            with pytest.raises(DomainError, match="color"):
                await Person.search([("color", "=", "#ff0000")])
        assert "color" in one.model("contract.person")._fields
        assert "color" not in Person._fields
        assert dict(other.field_types) == {}
        assert "hello" not in other.services
        assert hello_service.seen == []
        assert hello_service.greeted == []


def traced(name: str, layers: Iterable[int], trace: list[str]) -> object:
    """A plugin of that name with a layer at each number; each notes when it is entered and left."""

    def layer(number: int) -> Callable[..., Any]:
        async def middleware(op: Operation, call_next: Callable[[Operation], Any]) -> Any:
            trace.append(f"{number} {name} in")
            result = await call_next(op)
            trace.append(f"{number} {name} out")
            return result

        return middleware

    class Traced:
        api = 1

        @hookimpl
        def wrap_operation(self, app: Any, model: Any, operation: str) -> Any:
            return [(number, layer(number)) for number in layers]

        @hookimpl
        def before_create(self, op: Operation) -> None:
            trace.append(f"{name} before")

        @hookimpl
        def after_create(self, op: Operation, result: Any) -> None:
            trace.append(f"{name} after")

    Traced.name = name  # type: ignore[attr-defined]
    return Traced()


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
async def test_layers_run_from_the_outside_in_whatever_the_order_of_selection(
    opened: Opener, order: tuple[int, ...]
) -> None:
    trace: list[str] = []
    plugins = [
        traced("a", [Layer.CACHE, Layer.SECURITY], trace),
        traced("b", [250, Layer.DEFAULT], trace),
        traced("c", [250, Layer.AUDIT], trace),
    ]
    async with opened(plugins=[plugins[i] for i in order]):
        await Person.create({"name": "Ann"})
    inward = ["100 a in", "200 c in", "250 b in", "250 c in"]
    before = ["a before", "b before", "c before"]
    core = ["500 b in", "900 a in", "900 a out", "500 b out"]
    after = ["a after", "b after", "c after"]
    outward = ["250 c out", "250 b out", "200 c out", "100 a out"]
    assert trace == [*inward, *before, *core, *after, *outward]


async def test_a_keyword_without_its_plugin_says_what_to_do(hello: Path, uri: str) -> None:
    with pytest.raises(ConfigurationError, match="hello= configures a plugin that is not selected"):
        App(uri, database="contract", plugins=[], hello={"greeting": "Hi"})


def command_line(
    site: Path, *arguments: str, **environment: str
) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": str(site), "EARNORM_PLUGINS": "hello", **environment}
    command = (sys.executable, "-m", "earnorm.cli", *arguments)
    return subprocess.run(command, env=env, capture_output=True, text=True, check=False)


def test_its_command_joins_the_command_line(hello_site: Path) -> None:
    done = command_line(hello_site, "shout", "hey", "--times", "2")
    assert (done.returncode, done.stdout) == (0, "HEY HEY\n"), done.stderr
    assert "greet" in command_line(hello_site, "--help").stdout
    assert command_line(hello_site, "shout", "hey", EARNORM_PLUGINS="").returncode == 2


def test_its_command_is_given_an_opened_app(hello_site: Path, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "from earnorm import String, models\n"
        "class Person(models.BaseModel):\n"
        "    _name = 'contract.person'\n"
        "    name = String(required=True)\n"
    )
    path = os.pathsep.join(map(str, (tmp_path, hello_site)))
    arguments = ("greet", "Ann", "--loud", "--uri", "mongomock://", "--database", "x")
    done = command_line(hello_site, *arguments, PYTHONPATH=path)
    assert (done.returncode, done.stdout) == (0, "HELLO, ANN!\n"), done.stderr
    without = command_line(hello_site, "greet", "Ann", PYTHONPATH=path)
    assert without.returncode == 1
    assert "needs a database: --uri and --database" in without.stderr
    assert "Traceback" not in without.stderr


def test_listing_plugins_imports_none(hello_site: Path) -> None:
    program = (
        "import sys\n"
        "from typer.testing import CliRunner\n"
        "from earnorm.cli.application import application\n"
        "result = CliRunner().invoke(application, ['plugins', '--json'])\n"
        "assert 'earnorm-hello' in result.output, result.output\n"
        "names = {n for n in sys.modules if n.startswith('earnorm_')}\n"
        "assert not names, names\n"
    )
    env = {**os.environ, "PYTHONPATH": str(hello_site)}
    done = subprocess.run(
        (sys.executable, "-c", program), env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
