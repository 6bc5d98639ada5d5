"""A plain PyMongo collection on the real server; domains are tested without anything above them."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from bson.codec_options import CodecOptions
from pymongo import MongoClient
from pymongo.collection import Collection


@pytest.fixture(scope="session")
def server() -> Iterator[MongoClient[dict[str, Any]]]:
    uri = os.environ.get("EARNORM_TEST_MONGO_URI")
    if not uri:
        pytest.fail(
            "these tests compare with a real MongoDB and need EARNORM_TEST_MONGO_URI; "
            "run them with: python -m tests.servers -- python -m pytest tests/domain"
        )
    client: MongoClient[dict[str, Any]] = MongoClient(uri, serverSelectionTimeoutMS=5000)
    yield client
    client.close()


@pytest.fixture(scope="module")
def collection(server: MongoClient[dict[str, Any]]) -> Iterator[Collection[dict[str, Any]]]:
    """An empty collection with the options of the backends: standard UUIDs, naive UTC dates."""
    options: CodecOptions[dict[str, Any]] = CodecOptions(uuid_representation=4)
    database = server.get_database(f"earnorm_domain_{uuid.uuid4().hex[:8]}", codec_options=options)
    yield database.get_collection("documents")
    server.drop_database(database.name)
