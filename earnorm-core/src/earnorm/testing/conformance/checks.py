"""The form of a check: its name, its requirement in a sentence, the way to mend a plugin that breaks it.

The modules beside this one hold the checks, by what they are about; ``running`` runs them.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from earnorm.testing.conformance.subject import Subject


class Broken(AssertionError):
    """A plugin breaks the requirement of a check; the message says what happened."""


class NotApplicable(Exception):
    """A plugin does not offer what a check is about; the message says what that is."""


class Result(StrEnum):
    """The result of one check."""

    PASSED = "passed"
    FAILED = "failed"
    NOT_APPLICABLE = "not applicable"
    """The plugin does not offer what the check is about, or the author said that it does not."""
    NOT_CHECKED = "not checked"
    """The author left the check out, or an earlier one, which it builds on, failed."""


@dataclass(frozen=True, slots=True)
class Check:
    """One requirement of the contract, and the function that checks it.

    Attributes:
        name: The name, for ``skip=`` and messages.
        group: The part of the contract: loading, life cycle, layers, observers, values or cost.
        requirement: The sentence that the plugin has to fulfil.
        mend: The way to mend a plugin that does not.
        section: The section of the documentation about it.
        run: Raises :class:`Broken` or :class:`NotApplicable`.
        after: Names of checks that have to pass before this one means something.
        needs_server: It uses a real server, if the plugin has what it is about.
        page: The page in ``docs/`` that has the section.
    """

    name: str
    group: str
    requirement: str
    mend: str
    section: str
    run: Callable[[Subject], Awaitable[None]]
    after: tuple[str, ...] = ()
    needs_server: bool = False
    page: str = "plugins.md"


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of one check of one plugin.

    Attributes:
        check: The check.
        result: Its result.
        reason: The reason, unless it passed.
    """

    check: Check
    result: Result
    reason: str = ""

    def __str__(self) -> str:
        """Return the outcome in words: for a failure, with the requirement and the way to mend it."""
        if self.result is Result.PASSED:
            return f"{self.check.name}: passed"
        if self.result is not Result.FAILED:
            return f"{self.check.name}: {self.result}: {self.reason}"
        return (
            f"{self.check.name} ({self.check.group}): {self.reason}\n"
            f"    required: {self.check.requirement}\n"
            f"    to mend:  {self.check.mend}\n"
            f'    see:      docs/{self.check.page}, "{self.check.section}"'
        )


def check(
    group: str,
    name: str,
    *,
    requirement: str,
    mend: str,
    section: str,
    after: tuple[str, ...] = ("signatures", "starts"),
    needs_server: bool = False,
    page: str = "plugins.md",
) -> Callable[[Callable[[Subject], Awaitable[None]]], Check]:
    """Make a check of a function; see :class:`Check`."""

    def decorate(run: Callable[[Subject], Awaitable[None]]) -> Check:
        return Check(name, group, requirement, mend, section, run, after, needs_server, page)

    return decorate
