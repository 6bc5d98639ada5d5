"""Each guard has tests that fail without it: the table holds together, and the program that proves it works.

`nox -s mutation` switches every guard off; here it is two of them.
"""

from __future__ import annotations

import re

import pytest

from tests.plugins.security.guards import GUARDS
from tests.plugins.security.mutations import FOLDER, ROOT, failures, problems

ROW = re.compile(
    r"^\| (?P<name>[^|]+) \| `(?P<place>[^`|]+)` \| (?P<tests>[^|]+) \|$", re.MULTILINE
)


def test_every_guard_and_every_test_of_it_is_there():
    assert len(GUARDS) >= 12
    for guard in GUARDS.values():
        for test in guard.tests:
            file, _, function = test.partition("::")
            assert re.search(rf"^(async )?def {function}\(", (FOLDER / file).read_text(), re.M), (
                test
            )
        assert callable(guard.found())


def test_the_page_has_the_table():
    page = (ROOT / "docs" / "security.md").read_text()
    rows = {row["name"]: (row["place"], row["tests"]) for row in ROW.finditer(page)}
    stated = {
        name: (
            guard.place.partition(":")[2],
            ", ".join(dict.fromkeys(f"`{test.partition('::')[0]}`" for test in guard.tests)),
        )
        for name, guard in GUARDS.items()
    }
    assert {name: rows.get(name) for name in stated} == stated


@pytest.mark.parametrize("name", ["rights on models", "rules after a change"])
def test_the_tests_of_a_guard_fail_without_it(name):
    tests = GUARDS[name].tests
    assert problems(tests, failures(tests, name)) == []


def test_tests_that_stay_green_are_found():
    tests = GUARDS["rules after a change"].tests
    assert problems(tests, failures(tests, "limits")) == [f"{test} stays green" for test in tests]


def test_a_test_that_fails_for_another_reason_is_found():
    error = " - TypeError: judge() takes no argument"
    assert problems(["a.py::b"], {"a.py::b": error}) == [f"a.py::b{error}"]
    assert problems(["a.py::b"], {"a.py::b": " - Failed: DID NOT RAISE"}) == []
