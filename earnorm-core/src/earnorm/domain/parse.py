"""The parser of Odoo's list notation.

    domain    := [term*]                     listed terms are ANDed; the empty list is true
    term      := condition | domain | '&' term term | '|' term term | '!' term
               | True | False | (1, '=', 1) | (0, '=', 1) | a Domain
    condition := (path, operator, value)     a tuple, or a list, as from JSON

The parser scans from right to left with a stack, so that depth needs no recursion (except for
nested lists, whose levels are counted).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Final, TypeAlias

from earnorm.domain.ast import FALSE, MAX_DEPTH, TRUE, And, Condition, Domain, DomainSource, Or
from earnorm.domain.values import is_list, is_tuple, shorten
from earnorm.exceptions import DomainError, LimitExceeded

__all__ = ["parse"]

_SHAPE: Final = "write [(path, operator, value), ...]"
_SIGNS: Final = (
    "&",
    "|",
    "!",
)  # a tuple, because an instance of a subclass of str may have no hash


class _Group:
    """The terms under one sign while they are collected, so that 100,000 signs take linear time."""

    __slots__ = ("sign", "terms")

    def __init__(self, sign: str, terms: deque[Domain]) -> None:
        self.sign = sign
        self.terms = terms

    def close(self) -> Domain:
        return (And if self.sign == "&" else Or)(self.terms)


_Term: TypeAlias = Domain | _Group


def parse(source: DomainSource | bool) -> Domain:
    """Read ``source`` into a domain.

    Args:
        source: List notation, ``None`` or ``True`` (true), ``False``, or a domain (returned as it is).

    Raises:
        DomainError: The notation is malformed.
    """
    # The common cases first: one condition, and several.
    if type(source) is list:
        if (
            len(source) == 1
            and type(item := source[0]) is tuple
            and len(item) == 3
            and type(item[0]) is str
            and item[0] not in _SIGNS
        ):
            return Condition(*item)
        if not _is_condition(source):
            return _domain(source, 0)
    match source:
        case Domain():
            return source
        case None | True:
            return TRUE
        case False:
            return FALSE
        case tuple() if _is_condition(source):
            raise DomainError(f"a domain is a list of conditions; write [{shorten(source)}]")
        case list() if _is_condition(source):
            raise DomainError(f"a domain is a list of conditions; write [{shorten(tuple(source))}]")
        case list() | tuple():
            return _domain(source, 0)
        case _:
            raise DomainError(f"a domain is a list of conditions, not {shorten(source)}; {_SHAPE}")


def _domain(items: Sequence[object], level: int) -> Domain:
    if level > MAX_DEPTH:
        raise LimitExceeded(f"the domain is nested deeper than {MAX_DEPTH} levels; simplify it")
    stack: list[_Term] = []
    for item in reversed(items):
        if is_tuple(item) or is_list(item):
            if len(item) == 3 and type(item[0]) is str and item[0] not in _SIGNS:
                stack.append(Condition(*item))
            else:
                stack.append(_listed(item, level))
        elif isinstance(item, str):
            stack.append(_signed(item, stack))
        elif isinstance(item, Domain):
            stack.append(item)
        elif isinstance(item, bool):
            stack.append(TRUE if item else FALSE)
        else:
            raise DomainError(f"{shorten(item)} is no condition; {_SHAPE}")
    if not stack:
        return TRUE
    if len(stack) == 1:
        return _closed(stack[0])
    stack.reverse()
    return And([term.close() if isinstance(term, _Group) else term for term in stack])


def _is_condition(item: Sequence[object]) -> bool:
    """Return whether the item is meant as a condition, even if its path is of a wrong type."""
    if len(item) != 3:
        return False
    path, operator, _ = item
    if isinstance(path, str):
        return path not in _SIGNS
    if isinstance(path, tuple | list | Domain):
        return False  # a nested domain of three terms
    return isinstance(operator, str) and operator not in _SIGNS


def _listed(item: Sequence[object], level: int) -> Domain:
    """Read a listed term that isn't clearly a condition: a constant, a nested domain, a mistake."""
    if _is_condition(item):
        path, operator, value = item
        if isinstance(path, int) and path in (0, 1) and operator == "=" and value == 1:
            return TRUE if path else FALSE
        return Condition(path, operator, value)  # type: ignore[arg-type]  # Condition checks it
    if item and isinstance(item[0], str) and item[0] not in _SIGNS:
        raise DomainError(
            f"{shorten(item)}: a condition has three parts (path, operator, value), not {len(item)}"
        )
    return _domain(item, level + 1)


def _signed(sign: str, stack: list[_Term]) -> _Term:
    if sign not in _SIGNS:
        raise DomainError(
            f"{shorten(sign)} is none of the signs '&', '|', '!' and no condition; {_SHAPE}"
        )
    needed = 1 if sign == "!" else 2
    if len(stack) < needed:
        raise DomainError(
            f"{sign!r} stands before {needed} term{'s' * (needed - 1)}, but only {len(stack)} "
            f"follow{'s' * (len(stack) == 1)}; signs come before their terms: ['|', a, b]"
        )
    first = stack.pop()
    if sign == "!":
        return ~_closed(first)
    return _joined(sign, first, stack.pop())


def _joined(sign: str, first: _Term, second: _Term) -> _Group:
    """Join two terms in one group; the longer one takes in the shorter one."""
    left, right = _grouped(sign, first), _grouped(sign, second)
    if len(left.terms) >= len(right.terms):
        left.terms.extend(right.terms)
        return left
    right.terms.extendleft(reversed(left.terms))
    return right


def _grouped(sign: str, term: _Term) -> _Group:
    if isinstance(term, _Group) and term.sign == sign:
        return term
    return _Group(sign, deque([_closed(term)]))


def _closed(term: _Term) -> Domain:
    return term.close() if isinstance(term, _Group) else term
