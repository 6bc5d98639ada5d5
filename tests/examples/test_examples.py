"""The programs of examples/ that the core alone can run are run, and say what they promise."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
SAYS = {
    "basic.py": (
        "over a metre: ['Bamboo']",
        "low, and no fern: ['Thyme']",
        "Fern: 35 cm, planted 2024-04-01, ['shade', 'indoor']",
        "refused: ('height_cm',)",
        "refused: plant: a record with this label exists already",
        "left in the garden: 3",
    ),
    "relations.py": (
        "not yet: Team.name: player.team_id is not loaded",
        "{'Ada': 'Reds', 'Bob': 'Blues', 'Cid': 'Reds', 'Dee': 'Blues'}",
        "Blues ['Bob', 'Dee']",
        "same object: True",
        "teams in play: ['Blues', 'Reds']",
    ),
    "plugin_in_one_file.py": (
        "Hoi An 10.0 navigable: False",
        "berths divisible by 3: ['Hue']",
        "observed: ['harbour:Hue', 'harbour:Hoi An'] | a search was timed: True",
        "refused: Input should be less than or equal to 100",
        "('berths', 'divisible by'): no such operator",
    ),
}


def run(program: str) -> str:
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / program)],
        env={**os.environ, "EARNORM_PLUGINS": ""},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("program", SAYS)
def test_an_example_says_what_it_promises_also_when_it_is_run_again(program: str) -> None:
    first, second = run(program), run(program)
    for expected in SAYS[program]:
        assert expected in first
    assert first == second


def test_every_example_is_executed_by_a_test() -> None:
    programs = {path.relative_to(EXAMPLES).as_posix() for path in EXAMPLES.rglob("*.py")}
    # tests/plugins/authors runs the tests of the plugin, which is a project of its own; tests/plugins/examples
    # has the demo and the web applications.
    projects = ("third_party_plugin/", "django_app/")
    programs = {name for name in programs if not name.startswith(projects)}
    assert programs == {*SAYS, "demo.py", "fastapi_app/main.py", "flask_app/main.py"}
