"""Bad input: one error of EarnORM's own for each, whose message tells what to do, and nothing half-written."""

from __future__ import annotations

import dataclasses
import inspect
import socket
import textwrap
import time
from pathlib import Path

import pytest

import earnorm
from earnorm import (
    App,
    ConfigurationError,
    DomainError,
    DuplicateKey,
    NotFound,
    PluginError,
    ServerUnavailable,
    ValidationError,
)

from .shop import Person


async def test_an_unknown_field_in_a_domain_is_named_with_its_neighbour(app: App) -> None:
    with pytest.raises(DomainError, match=r"has no field 'agee'; did you mean 'age'\?"):
        await Person.search([("agee", ">", 20)])


async def test_an_unknown_operator_in_a_domain_is_refused(app: App) -> None:
    with pytest.raises(DomainError, match=r"ilik.*did you mean 'i?like'"):
        await Person.search([("name", "ilik", "x")])


@pytest.mark.parametrize(
    "domain",
    [
        [("age", ">")],
        ["&", ("age", "=", 1)],
        ["|"],
        "age > 1",
        [("age", "in", ["x"])],
        [("age", ">", {"$gt": 1})],
    ],
    ids=repr,
)
async def test_a_malformed_domain_is_refused(app: App, domain: object) -> None:
    with pytest.raises(DomainError):
        await Person.search(domain)  # type: ignore[arg-type] # that is the point


async def test_a_value_of_the_wrong_type_in_a_domain_says_what_fits(app: App) -> None:
    with pytest.raises(DomainError, match="age is compared with a number, not str"):
        await Person.search([("age", ">", "20")])


async def test_an_unknown_keyword_to_a_model_is_named_with_its_neighbour() -> None:
    with pytest.raises(ValidationError, match=r"unknown field 'nmae'; did you mean 'name'\?"):
        Person(name="Ann", nmae="Ann")


def test_an_unknown_keyword_is_told_with_everything_else_that_is_wrong() -> None:
    for unknown in ("nmae", "id_", "badge_number", "save", "__class__"):
        with pytest.raises(ValidationError) as caught:
            Person(**{unknown: "Ann", "age": -1, "email": "nobody"})
        wrong = {detail["loc"][0]: detail["type"] for detail in caught.value.errors()}
        assert wrong.keys() == {unknown, "name", "age", "email"}
        assert wrong[unknown] == "unknown_field"


async def test_an_unknown_key_in_create_writes_nothing(app: App) -> None:
    with pytest.raises(ValidationError, match="unknown field 'agee'"):
        await Person.create([{"name": "Ann"}, {"name": "Bob", "agee": 3}])
    assert await Person.count() == 0


def test_an_unknown_keyword_to_an_app_is_named_with_its_neighbour() -> None:
    with pytest.raises(ConfigurationError, match=r"'max_pol_size'; did you mean 'max_pool_size'\?"):
        App("mongomock://", database="x", plugins=[], max_pol_size=3)


async def test_an_unknown_keyword_to_init_starts_nothing() -> None:
    with pytest.raises(ConfigurationError, match="unknown keyword 'databse_name'"):
        await earnorm.init("mongomock://", database="x", plugins=[], databse_name="y")
    assert earnorm.find_env() is None


async def test_a_setting_of_the_wrong_type_says_what_it_is() -> None:
    with pytest.raises(ConfigurationError, match="max_pool_size is a number of connections"):
        await earnorm.init("mongomock://", database="x", plugins=[], max_pool_size="ten")


async def test_a_setting_under_both_of_its_names_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="'pool_max_lifetime' and 'max_lifetime' mean the"):
        App("mongomock://", database="x", plugins=[], max_lifetime=3, pool_max_lifetime=3)


def test_app_and_init_share_one_signature_which_has_every_setting() -> None:
    parameters = inspect.signature(App).parameters
    assert inspect.signature(earnorm.init).parameters == parameters
    settings = {each.name: each.default for each in dataclasses.fields(earnorm.AppSettings)}
    assert settings.keys() <= parameters.keys()
    mutable = {"client_options"}
    for name in settings.keys() - mutable - {"database"}:
        assert parameters[name].default == settings[name], name


async def test_an_unknown_scheme_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="mongodb://"):
        await earnorm.init("postgres://localhost", database="x", plugins=[])
    assert earnorm.find_env() is None


async def test_a_wrong_type_names_the_field_and_not_the_value(app: App) -> None:
    with pytest.raises(ValidationError, match="age: ") as caught:
        await Person.create({"name": "Ann", "age": "s3cret"})
    assert caught.value.errors()[0]["loc"] == ("age",)
    assert "s3cret" not in str(caught.value)
    assert await Person.count() == 0


async def test_every_problem_is_reported_at_once() -> None:
    with pytest.raises(ValidationError) as caught:
        Person(age="x", email="no")
    assert {problem["loc"] for problem in caught.value.errors()} == {
        ("name",),
        ("age",),
        ("email",),
    }


async def test_a_duplicate_key_names_the_field_and_no_value(app: App) -> None:
    await Person.create({"name": "Ann", "email": "ann@example.com"})
    with pytest.raises(DuplicateKey, match="email exists already; it must be unique") as caught:
        await Person.create({"name": "Bob", "email": "ann@example.com"})
    assert caught.value.fields == ("email",)
    assert "example" not in str(caught.value)
    assert await Person.count() == 1


async def test_a_duplicate_in_a_batch_leaves_nothing_half_written_in_a_transaction(
    server_app: App,
) -> None:
    batch = [{"name": n, "email": f"{n}@example.com"} for n in ("a", "b", "a", "c")]
    with pytest.raises(DuplicateKey) as caught:
        async with earnorm.transaction():
            await Person.create(batch)
    assert caught.value.errors()[0]["loc"][0] == 2
    assert await Person.count() == 0


@pytest.mark.parametrize("bad", ["", "xyz", "0" * 23, "💥", "$ne"])
async def test_a_malformed_id_finds_nothing(app: App, bad: str) -> None:
    await Person.create({"name": "Ann"})
    assert len(await Person.search([("id", "=", bad)])) == 0
    assert len(await Person.search([("id", "in", [bad])])) == 0
    with pytest.raises(NotFound, match="no record with the id"):
        await Person.get(bad)


@pytest.mark.parametrize("bad", [3, None, {"$ne": None}, ["a"]], ids=repr)
async def test_an_id_of_a_kind_that_no_id_has_is_one_of_our_errors(app: App, bad: object) -> None:
    await Person.create({"name": "Ann"})
    with pytest.raises((NotFound, ValidationError)):
        await Person.get(bad)


@pytest.mark.parametrize("driver", ["pymongo", "motor"])
async def test_a_missing_server_is_reported_in_time_with_host_and_port(driver: str) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    began = time.monotonic()
    with pytest.raises(ServerUnavailable, match=f"127.0.0.1:{port}") as caught:
        await earnorm.init(
            f"mongodb://joe:hunter2@127.0.0.1:{port}",
            database="x",
            driver=driver,
            plugins=[],
            server_timeout=0.5,
        )
    assert time.monotonic() - began < 3
    assert "hunter2" not in str(caught.value) and "joe" not in str(caught.value)
    assert "hunter2" not in repr(caught.value.__cause__)
    assert earnorm.find_env() is None


@pytest.mark.parametrize("keyword", ["plugins", "required"])
async def test_a_plugin_that_is_not_installed_says_what_to_install(keyword: str) -> None:
    with pytest.raises(
        PluginError, match=r"'nonsuch' is not installed: pip install earnorm-nonsuch"
    ):
        await earnorm.init("mongomock://", database="x", **{"plugins": [], keyword: ["nonsuch"]})
    # To install what is misspelt would install whatever has that name.
    with pytest.raises(PluginError, match=r"is not installed; did you mean 'security'\?$"):
        await earnorm.init("mongomock://", database="x", **{"plugins": [], keyword: ["sekurity"]})
    assert earnorm.find_env() is None


async def test_an_installed_plugin_that_raises_on_load_stops_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "earnorm_broken_test.py").write_text("raise RuntimeError('no licence')\n")
    info = tmp_path / "earnorm_broken_test-1.2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: earnorm-broken-test\nVersion: 1.2\n"
    )
    entry = """
        [earnorm.plugins]
        brokentest = earnorm_broken_test:Plugin
        """
    (info / "entry_points.txt").write_text(textwrap.dedent(entry))
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(
        PluginError, match=r"'brokentest' from earnorm-broken-test 1.2 failed to load"
    ) as caught:
        await earnorm.init("mongomock://", database="x", plugins=["brokentest"])
    assert "no licence" in str(caught.value) and "disable" in str(caught.value)
    assert earnorm.find_env() is None


class _Broken:
    api = 1
    name = "broken"

    @earnorm.hookimpl
    def startup(self, app: App) -> None:
        raise RuntimeError("no disk")


async def test_a_plugin_that_raises_in_a_hook_is_named_with_the_hook() -> None:
    with pytest.raises(PluginError, match=r"'broken' failed in its hook startup\(.*no disk"):
        await earnorm.init("mongomock://", database="x", plugins=[_Broken])
    assert earnorm.find_env() is None


async def test_search_before_init_says_what_comes_first() -> None:
    with pytest.raises(ConfigurationError, match=r"await earnorm.init\("):
        await Person.search([])
    with pytest.raises(ConfigurationError, match=r"await earnorm.init\("):
        await Person.create({"name": "Ann"})


async def test_search_after_close_says_the_same(app: App) -> None:
    query = Person.search([])
    await earnorm.close()
    with pytest.raises(ConfigurationError, match=r"await earnorm.init\("):
        await query


async def test_a_second_init_is_refused_and_the_first_goes_on(app: App) -> None:
    with pytest.raises(ConfigurationError, match=r"earnorm.close\(\)"):
        await earnorm.init("mongomock://", database="y", plugins=[])
    assert earnorm.current_app() is app


@pytest.mark.parametrize("values", ["Ann", 3, None, [3], [None]], ids=repr)
async def test_create_of_what_is_no_dict_is_refused(app: App, values: object) -> None:
    with pytest.raises(ValidationError, match="dict"):
        await Person.create(values)  # type: ignore[call-overload] # that is the point
