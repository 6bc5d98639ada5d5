"""A database of its own for each test, dropped afterwards."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from pymongo import MongoClient


@pytest.fixture
def mongo_uri() -> str:
    return os.environ["EARNORM_TEST_MONGO_URI"]  # tests/conftest.py has set it


@pytest.fixture
def database(mongo_uri: str) -> Iterator[str]:
    name = f"web_{uuid.uuid4().hex[:12]}"
    yield name
    with MongoClient[dict[str, Any]](mongo_uri) as server:
        server.drop_database(name)
