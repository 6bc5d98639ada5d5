"""What conditions across relations mean, before anything is asked.

``a.b op v`` is ``a any (b op v)``: some record that ``a`` leads to fulfils ``b op v``. So ``a.b != v``
requires ``a`` to be set, and its complement is ``a not any (b = v)``, which finds unset ``a`` as well.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from earnorm.domain.ast import TRUE, And, Condition, Domain, Or
from earnorm.domain.operators import ElementSchema, Operator, unresolved
from earnorm.domain.schema import ID_PATHS, Crossing, FieldLike, Schema
from earnorm.domain.values import is_list, is_tuple, shorten, thaw
from earnorm.exceptions import DomainError, UnresolvedDomain

__all__ = ["Link", "Reading", "Tree", "asks_others", "element_schema", "items", "merged", "read"]

_Operators: TypeAlias = Mapping[str, Operator]


@dataclass(frozen=True, slots=True)
class Link:
    """Some record (``negated``: no record) that the relation leads to fulfils the domain."""

    crossing: Crossing
    domain: Domain
    negated: bool = False


@dataclass(frozen=True, slots=True)
class Tree:
    """The value of ``path`` lies below (``upwards``: above) the start records, or is one of them.

    ``crossing`` is the relation to the model whose tree it is; None where it is the model's own id.
    """

    path: str
    crossing: Crossing | None
    upwards: bool
    starts: tuple[object, ...]

    def ids(self, field: FieldLike) -> list[Any]:
        """The ids of the start records.

        Args:
            field: The id of the model whose tree it is.

        Raises:
            DomainError: One of them is neither a record nor an id.
        """
        try:
            return [field.operand(thaw(each)) for each in self.starts if each is not None]
        except ValueError as error:
            name = "parent_of" if self.upwards else "child_of"
            raise DomainError(f"({self.path!r}, {name!r}): {error}", loc=(self.path,)) from None


Reading: TypeAlias = Domain | Link | Tree


def read(node: Condition, schema: Schema, operators: _Operators) -> Reading:
    """What a condition asks of other records.

    Returns:
        The condition itself where it asks nothing of them; another domain that means the same and is
        to be read in its turn; or what it asks.

    Raises:
        DomainError: A relational operator on a path that is no relation, or a value it doesn't take.
    """
    operator = operators.get(node.operator)
    if operator is None or operator.pathless:
        return node
    substitute = schema.substitute(node.path)
    if substitute is not None:
        rest = node.path.partition(".")[2]
        found: Domain = substitute(rest, node.operator, thaw(node.value))
        return found
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
    error = unresolved(node, schema)
    if not isinstance(error, UnresolvedDomain):
        raise error
    return Tree(node.path, None, node.operator == "parent_of", items(node.value))


def _short(node: Condition, crossing: Crossing) -> Domain | None:
    """``author_id.id = x`` is ``author_id = x``: no other record has to be asked."""
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
    """A condition on the records that point here, as one on some or none of them."""
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
    found = parts[0] if len(parts) == 1 else Or(parts)
    return ~found if node.operator in ("!=", "not in") else found


def items(value: object) -> tuple[object, ...]:
    """The values that a condition names: those of a list or of a RecordSet, or the one; ``None``
    among others stays, alone it is none."""
    if value is None:
        return ()
    if is_tuple(value):
        return tuple(single for each in value for single in _one(each))
    if is_list(value):
        return tuple(single for each in value for single in _one(each))
    return tuple(_one(value))


def _one(value: object) -> Iterator[object]:
    # A RecordSet: its records, of which it has any number; asked by duck, since models know domains.
    if hasattr(type(value), "pks"):
        records: Any = value
        yield from records
    elif is_tuple(value) or is_list(value):
        raise DomainError(f"an id or a record is needed, not {shorten(value)}")
    else:
        yield value


def merged(node: Domain, schema: Schema, operators: _Operators) -> Domain:
    """Several conditions across one relation as one, where that means the same.

    Under OR always; under AND for a relation to one record, since two conditions on several may be
    met by different ones.
    """
    if not isinstance(node, And | Or):
        return node
    links: dict[str, list[Domain]] = {}
    kept: list[Domain] = []
    for child in node.children:
        link = read(child, schema, operators) if isinstance(child, Condition) else child
        if (
            isinstance(link, Link)
            and not link.negated
            and (link.crossing.single or isinstance(node, Or))
        ):
            # What a path's field is called decides; the same relation has the same path.
            name = _relation_path(link.crossing, child)
            if name in links:
                links[name].append(link.domain)
                continue
            links[name] = [link.domain]
        kept.append(child)
    if all(len(domains) == 1 for domains in links.values()):
        return node
    return type(node)([_joined(child, node, links, schema, operators) for child in kept])


def _joined(
    child: Domain,
    node: And | Or,
    links: Mapping[str, list[Domain]],
    schema: Schema,
    operators: _Operators,
) -> Domain:
    if not isinstance(child, Condition):
        return child
    link = read(child, schema, operators)
    if not isinstance(link, Link) or link.negated:
        return child
    name = _relation_path(link.crossing, child)
    domains = links.get(name, ())
    return Condition(name, "any", type(node)(domains)) if len(domains) > 1 else child


def _relation_path(crossing: Crossing, child: Domain) -> str:
    """The path of the relation itself, as it is written in a condition."""
    path = child.path if isinstance(child, Condition) else ""
    return path[: -len(crossing.rest) - 1] if crossing.rest else path


def element_schema(node: Condition, schema: Schema) -> Schema:
    """The schema that the domain of ``elem`` is about."""
    return ElementSchema(schema, node.path, schema.resolve(node.path).db_path)


def asks_others(node: Domain, schema: Schema, operators: _Operators) -> bool:
    """Whether any condition has to be resolved. Cheap: paths are looked up in the schema's cache."""
    for each in node.conditions():
        operator = operators.get(each.operator)
        if operator is None or operator.pathless:
            continue
        if operator.relational or schema.substitute(each.path) is not None:
            return True
        crossing = schema.crossing(each.path)
        if crossing is not None and (crossing.rest or not crossing.owned):
            return True
        if operator.nested and asks_others(
            Domain(thaw(each.value)), element_schema(each, schema), operators
        ):
            return True
    return False
