"""The finder and the starter of servers, and the runner with both: what they find, what they say, and that they clean up."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from pymongo import MongoClient

from earnorm.exceptions import ServerUnavailable
from earnorm.testing import data_directories, servers

ROOT = Path(__file__).parents[1]


def executable(path: Path) -> Path:
    path.write_text("#!/bin/sh\nexit 1\n")
    path.chmod(0o755)
    return path


def test_the_variable_goes_before_the_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    named = executable(tmp_path / "my-mongod")
    executable(tmp_path / "mongod")
    monkeypatch.setenv("EARNORM_TEST_MONGOD", str(named))
    monkeypatch.setenv("PATH", str(tmp_path))
    assert servers.MONGOD.find() == named


def test_the_path_goes_before_the_wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    on_path = executable(tmp_path / "mongod")
    monkeypatch.delenv("EARNORM_TEST_MONGOD", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert servers.MONGOD.find() == on_path


def test_a_variable_that_names_no_executable_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EARNORM_TEST_REDIS_SERVER", "/nowhere/redis-server")
    with pytest.raises(ServerUnavailable, match=r"EARNORM_TEST_REDIS_SERVER.*nowhere"):
        servers.REDIS_SERVER.find()


def test_a_missing_binary_is_an_error_that_says_where_was_looked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    binary = servers.Binary("nod", "EARNORM_TEST_NOD", "no-such-distribution", "bin/nod")
    monkeypatch.delenv("EARNORM_TEST_NOD", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ServerUnavailable) as caught:
        binary.find()
    for place in ("EARNORM_TEST_NOD", "PATH", "no-such-distribution"):
        assert place in str(caught.value)


def test_a_server_that_does_not_start_is_an_error_with_the_end_of_its_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "redis-server"
    broken.write_text("#!/bin/sh\necho no memory left for this >&2\nexit 7\n")
    broken.chmod(0o755)
    monkeypatch.setenv("EARNORM_TEST_REDIS_SERVER", str(broken))
    with pytest.raises(ServerUnavailable, match=r"(?s)exit code 7.*no memory left"):
        servers.start_redis(tmp_path)


def test_a_started_mongod_is_a_primary_with_transactions_and_fail_points(tmp_path: Path) -> None:
    server = servers.start_mongod(tmp_path)
    try:
        with MongoClient[dict[str, object]](server.uri) as client:
            with client.start_session() as session, session.start_transaction():
                client["probe"]["probe"].insert_one({"_id": 1}, session=session)
            assert client["probe"]["probe"].count_documents({}) == 1
            client.admin.command(
                {"configureFailPoint": "failCommand", "mode": "off", "data": {"failCommands": []}}
            )
    finally:
        server.stop()
    assert server.process is not None
    assert server.process.returncode == 0


def test_the_runner_returns_the_commands_exit_code_and_leaves_nothing(tmp_path: Path) -> None:
    program = "import os; print(os.environ['EARNORM_TEST_REDIS_URL']); raise SystemExit(3)"
    done = run_under_servers(tmp_path, "-c", program)
    output, _ = done.communicate(timeout=90)
    assert done.returncode == 3
    assert output.startswith("redis://127.0.0.1:")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
def test_a_runner_that_is_stopped_stops_the_servers_first(
    tmp_path: Path, sent: signal.Signals
) -> None:
    program = (
        "import os, time; print(os.environ['EARNORM_TEST_MONGO_URI'], flush=True); time.sleep(60)"
    )
    runner = run_under_servers(tmp_path, "-c", program)
    assert runner.stdout is not None
    uri = runner.stdout.readline().strip()
    # Ctrl-C goes to the whole group, as a terminal sends it; a service manager signals the runner.
    if sent == signal.SIGINT:
        os.killpg(runner.pid, sent)
    else:
        runner.send_signal(sent)
    assert runner.wait(timeout=60) != 0
    assert not answers(uri)
    assert list(tmp_path.iterdir()) == []


if sys.platform == "linux":  # where a child can ask to be told of its parent's death

    def test_a_runner_that_is_killed_takes_the_servers_with_it(tmp_path: Path) -> None:
        program = "import os, time; print(os.environ['EARNORM_TEST_MONGO_URI'], flush=True); time.sleep(5)"
        runner = run_under_servers(tmp_path, "-c", program)
        assert runner.stdout is not None
        uri = runner.stdout.readline().strip()
        runner.kill()
        runner.wait()
        deadline = time.monotonic() + 30
        while answers(uri) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert not answers(uri)


def test_data_that_a_killed_run_left_in_memory_are_removed_and_those_of_a_running_one_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(data_directories.DIRECTORY_VARIABLE, raising=False)
    monkeypatch.setattr(data_directories, "MEMORY", tmp_path)
    monkeypatch.setattr(data_directories, "ROOM", 0)
    left = tmp_path / f"{data_directories.PREFIX}left"
    left.mkdir()
    (left / data_directories.OWNER).touch()
    (left / "data").touch()
    with data_directories.data_directory() as first, data_directories.data_directory() as second:
        assert sorted(tmp_path.iterdir()) == sorted([first, second])
    assert list(tmp_path.iterdir()) == []


def test_data_go_to_the_disk_where_memory_has_no_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(data_directories.DIRECTORY_VARIABLE, raising=False)
    monkeypatch.setattr(data_directories, "ROOM", 2**80)
    with data_directories.data_directory() as directory:
        assert data_directories.MEMORY not in directory.parents


def run_under_servers(directory: Path, *arguments: str) -> subprocess.Popen[str]:
    """Start `python arguments` under the runner, with servers of its own and their data in `directory`."""
    named = (servers.MONGO_URI_VARIABLE, servers.REDIS_URL_VARIABLE)
    environment = {name: value for name, value in os.environ.items() if name not in named}
    return subprocess.Popen(
        [sys.executable, "-m", "tests.servers", "--", sys.executable, *arguments],
        cwd=ROOT,
        env={**environment, data_directories.DIRECTORY_VARIABLE: str(directory)},
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # A shell script's background commands ignore Ctrl-C, and hand that on to all that they start.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def answers(uri: str) -> bool:
    """Whether a mongod accepts connections at `uri`."""
    host, _, port = uri.removeprefix("mongodb://").partition("/")[0].partition(":")
    try:
        socket.create_connection((host, int(port)), timeout=1).close()
    except OSError:
        return False
    return True
