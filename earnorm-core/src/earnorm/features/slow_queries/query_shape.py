"""The shape of an operation: its field names and operators, and none of its values.

A log may contain a shape, and a shape is enough to choose an index.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

from earnorm.domain import And, Condition, Domain, Not, Or
from earnorm.exceptions import ConfigurationError
from earnorm.kernel.operations import Operation

Pair = tuple[str, str]
"""A field path and an operator."""
BRANCHES = 8
"""The most alternatives of an "or" in a shape; more of them become one that no index can serve."""


class QueryShape(NamedTuple):
    """An operation without its values.

    Attributes:
        model: The model's name.
        operation: search, count, group, write or unlink.
        text: The condition in words: ``state = ? and age > ?``.
        branches: The conditions that are true together, one tuple for each alternative of an "or".
        order: Stored paths with 1 or -1.
        is_limited: True if the operation has a limit.
    """

    model: str
    operation: str
    text: str
    branches: tuple[tuple[Pair, ...], ...]
    order: tuple[tuple[str, int], ...] = ()
    is_limited: bool = False

    def __str__(self) -> str:
        ordered = ", ".join(f"{'-' if way < 0 else ''}{path}" for path, way in self.order)
        parts = [f"{self.operation} {self.model}: {self.text}"]
        parts += [f"order {ordered}"] if ordered else []
        parts += ["limited"] if self.is_limited else []
        return "; ".join(parts)

    def to_json(self) -> dict[str, Any]:
        """Return the shape as JSON values, for a file of shapes."""
        return {
            "model": self.model,
            "operation": self.operation,
            "text": self.text,
            "branches": self.branches,
            "order": self.order,
            "is_limited": self.is_limited,
        }

    @classmethod
    def from_json(cls, source: str) -> QueryShape:
        """Read a shape from a line of such a file.

        Raises:
            ConfigurationError: The line is no shape.
        """
        try:
            values = json.loads(source)
            return cls(
                str(values["model"]),
                str(values["operation"]),
                str(values["text"]),
                tuple(tuple((str(p), str(o)) for p, o in branch) for branch in values["branches"]),
                tuple((str(path), int(way)) for path, way in values["order"]),
                bool(values["is_limited"]),
            )
        except (ValueError, KeyError, TypeError) as error:
            raise ConfigurationError(f"not a query shape: {type(error).__name__}") from None


def shape_of(op: Operation) -> QueryShape | None:
    """Return the shape of an operation; None if it searches nothing."""
    request = op.request
    if op.name == "create" or (request is not None and not request.reads_documents):
        return None
    domain = op.domain.simplify()
    return QueryShape(
        model=op.model._name,
        operation=op.name,
        text=_text(domain),
        branches=_branches(domain),
        order=op.options.order,
        is_limited=bool(op.options.limit),
    )


def _text(node: Domain) -> str:
    if isinstance(node, Condition):
        return f"{node.path} {node.operator} ?"
    if isinstance(node, And | Or):
        word = " and " if isinstance(node, And) else " or "
        parts = [f"({_text(c)})" if isinstance(c, And | Or) else _text(c) for c in node.children]
        return word.join(parts)
    if isinstance(node, Not):
        return f"not ({_text(node.child)})"
    return "all" if node is Domain.TRUE else "none"


def _branches(node: Domain) -> tuple[tuple[Pair, ...], ...]:
    """Return the alternatives that an index could serve, without deeper or negated conditions."""
    if isinstance(node, Or):
        branches = [branch for child in node.children for branch in _branches(child)]
        return tuple(dict.fromkeys(branches)) if len(branches) <= BRANCHES else ((),)
    terms: Sequence[Domain] = node.children if isinstance(node, And) else (node,)
    common = tuple((term.path, term.operator) for term in terms if isinstance(term, Condition))
    choices = [term for term in terms if isinstance(term, Or)]
    if len(choices) == 1 and len(alternatives := _branches(choices[0])) <= BRANCHES:
        return tuple(dict.fromkeys((*common, *branch) for branch in alternatives))
    return (common,)
