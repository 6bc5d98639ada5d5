"""The running of all checks: in one call, or as one test for each."""

from __future__ import annotations

import asyncio
import unittest
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, Final, TypedDict, Unpack

from earnorm.exceptions import nearest
from earnorm.testing.conformance import (
    answers,
    cost,
    endings,
    layers,
    life_cycle,
    loading,
    observers,
    values,
)
from earnorm.testing.conformance.checks import Broken, Check, NotApplicable, Outcome, Result
from earnorm.testing.conformance.subject import Sample, Subject, quiet

if TYPE_CHECKING:
    from earnorm.models import BaseModel

CHECKS: Final[Mapping[str, Check]] = {
    check.name: check
    for module in (loading, life_cycle, endings, layers, answers, observers, values, cost)
    for check in module.CHECKS
}
"""Every check by its name, in the order in which they run."""


class PluginBreaksContract(AssertionError):
    """A plugin fails checks of the conformance suite.

    Attributes:
        outcomes: The outcome of every check.
    """

    def __init__(self, name: str, outcomes: Sequence[Outcome]) -> None:
        self.outcomes = outcomes
        failed = [outcome for outcome in outcomes if outcome.result is Result.FAILED]
        checked = [
            outcome for outcome in outcomes if outcome.result in (Result.PASSED, Result.FAILED)
        ]
        parts = [f"plugin {name!r} fails {len(failed)} of {len(checked)} checks", *map(str, failed)]
        left: dict[str, list[str]] = {}
        for outcome in outcomes:
            if outcome.result is Result.NOT_CHECKED:
                left.setdefault(outcome.reason, []).append(outcome.check.name)
        parts += [f"not checked ({reason}): {', '.join(names)}" for reason, names in left.items()]
        super().__init__("\n\n".join(parts))


class Options(TypedDict, total=False):
    """The arguments of :func:`check_plugin` beside the plugin."""

    settings: Mapping[str, object]
    models: Mapping[type[BaseModel], Sample] | Iterable[type[BaseModel]]
    beside: Sequence[str | type | object]
    values: Mapping[str, Sequence[object]]
    operands: Mapping[str, Sequence[object]]
    idle: Mapping[str, object] | None
    acting: Callable[[], AbstractContextManager[object]]
    uri: str | None
    memory_only: bool
    skip: Iterable[str]
    changes: Iterable[str]
    patience: float


async def check_plugin(plugin: type, **options: Unpack[Options]) -> Sequence[Outcome]:
    """Check that a plugin keeps the contract, in every way that can be checked from outside.

    ``docs/plugin-testing.md`` lists the checks. Each starts Apps of its own, in memory or with a
    database of its own on the real server, and leaves nothing.

    Args:
        plugin: The plugin's class.
        **options: What the checks cannot know:

            ``settings``: The plugin's settings, if some are required.

            ``models``: The models that the plugin is about, whose values are made from their fields; or
            a mapping of each to the values of a record, or to a function that makes those of the record
            with a number: ``{User: lambda n: {"name": f"u{n}"}}``.

            ``beside``: Plugins without which it cannot be, those that it requires.

            ``values``, ``operands``: Values of its field types and of its operators, by their names,
            where the suite's own do not fit.

            ``idle``: Class attributes that keep a model out of the plugin's business, as
            ``{"_audit": False}``; None if it is about every model.

            ``acting``: Makes the context manager in which operations run, as
            ``lambda: earnorm.act_as(user)``.

            ``uri``: The real server, a replica set; by default the one that ``mongod()`` finds or starts.

            In a run of pytest with ``--earnorm-memory`` checks that need a server are not applicable.

            ``memory_only``: The plugin is for ``mongomock://`` only, so checks that need a server are
            not applicable.

            ``skip``: Names of checks to leave out.

            ``changes``: Names of fields whose given values the plugin changes on purpose.

            ``patience``: Seconds after which an operation that does not end has failed.

    Returns:
        The outcome of each check: passed, not applicable, or not checked.

    Raises:
        PluginBreaksContract: Checks failed; the text lists each with its reason and the way to mend
            the plugin.
    """
    runs = Runs(_subject(plugin, options))
    outcomes = [await runs.outcome(name) for name in CHECKS]
    if any(outcome.result is Result.FAILED for outcome in outcomes):
        raise PluginBreaksContract(runs.subject.name, outcomes)
    return outcomes


def plugin_tests(plugin: type, **options: Unpack[Options]) -> type[unittest.TestCase]:
    """Make a class with a test for each check, for pytest and unittest.

    In a file of tests, ``TestContract = plugin_tests(MyPlugin)`` is the one line. A check that is not
    applicable is reported as skipped, with the reason.

    Args:
        plugin: The plugin's class.
        **options: As for :func:`check_plugin`.
    """
    runs = Runs(_subject(plugin, options))

    def test_of(check: Check) -> Callable[[unittest.TestCase], None]:
        def test(case: unittest.TestCase) -> None:
            outcome = asyncio.run(runs.outcome(check.name))
            if outcome.result is Result.FAILED:
                raise PluginBreaksContract(runs.subject.name, [outcome])
            if outcome.result is not Result.PASSED:
                case.skipTest(outcome.reason)

        test.__doc__ = check.requirement
        test.__name__ = f"test_{check.name}"
        return test

    body: dict[str, Any] = {f"test_{check.name}": test_of(check) for check in CHECKS.values()}
    body["__doc__"] = f"The contract of plugins, for {plugin.__name__}."
    return type(f"{plugin.__name__}Tests", (unittest.TestCase,), body)


def _subject(plugin: type, options: Options) -> Subject:
    if not isinstance(plugin, type):
        raise TypeError(f"a plugin is given as its class, not as a {type(plugin).__name__}")
    keywords: dict[str, Any] = {**options}
    unknown = [name for name in keywords if name not in Options.__annotations__]
    if unknown:
        hint = nearest(unknown[0], Options.__annotations__)
        raise TypeError(f"no such argument: {unknown[0]}={hint}")
    skip = frozenset(keywords.pop("skip", ()))
    for name in sorted(skip - CHECKS.keys()):
        raise ValueError(f"skip= names {name!r}, and there is no such check{nearest(name, CHECKS)}")
    keywords.setdefault("acting", nullcontext)
    changes = frozenset(keywords.pop("changes", ()))
    return Subject(plugin, skip=skip, changes=changes, **keywords)


class Runs:
    """The checks of one plugin; each runs once, after those that it builds on.

    Args:
        subject: The plugin.
    """

    def __init__(self, subject: Subject) -> None:
        self.subject = subject
        self._outcomes: dict[str, Outcome] = {}

    async def outcome(self, name: str) -> Outcome:
        """Return the outcome of a check; run it if it has not run yet."""
        outcome = self._outcomes.get(name)
        if outcome is None:
            outcome = self._outcomes[name] = await self._run(CHECKS[name])
        return outcome

    async def _run(self, check: Check) -> Outcome:
        if check.name in self.subject.skip:
            return Outcome(check, Result.NOT_CHECKED, "skip= names it")
        for earlier in check.after:
            before = await self.outcome(earlier)
            if before.result is Result.FAILED or (
                before.result is Result.NOT_CHECKED and earlier not in self.subject.skip
            ):
                return Outcome(check, Result.NOT_CHECKED, f"{earlier} has to pass first")
        try:
            with quiet(), self.subject.with_models():
                await check.run(self.subject)
        except NotApplicable as reason:
            return Outcome(check, Result.NOT_APPLICABLE, str(reason))
        except Broken as broken:
            return Outcome(check, Result.FAILED, str(broken))
        except Exception as error:
            return Outcome(
                check, Result.FAILED, f"the check ended with {type(error).__name__}: {error}"
            )
        return Outcome(check, Result.PASSED)
