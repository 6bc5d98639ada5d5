"""The meaning of conditions across relations, found before anything is asked of the database.

``a.b op v`` is ``a any (b op v)``: some record that ``a`` leads to fulfils ``b op v``. So ``a.b != v``
requires ``a`` to be set, and its complement is ``a not any (b = v)``, which finds unset ``a`` as well.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, NamedTuple, TypeAlias

from earnorm.domain.ast import TRUE, And, Condition, Domain, Or
from earnorm.domain.operators import TREE_OPERATORS, ElementSchema, Operator, unresolved
from earnorm.domain.schema import ID_PATHS, Crossing, FieldLike, Schema
from earnorm.domain.values import is_list, is_tuple, shorten, thaw
from earnorm.exceptions import DomainError

__all__ = ["Link", "Reading", "Tree", "asks_others", "element_schema", "items", "merged", "read"]

_Operators: TypeAlias = Mapping[str, Operator]


class Link(NamedTuple):
    """The condition that a record (``negated``: no record) of the relation fulfils the domain."""

    crossing: Crossing
    domain: Domain
    negated: bool = False


class Tree(NamedTuple):
    """The condition that the value of ``path`` is a start record or below (``upwards``: above) one.

    ``crossing`` is the relation to the model of the tree; it is None if the path is the model's own
    id.
    """

    path: str
    crossing: Crossing | None
    upwards: bool
    starts: tuple[object, ...]

    def ids(self, field: FieldLike) -> list[Any]:
        """Return the ids of the start records.

        Args:
            field: The id field of the tree's model.

        Raises:
            DomainError: A start is neither a record nor an id.
        """
        try:
            return [field.operand(thaw(start)) for start in self.starts if start is not None]
        except ValueError as error:
            name = "parent_of" if self.upwards else "child_of"
            raise DomainError(f"({self.path!r}, {name!r}): {error}", loc=(self.path,)) from None


Reading: TypeAlias = Domain | Link | Tree


def read(node: Condition, schema: Schema, operators: _Operators) -> Reading:
    """Find out what a condition asks of other records.

    Returns:
        The condition itself if it asks nothing of them; another domain with the same meaning, which
        the caller reads in turn; or the ``Link`` or ``Tree`` that it asks about.

    Raises:
        DomainError: The operator is relational and the path is not, or it doesn't take the value.
    """
    operator = operators.get(node.operator)
    if operator is None or operator.pathless:
        return node
    substitute = schema.substitute(node.path)
    if substitute is not None:
        rest = node.path.partition(".")[2]
        replacement: Domain = substitute(rest, node.operator, thaw(node.value))
        return replacement
    crossing = schema.crossing(node.path)
    if crossing is None:
        return _without_relation(node, operator, schema)
    if crossing.rest:
        short = _short(node, crossing)
        if short is not None:
            return short
        return Link(crossing, Condition(crossing.rest, node.operator, thaw(node.value)))
    if operator.relational:
        return _RELATIONAL[node.operator](node, crossing)
    return node if crossing.owned else _of_linked(node)


def _without_relation(node: Condition, operator: Operator, schema: Schema) -> Reading:
    if not operator.relational:
        return node
    if node.operator in TREE_OPERATORS and schema.resolve(node.path).db_path == "_id":
        return Tree(node.path, None, node.operator == "parent_of", items(node.value))
    raise unresolved(node, schema)


def _short(node: Condition, crossing: Crossing) -> Domain | None:
    """Shorten ``author_id.id = x`` to ``author_id = x``, which needs no other record."""
    if crossing.rest not in ID_PATHS or not crossing.owned:
        return None
    values = items(node.value)
    if not values or None in values or any(is_tuple(value) for value in values):
        return None
    if node.operator in ("=", "in"):
        return Condition(crossing.path, "in", list(values))
    if node.operator in ("!=", "not in") and crossing.single:
        return Condition(crossing.path, "not in", [*values, None])
    return None


def _any(node: Condition, crossing: Crossing) -> Reading:
    try:
        domain = Domain(thaw(node.value))
    except DomainError as error:
        raise DomainError(
            f"({node.path!r}, {node.operator!r}): its value is a domain about the related records; "
            f"{error.errors()[0]['msg']}",
            loc=(node.path,),
        ) from None
    return Link(crossing, domain, node.operator == "not any")


def _tree(node: Condition, crossing: Crossing) -> Reading:
    upwards = node.operator == "parent_of"
    if crossing.owned:
        return Tree(node.path, crossing, upwards, items(node.value))
    return Link(crossing, Condition("_id", node.operator, thaw(node.value)))


_RELATIONAL: Final[Mapping[str, Callable[[Condition, Crossing], Reading]]] = {
    "any": _any,
    "not any": _any,
    "child_of": _tree,
    "parent_of": _tree,
}


def _of_linked(node: Condition) -> Domain:
    """Rewrite a condition on the records that point here with ``any`` and ``not any``."""
    values = items(node.value)
    if node.operator == "=?" and not values:
        return TRUE
    if node.operator not in ("=", "=?", "!=", "in", "not in"):
        raise DomainError(
            f"({node.path!r}, {node.operator!r}): the records that point here are compared with "
            f"=, !=, in, not in, any and not any",
            loc=(node.path,),
        )
    by_list = node.operator in ("in", "not in")
    wanted = [value for value in values if value is not None]
    parts: list[Domain] = []
    if wanted:
        parts.append(Condition(node.path, "any", [("_id", "in", wanted)]))
    if len(wanted) < len(values) or not (values or by_list):
        parts.append(Condition(node.path, "not any", []))
    domain = parts[0] if len(parts) == 1 else Or(parts)
    return ~domain if node.operator in ("!=", "not in") else domain


def items(value: object) -> tuple[object, ...]:
    """Return the values that a condition names: the items of a list or RecordSet, or its one value.

    ``None`` alone gives no values; among others it stays.
    """
    if value is None:
        return ()
    if is_tuple(value):
        return tuple(single for item in value for single in _single_values(item))
    if is_list(value):
        return tuple(single for item in value for single in _single_values(item))
    return tuple(_single_values(value))


def _single_values(value: object) -> Iterator[object]:
    # Only a RecordSet has pks. Its class can't be imported, because models import this module.
    if hasattr(type(value), "pks"):
        records: Any = value
        yield from records
    elif is_tuple(value) or is_list(value):
        raise DomainError(f"an id or a record is needed, not {shorten(value)}")
    else:
        yield value


def merged(node: Domain, schema: Schema, operators: _Operators) -> Domain:
    """Merge the conditions across one relation into one, if that means the same.

    It always does under OR. Under AND it does for a relation to one record; of several records,
    different ones may meet the conditions. Negated conditions are the reverse: that no record
    fulfils one condition, and none another, is that none fulfils either.
    """
    if not isinstance(node, And | Or):
        return node
    links: dict[tuple[str, bool], list[Domain]] = {}
    kept: list[Domain] = []
    for child in node.children:
        link = read(child, schema, operators) if isinstance(child, Condition) else child
        if isinstance(link, Link) and (
            link.crossing.single or isinstance(node, And if link.negated else Or)
        ):
            # Conditions across one relation begin with the same path.
            key = (_relation_path(link.crossing, child), link.negated)
            if key in links:
                links[key].append(link.domain)
                continue
            links[key] = [link.domain]
        kept.append(child)
    if all(len(domains) == 1 for domains in links.values()):
        return node
    return type(node)([_joined(child, node, links, schema, operators) for child in kept])


def _joined(
    child: Domain,
    node: And | Or,
    links: Mapping[tuple[str, bool], list[Domain]],
    schema: Schema,
    operators: _Operators,
) -> Domain:
    if not isinstance(child, Condition):
        return child
    link = read(child, schema, operators)
    if not isinstance(link, Link):
        return child
    name = _relation_path(link.crossing, child)
    domains = links.get((name, link.negated), ())
    if len(domains) < 2:
        return child
    if link.negated:
        # That no record fulfils one, and none another: none fulfils either.
        inner = Or(domains) if isinstance(node, And) else And(domains)
        return Condition(name, "not any", inner)
    return Condition(name, "any", type(node)(domains))


def _relation_path(crossing: Crossing, child: Domain) -> str:
    """Return the relation's own path, as the condition writes it."""
    path = child.path if isinstance(child, Condition) else ""
    return path[: -len(crossing.rest) - 1] if crossing.rest else path


def element_schema(node: Condition, schema: Schema) -> Schema:
    """Return the schema for the domain of an ``elem`` condition."""
    return ElementSchema(schema, node.path, schema.resolve(node.path).db_path)


def asks_others(node: Domain, schema: Schema, operators: _Operators) -> bool:
    """Return whether any condition has to be resolved; it is cheap, as the schema caches paths."""
    for condition in node.conditions():
        operator = operators.get(condition.operator)
        if operator is None or operator.pathless:
            continue
        if operator.relational or schema.substitute(condition.path) is not None:
            return True
        crossing = schema.crossing(condition.path)
        if crossing is not None and (crossing.rest or not crossing.owned):
            return True
        if operator.nested and asks_others(
            Domain(thaw(condition.value)), element_schema(condition, schema), operators
        ):
            return True
    return False
