"""``earnorm indexes``: what it prints, what it changes, and how it ends, on a real server."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pymongo import MongoClient
from pymongo.database import Database

MODELS = """
    from earnorm import BaseModel, DateTime, Index, Int, String

    class Book(BaseModel):
        _name = "cli.book"
        _indexes = [Index("author", "-year"), Index("seen", expire_after=60)]
        title = String(unique=True, required=True)
        author = String()
        year = Int()
        seen = DateTime()

    class Log(BaseModel):
        _name = "cli.log"
        _options = {"capped_size": 4096}
        line = String()
"""


class Shop:
    """A directory with an application's module, and its database."""

    def __init__(self, root: Path, database: Database[dict[str, Any]]) -> None:
        self.root = root
        self.database = database
        self.books = database["cli_book"]
        (root / "shop_models.py").write_text(textwrap.dedent(MODELS))

    def run(self, *arguments: str, code: int = 0, input: str | None = None, **env: str) -> str:
        """The output of one command, each in a process of its own as in a shell."""
        where = {
            "EARNORM_URI": os.environ["EARNORM_TEST_MONGO_URI"],
            "EARNORM_DATABASE": self.database.name,
            "EARNORM_MODELS": "shop_models",
            "EARNORM_PLUGINS": "",
        }
        done = subprocess.run(
            [sys.executable, "-W", "error", "-m", "earnorm.cli", "indexes", *arguments],
            cwd=self.root,
            env={**os.environ, **where, **env},
            input=input,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == code, (done.stdout, done.stderr)
        assert "Traceback" not in done.stderr
        return done.stdout + done.stderr

    def indexes(self) -> set[str]:
        return set(self.books.index_information())


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    name = f"cli_{uuid.uuid4().hex[:12]}"
    with MongoClient[dict[str, Any]](os.environ["EARNORM_TEST_MONGO_URI"]) as client:
        yield Shop(tmp_path, client[name])
        client.drop_database(name)


def test_the_whole_way_from_nothing_to_in_step(shop: Shop) -> None:
    said = shop.run("diff", code=1)
    assert "missing: 'author_1_year_-1' on author, -year" in said
    assert "2 collections: 0 as declared, 3 missing, 0 different, 0 not declared" in said
    said = shop.run("sync", "--dry-run")
    assert "would create cli_book: index 'title_1'" in said
    assert "would create cli_log: the collection with capped, size" in said
    assert shop.database.list_collection_names() == []  # neither of them wrote anything
    assert "create cli_book: index 'seen_1'" in shop.run("sync")
    assert shop.indexes() == {"_id_", "title_1", "author_1_year_-1", "seen_1"}
    assert "nothing to do" in shop.run("sync")
    assert "3 as declared, 0 missing" in shop.run("diff")


def test_a_difference_is_left_unless_replacing_is_asked_for(shop: Shop) -> None:
    shop.books.create_index([("year", -1), ("author", 1)], name="author_1_year_-1")
    shop.books.create_index("seen", expireAfterSeconds=10)
    shop.run("sync", code=1)
    said = shop.run("diff", code=1)
    assert "the keys author, -year are declared" in said
    assert "expireAfterSeconds is declared as 60, and is 10" in said
    said = shop.run("sync", "--replace", "--dry-run")
    assert "would replace cli_book" in said and "would modify cli_book" in said
    assert shop.books.index_information()["seen_1"]["expireAfterSeconds"] == 10
    shop.run("sync", "--replace")
    assert shop.books.index_information()["seen_1"]["expireAfterSeconds"] == 60
    shop.run("diff")


def test_drop_unused_asks_and_dry_runs(shop: Shop) -> None:
    shop.run("sync")
    shop.books.create_index("old")
    shop.database["foreign"].create_index("x")  # of no model: none of our business
    assert "not declared: 'old_1' on old" in shop.run("diff", code=1)
    assert "1 not declared" in shop.run("diff", "--allow-unused")
    assert "would drop cli_book: index 'old_1' on old" in shop.run("drop-unused", "--dry-run")
    assert "old_1" in shop.indexes()
    shop.run("drop-unused", code=1, input="n\n")
    shop.run("drop-unused", code=1, input="")  # nobody to answer
    assert "old_1" in shop.indexes()
    shop.run("drop-unused", input="y\n")
    assert "old_1" not in shop.indexes()
    shop.books.create_index("old")
    assert "drop cli_book" in shop.run("drop-unused", "--yes")
    assert "old_1" not in shop.indexes()
    assert "nothing to do" in shop.run("drop-unused", "--yes")
    assert "x_1" in shop.database["foreign"].index_information()


def test_json_is_for_programs(shop: Shop) -> None:
    shop.books.create_index("old")
    book, log = json.loads(shop.run("diff", "--json", code=1))
    assert (book["collection"], book["models"]) == ("cli_book", ["cli.book"])
    assert book["missing"] == ["title_1", "author_1_year_-1", "seen_1"]
    assert book["unused"] == [{"index": "old_1", "keys": "old"}]
    assert log["exists"] is False and log["in_step"] is True
    rows = json.loads(shop.run("sync", "--json", "--dry-run"))
    assert rows[0] == {
        "action": "create",
        "collection": "cli_book",
        "index": "title_1",
        "detail": "index 'title_1' on title [unique]",
        "done": False,
    }


def test_advice_for_one_search_and_its_trial(shop: Shop) -> None:
    shop.books.insert_many([{"title": f"t{n}", "year": n % 9, "author": "x"} for n in range(90)])
    search = ("--model", "cli.book", "--domain", "[('year', '=', 3)]", "--order", "-title")
    said = shop.run("advise", *search)
    assert '_indexes: Index("year", "-title")' in said and "tried" not in said
    said = shop.run("advise", *search, "--verify", "--sample", "50")
    assert "before: reads the whole collection" in said and "tried: helps" in said
    assert shop.database.list_collection_names() == ["cli_book"]
    assert shop.indexes() == {"_id_"}
    (found,) = json.loads(shop.run("advise", *search, "--verify", "--json"))
    assert found["helps"] is True and found["indexes"] == ["year_1_title_-1"]


def test_advice_from_the_file_of_a_slow_app(shop: Shop) -> None:
    program = """
        import asyncio, sys
        from earnorm import App
        from shop_models import Book

        async def main():
            uri, database = sys.argv[1:]
            async with App(uri, database=database, slow_query=1e-9, slow_query_file="slow.jsonl"):
                await Book.search([("year", ">", 1999)], order="author")

        asyncio.run(main())
    """
    uri = os.environ["EARNORM_TEST_MONGO_URI"]
    subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program), uri, shop.database.name],
        cwd=shop.root,
        check=True,
        env={
            **os.environ,
            "EARNORM_PLUGINS": "",
            "PYTHONPATH": f"{shop.root}:{os.environ.get('PYTHONPATH', '')}",
        },
    )
    said = shop.run("advise", "--shapes", "slow.jsonl")
    assert "search cli.book: year > ?; order author" in said
    assert "the index on author, -year serves it" in said


@pytest.mark.parametrize(
    ("arguments", "environment", "message"),
    [
        (("diff",), {"EARNORM_MODELS": ""}, "--models shop.models"),
        (("diff",), {"EARNORM_MODELS": "nonsuch"}, "nonsuch: the module cannot be imported"),
        (("diff",), {"EARNORM_DATABASE": ""}, "needs a database"),
        (("advise",), {}, "either --shapes FILE, or --model"),
        (("advise", "--shapes", "nonsuch"), {}, "No such file"),
        (("advise", "--model", "cli.bok"), {}, "did you mean 'cli.book'"),
        (("advise", "--model", "cli.book", "--domain", "os.system"), {}, "a Python list"),
        (("advise", "--model", "cli.book", "--domain", "[('yer','=',1)]"), {}, "mean 'year'"),
    ],
    ids=lambda each: " ".join(each) if isinstance(each, tuple) else "",
)
def test_wrong_usage_ends_in_one_line(
    shop: Shop, arguments: tuple[str, ...], environment: dict[str, str], message: str
) -> None:
    said = shop.run(*arguments, code=1, **environment)
    assert message in said and said.startswith("earnorm: ")
