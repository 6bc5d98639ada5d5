"""What is measured: each workload once, with its size, its aim, and what is done between two rounds.

A system has a method of each workload's name (``systems.base.System``); what it returns is held
against what the others return.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.data import Sizes


@dataclass(frozen=True, slots=True)
class Workload:
    """One thing that every system does.

    Attributes:
        name: The method's name.
        title: For the table.
        size: How many documents or calls one run is about.
        aim: EarnORM's time divided by the raw driver's, at most; None where there is no aim.
        aim_is: "ratio" to the raw driver's time, or "speedup" (at least so many times as fast).
        compared: Whether the raw driver does it at all.
        empties: ``inserted`` is emptied by the parent before each run.
        python_only: It is about Python objects; a system in another language leaves it out.
    """

    name: str
    title: str
    size: Callable[[Sizes], int]
    aim: float | None = None
    aim_is: str = "ratio"
    compared: bool = True
    empties: bool = False
    python_only: bool = False


WORKLOADS: tuple[Workload, ...] = (
    Workload("insert_one", "insert one by one", lambda s: s.inserts, 1.10, empties=True),
    Workload("insert_many", "bulk insert, validated", lambda s: s.people, 1.15, empties=True),
    Workload("find_two", "find, two fields read", lambda s: s.people, 1.08),
    Workload("find_flat", "find, ten flat fields read", lambda s: s.people, 1.15),
    Workload("find_embedded", "find, embedded document read", lambda s: s.people, 1.25),
    Workload("stream", "stream, two fields read", lambda s: s.stream, 1.08),
    Workload("get", "get by id", lambda s: s.calls, 1.10),
    Workload("get_tasks", "get by id from 50 tasks", lambda s: s.calls * 2),
    Workload("filtered", "filter + sort + limit 20", lambda s: s.calls, 1.10),
    Workload("save", "change one field and save", lambda s: s.calls, 1.10),
    Workload("save_many", "change and save 1,000 records", lambda s: s.posts),
    Workload("update", "update by filter", lambda s: max(5, s.calls // 25)),
    Workload("posts_eager", "posts with their authors, eager", lambda s: s.posts, 1.20),
    Workload("posts_lazy", "posts with their authors, lazy", lambda s: s.posts),
    Workload("three_levels", "comments, their posts, authors, countries", lambda s: s.posts),
    Workload("group", "group and sum", lambda s: max(5, s.calls // 25), 1.05),
    Workload("construct", "construct without a database", lambda s: s.people, 8.0),
    # Documents as people have them (benchmarks.real).
    Workload("real_insert", "bulk insert, real documents", lambda s: s.people, 1.30, empties=True),
    Workload("real_find", "find, every field of real documents", lambda s: s.people, 1.35),
    Workload("real_construct", "construct a real document", lambda s: s.people, 10.0),
    Workload("tasks", "tasks with four relations, three computed", lambda s: s.posts * 2, 1.40),
    Workload("sheets", "fifty fields, lists of embedded read", lambda s: s.posts, 1.40),
    Workload("sheets_only", "the same with only=", lambda s: s.posts, 1.30),
    Workload(
        "create_computed", "create, computed and checked", lambda s: s.posts, 1.40, empties=True
    ),
    Workload("follow", "a name that its orders repeat", lambda s: s.posts, 1.60),
    Workload("move", "another partner for its orders", lambda s: s.posts, 1.60),
    Workload("set_null", "delete a partner, its orders stay", lambda s: s.posts, 1.60),
    Workload("some_refused", "create, a fifth refused", lambda s: s.posts * 2, 1.20, empties=True),
    Workload("invalid", "refuse an invalid value", lambda s: s.inserts, compared=False),
    Workload("compile", "a condition of five parts", lambda s: s.inserts, compared=False),
)
BY_NAME = {workload.name: workload for workload in WORKLOADS}
