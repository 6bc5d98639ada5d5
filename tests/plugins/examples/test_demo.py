"""examples/demo.py runs, and shows what it promises to show."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pymongo import MongoClient

DEMO = Path(__file__).parents[3] / "examples" / "demo.py"
PROMISED = (
    "5 books stored",
    "ValidationError: Input should be greater than or equal to 1",
    "DuplicateKey: author: a record with this email exists already",
    "domain: book has no field 'page'; did you mean 'pages'?",
    "1 × search book, 1 × search author",
    "rita (reader) sees",
    "AccessDenied:",
    "****3000",
    "FieldWithheld: author.fee was not read",
    "'readers see what is published' does not allow it",
    "field 'fee' of author to read: refuses; for accountant; it is left out",
    '"pages": {"old": 210, "new": 230}',
    "1 invalidation(s)",
    "healthy",
    "What you just saw",
)


@pytest.fixture(scope="module")
def said() -> str:
    done = subprocess.run(
        [sys.executable, str(DEMO)],
        env=dict(os.environ),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    return done.stdout


@pytest.mark.parametrize("expected", PROMISED)
def test_the_demo_shows_what_it_promises(said: str, expected: str) -> None:
    assert expected in said


def test_a_rule_hides_drafts_from_a_reader_and_not_from_an_editor(said: str) -> None:
    [reader] = [line for line in said.splitlines() if "rita (reader) sees" in line]
    [editor] = [line for line in said.splitlines() if "eve (editor) sees" in line]
    assert "Markets" not in reader and "Rivers" in reader
    assert "Markets" in editor


def test_the_demo_takes_under_a_minute_to_read(said: str) -> None:
    # At 250 words a minute.
    assert len(said.split()) <= 500


def test_the_demo_leaves_no_database_behind(said: str) -> None:
    with MongoClient[dict[str, Any]](os.environ["EARNORM_TEST_MONGO_URI"]) as client:
        assert not [n for n in client.list_database_names() if n.startswith("earnorm_demo_")]
