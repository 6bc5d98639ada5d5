"""Domains with other conditions in the place of their own, or with the same ones in another form."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

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


def unnamed(resolved: Domain, rule: Domain) -> Domain:
    """Return the same domain without ids that a rule has found, as ids that are asked for.

    A search for ids is answered from what is kept of them, and one for no ids is not sent. What a rule
    finds in hidden records would so change the number of queries, and what a cache keeps.

    Args:
        resolved: A domain without conditions about other records.
        rule: The domain that it was before. The ids that this one names are the program's.
    """
    named = frozenset(_children(rule))

    def hidden(child: Domain) -> Domain:
        if not isinstance(child, Condition) or child in named:
            return child
        is_found = child.path in _IDS and child.operator == "in"
        return ~Condition(child.path, "not in", child.value) if is_found else child

    children = [*map(hidden, _children(resolved))]
    return children[0] if len(children) == 1 else And(children)


def _children(domain: Domain) -> Sequence[Domain]:
    return domain.children if isinstance(domain, And) else (domain,)


_IDS: Final = frozenset({"_id", "id", "pk"})
