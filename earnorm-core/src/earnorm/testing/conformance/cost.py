"""The check of the cost: a plugin adds nothing to an operation of a model that it has no business with.

It counts calls of Python functions, which are the same in every run, and measures no time.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Awaitable, Callable
from types import FrameType
from typing import Any, Final

from earnorm.features.grouping.aggregation import Sum
from earnorm.kernel.registry import forget
from earnorm.models import BaseModel
from earnorm.testing.conformance.checks import Broken, Check, NotApplicable, check
from earnorm.testing.conformance.subject import Subject, make_item

_ROUNDS: Final = 4

Calls = Counter[str]


@check(
    "cost",
    "idle_costs_nothing",
    requirement="A create, a save, a write, an unlink, a search, a count and a group of a model that the plugin "
    "has no business with call as many functions as without the plugin.",
    mend="Return no layer and no step for such a model, and observe with a layer of the models that it is "
    "about: a before_…, after_… or after_commit hook is called for every model. If the plugin is about every "
    'model, say idle=None; if a class attribute keeps a model out, idle={"_audit": False}.',
    section="Layers",
    after=("results",),
)
async def idle_costs_nothing(subject: Subject) -> None:
    """Count the calls with the plugin and without it."""
    if subject.idle is None:
        raise NotApplicable("idle=None: it is about every model")
    model = make_item(subject.idle)
    try:
        without = await _calls_of(subject, model, with_plugin=False)
        with_plugin = await _calls_of(subject, model, with_plugin=True)
    finally:
        forget(model)
    for name, calls in with_plugin.items():
        more = calls - without[name]
        if more:
            added = ", ".join(f"{function} ({number}x)" for function, number in more.most_common(4))
            raise Broken(f"a {name} calls {more.total()} more functions than without it: {added}")


async def _calls_of(
    subject: Subject, model: type[BaseModel], *, with_plugin: bool
) -> dict[str, Calls]:
    async with subject.app(with_plugin=with_plugin):
        record = await model.create({"text": "a", "number": 0})

        async def save() -> None:
            record.number = (record.number or 0) + 1  # type: ignore[attr-defined] # the suite's own field
            await record.save()

        operations: dict[str, Callable[[], Awaitable[Any]]] = {
            "create": lambda: model.create({"text": "b", "number": 1}),
            "save": save,
            "write": lambda: record.write({"text": "c"}),
            "search": lambda: _searched(model),
            "count": lambda: model.search([("number", ">", 0)]).count(),
            "group": lambda: _grouped(model),
        }
        counted: dict[str, Calls] = {}
        for name, run in operations.items():
            await run()  # what is made on the first use
            # What another task of the program does in between is not in every round.
            counted[name] = min([await _counted(run) for _ in range(_ROUNDS)], key=Counter.total)
        rounds: list[Calls] = []
        for number in range(_ROUNDS + 1):
            victim = await model.create({"text": "d", "number": number})
            rounds.append(await _counted(victim.unlink))
        counted["unlink"] = min(rounds[1:], key=Counter.total)  # the first makes what is kept
        return counted


async def _grouped(model: type[BaseModel]) -> None:
    await model.search([("number", ">", 0)]).group("text", total=Sum("number"))


async def _searched(model: type[BaseModel]) -> None:
    await model.search([("number", ">", 0)], limit=5)


async def _counted(run: Callable[[], Awaitable[Any]]) -> Calls:
    """Count the calls of functions, by name, that an operation makes."""
    calls: Calls = Counter()

    def note(frame: FrameType, event: str, argument: object) -> None:
        if event == "call":
            module = frame.f_globals.get("__name__", "")
            calls[f"{module}.{frame.f_code.co_qualname}"] += 1

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        await run()
    finally:
        sys.setprofile(before)
    return calls


CHECKS: Final[tuple[Check, ...]] = (idle_costs_nothing,)
