"""`python -m earnorm.testing -- command`: servers for a command and all its processes."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from earnorm.testing.__main__ import main

SAYS = "import os; print(os.environ.get('EARNORM_TEST_MONGO_URI'), os.environ.get('EARNORM_TEST_REDIS_URL'))"


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "earnorm.testing", *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=90,
    )


def test_a_command_gets_the_addresses_and_gives_its_exit_code() -> None:
    without = {"EARNORM_TEST_MONGO_URI": "", "EARNORM_TEST_REDIS_URL": ""}
    program = f"{SAYS}; raise SystemExit(3)"
    done = run("--redis", "--", sys.executable, "-c", program, **without)
    assert done.returncode == 3, done.stderr
    mongo, redis = done.stdout.split()
    assert mongo.startswith("mongodb://127.0.0.1:") and redis.startswith("redis://127.0.0.1:")
    assert mongo != os.environ["EARNORM_TEST_MONGO_URI"]


def test_a_named_server_is_used_as_it_is() -> None:
    done = run("--", sys.executable, "-c", SAYS)
    assert done.stdout.split()[0] == os.environ["EARNORM_TEST_MONGO_URI"]


def test_without_a_server_it_says_what_to_install() -> None:
    done = run("--", "true", EARNORM_TEST_MONGO_URI="", EARNORM_TEST_MONGOD="/nowhere")
    assert done.returncode == 1
    assert done.stderr.startswith("earnorm.testing: EARNORM_TEST_MONGOD names '/nowhere'")


def test_a_wrong_call_is_told_the_usage(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in ([], ["pytest"], ["--"], ["--redis", "--"]):
        assert main(arguments) == 2
        assert "usage: python -m earnorm.testing [--redis] --" in capsys.readouterr().err
