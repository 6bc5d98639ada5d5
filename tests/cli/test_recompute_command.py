"""``earnorm recompute``: values of an older formula, on a real server."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pymongo import MongoClient

MODELS = """
    from earnorm import BaseModel, Int, Many2one, One2many, depends

    class Order(BaseModel):
        _name = "cli.order"
        line_ids = One2many("cli.line", "order_id")
        total = Int(compute="_compute_total", store=True)

        @depends("line_ids.amount")
        def _compute_total(self):
            return sum(line.amount or 0 for line in self.line_ids)

    class Line(BaseModel):
        _name = "cli.line"
        order_id = Many2one(Order)
        qty = Int()
        unit = Int(default=1)
        amount = Int(compute="_compute_amount", store=True)

        @depends("qty")
        def _compute_amount(self):
            return (self.qty or 0) * 10
"""


def test_it_writes_what_differs_and_what_follows(tmp_path: Path) -> None:
    (tmp_path / "sale_models.py").write_text(textwrap.dedent(MODELS))
    name = f"cli_{uuid.uuid4().hex[:12]}"
    where = {
        "EARNORM_URI": os.environ["EARNORM_TEST_MONGO_URI"],
        "EARNORM_DATABASE": name,
        "EARNORM_MODELS": "sale_models",
        "EARNORM_PLUGINS": "",
    }

    def run(*arguments: str, code: int = 0) -> str:
        done = subprocess.run(
            [sys.executable, "-W", "error", "-m", "earnorm.cli", "recompute", *arguments],
            cwd=tmp_path,
            env={**os.environ, **where},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == code, (done.stdout, done.stderr)
        assert "Traceback" not in done.stderr
        return done.stdout

    with MongoClient[dict[str, Any]](where["EARNORM_URI"]) as client:
        orders, lines = client[name]["cli_order"], client[name]["cli_line"]
        two = orders.insert_many([{"total": 0}, {"total": 0}]).inserted_ids
        lines.insert_many([{"order_id": two[n % 2], "qty": n, "amount": n} for n in range(5)])
        try:
            said = run("--model", "cli.line", "--dry-run")
            assert said == "cli.line (amount): 4 would be written, 5 looked at\n"
            assert sum(each["amount"] for each in lines.find()) == 10
            [row] = json.loads(run("--model", "cli.line", "--field", "amount", "--json"))
            assert row == {"model": "cli.line", "fields": ["amount"], "seen": 5, "changed": 6}
            assert [each["total"] for each in orders.find().sort("_id")] == [60, 40]
            assert run().count(": 0 written") == 2
            assert "did you mean 'amount'" in _stderr(
                where, tmp_path, "--model", "cli.line", "--field", "amont"
            )
            run("--field", "amount", code=2)
            _work_off(client[name], run)
            lines.update_one({"qty": 0}, {"$set": {"unit": 5}})
            assert run("--defaults", "--dry-run") == "cli.line.unit: 4 lack it\n"
            assert lines.count_documents({"unit": 1}) == 0
            [row] = json.loads(
                run("--defaults", "--model", "cli.line", "--field", "unit", "--json")
            )
            assert row == {"model": "cli.line", "fields": {"unit": 4}}
            assert (
                lines.count_documents({"unit": 1}) == 4 and lines.count_documents({"unit": 5}) == 1
            )
            assert "did you mean 'unit'" in _stderr(
                where, tmp_path, "--defaults", "--model", "cli.line", "--field", "unt"
            )
        finally:
            client.drop_database(name)


def _work_off(database: Any, run: Callable[..., str]) -> None:
    """List what is owed, work it off, and end with an error where something is left."""
    assert run("--owed") == "nothing is owed\n"
    lines, owed = database["cli_line"], database["earnorm_owed"]
    pks = lines.distinct("_id")
    lines.update_many({}, {"$set": {"amount": 3}})
    document = {"path": "_id", "ids": pks, "digest": "x", "owed_at": datetime.now(UTC), "token": 0}
    mine = {**document, "model": "cli.line", "names": ["amount"], "follows": ["cli.line.amount"]}
    owed.insert_one(dict(mine))
    assert run("--owed", "--dry-run").startswith("cli.line (amount): owed for ")
    assert lines.count_documents({"amount": 3}) == len(pks)
    assert run("--owed") == "nothing is owed\n"
    assert sorted(lines.distinct("amount")) == [0, 10, 20, 30, 40]
    lines.update_one({"_id": pks[1]}, {"$set": {"qty": "many"}})
    owed.insert_one(dict(mine))
    said = run("--owed", code=1)
    assert f"set apart: {pks[1]}: " in said
    [row] = json.loads(run("--owed", "--json", code=1))
    assert row["model"] == "cli.line" and row["ids"] == [str(pks[1])]
    lines.update_one({"_id": pks[1]}, {"$set": {"qty": 1}})
    owed.insert_one({**mine, "model": "cli.gone", "follows": ["cli.gone.amount"]})
    assert "lacks a field of it" in run("--owed")
    assert run("--owed", "--forget") == "nothing is owed\n"
    run("--owed", "--model", "cli.line", code=2)
    run("--forget", code=2)
    owed.drop()


def _stderr(where: dict[str, str], root: Path, *arguments: str) -> str:
    return subprocess.run(
        [sys.executable, "-m", "earnorm.cli", "recompute", *arguments],
        cwd=root,
        env={**os.environ, **where},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    ).stderr
