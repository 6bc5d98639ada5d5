"""Many kinds of reads of a model, by which an App with the cache is compared with one without."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator
from typing import Any

from earnorm import BaseModel, Count, EarnORMError, Max, NotFound, fields
from earnorm.plugin import ModelView

MOST_IDS = 5
"""The records of one model that are read one by one."""
MOST = 200
"""The most records of one search."""

Read = Callable[[], Awaitable[Any]]


def reads_of(model: Any, pks: Iterable[Any]) -> dict[str, Read]:
    """Return the reads of a model by name; each reads in the App that is the current one when it is called.

    Args:
        model: The model.
        pks: Ids of records, some of which may be gone.
    """
    shown = [*pks][-MOST_IDS:]
    found: dict[str, Read] = {
        f"get {n}": (lambda pk=pk: _get(model, pk)) for n, pk in enumerate(shown)
    }
    among = [("id", "in", shown)]
    every = model.search(order="id", limit=MOST)
    found |= {
        "by ids": lambda: _records(model.search(among, order="id")),
        "by ids, in any order": lambda: _unordered(model.search(among)),
        "all": lambda: _records(every),
        "some": lambda: _records(model.search(order="-id", limit=2, offset=1)),
        "count": lambda: model.search().count(),
        "exists": lambda: model.search([("id", "=", shown[-1])]).exists(),
        "first": lambda: _first(model.search(order="-id")),
    }
    view = ModelView(model)
    for name, field in view.fields.items():
        found |= {f"{name} {what}": read for what, read in _of_field(model, name, field)}
    if "active" in view.fields and hasattr(model, "with_archived"):
        found["with archived"] = lambda: _records(model.with_archived().order("id"))
    return found


def _of_field(model: Any, name: str, field: Any) -> Iterator[tuple[str, Read]]:
    """Yield the reads that a field of this kind allows."""
    every = model.search(order="id", limit=MOST)
    if isinstance(field, fields.Many2one | fields.Many2many | fields.One2many):
        yield "linked", lambda: _linked(every, name)
    if not field.stored:
        return

    def where(operator: str, value: object) -> Any:
        return model.search([(name, operator, value)], order="id")

    if isinstance(field, fields.Many2one):
        yield "empty", lambda: _records(where("=", None))
    elif type(field) is fields.Int:
        yield "greater", lambda: _records(where(">", 3).order(f"{name}, id"))
        yield "greater, counted", lambda: where(">", 3).count()
        yield "grouped", lambda: model.search().group(name, how_many=Count())
        yield "most", lambda: model.search().group(highest=Max(name))
    elif type(field) is fields.String:
        yield "equal", lambda: _records(where("=", "k0"))
        yield "like", lambda: _records(where("ilike", "a"))
        yield "like, counted", lambda: where("ilike", "a").count()
        yield "only", lambda: _records(every.only(name))
    elif type(field) is fields.Boolean:
        yield "true", lambda: _records(where("=", True))


def _state(record: Any) -> dict[str, Any]:
    """Return the class of a record and the values that it was loaded with."""
    held = {name: v for name, v in vars(record).items() if not isinstance(v, BaseModel)}
    return {"class": type(record).__name__, **held}


async def _get(model: Any, pk: Any) -> Any:
    try:
        return _state(await model.get(pk))
    except NotFound:
        return None


async def _first(query: Any) -> Any:
    found = await query.first()
    return None if found is None else _state(found)


async def _records(query: Any) -> list[Any]:
    return [_state(record) for record in await query]


async def _unordered(query: Any) -> list[Any]:
    return sorted(await _records(query), key=repr)


async def _linked(query: Any, name: str) -> list[Any]:
    """Return each record's id with what a link of it leads to."""
    return [(each.pk, _targets(getattr(each, name))) for each in await query.prefetch(name)]


def _targets(found: Any) -> Any:
    if found is None:
        return None
    try:
        return [_state(each) for each in ([found] if isinstance(found, BaseModel) else found)]
    except EarnORMError as error:  # the target is gone
        return type(error).__name__
