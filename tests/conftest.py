"""Servers for a run that nobody started servers for; `nox` and CI bring their own."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack

import hypothesis
import pytest

from earnorm.features.computed.owed import worker
from tests.core.conftest import without_other_files
from tests.servers import running_servers

# The same cases in every run, so that a red run can be repeated; `nox -s fuzz` looks for new ones.
hypothesis.settings.register_profile("repeatable", derandomize=True, deadline=None)
if "EARNORM_FUZZ_EXAMPLES" not in os.environ:
    hypothesis.settings.load_profile("repeatable")


# An App's first look for what others owe comes at a moment that no test of something else expects: on a slow
# machine it is one search more among those that a test counts. Tests of the look state an interval.
worker.FIRST_LOOK = 3600.0


@pytest.fixture(scope="session", autouse=True)
def servers() -> Iterator[None]:
    """A MongoDB and a Redis for the whole session; ones that the environment names are used."""
    needed = ("EARNORM_TEST_MONGO_URI", "EARNORM_TEST_REDIS_URL")
    if all(os.environ.get(name) for name in needed):
        yield
        return
    with ExitStack() as stack:
        started = stack.enter_context(running_servers())
        os.environ.update(started.environment())
        yield


@pytest.fixture(scope="module", autouse=True)
def models_of_this_file(request: pytest.FixtureRequest) -> Iterator[None]:
    with without_other_files(request.module):
        yield
