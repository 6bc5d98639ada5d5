"""Domains with other conditions in the place of their own."""

from __future__ import annotations

from collections.abc import Callable

from earnorm import Domain
from earnorm.domain import And, Condition, Not, Or


def rewritten(domain: Domain, change: Callable[[Condition], Domain]) -> Domain:
    """Return a domain in which each condition is what a function makes of it."""
    if isinstance(domain, Condition):
        return change(domain)
    if isinstance(domain, And):
        return And(rewritten(child, change) for child in domain.children)
    if isinstance(domain, Or):
        return Or(rewritten(child, change) for child in domain.children)
    return ~rewritten(domain.child, change) if isinstance(domain, Not) else domain
