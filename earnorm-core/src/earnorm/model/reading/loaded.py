"""Evaluates domains about other records in memory, on loaded records and without a query.

A ghost whose values are needed raises ``FieldNotLoaded``; nothing is guessed. A record that is gone
fulfils no condition about its values, as on the server, which does not find it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from earnorm.domain import And, Condition, Domain, Not, Operator, Or, matcher
from earnorm.domain.paths import is_position
from earnorm.domain.relational import Link, Tree, asks_others, element_schema, read
from earnorm.domain.values import thaw
from earnorm.exceptions import DomainError, FieldNotLoaded
from earnorm.fields.relational import is_recordset
from earnorm.model.reading.fetch import is_gone
from earnorm.model.reading.parts import has_parts, refuse_unread

if TYPE_CHECKING:
    from earnorm.model.base import BaseModel
    from earnorm.model.schema import Schema

Judge = Callable[[Any], bool]
"""A function that returns whether a record fulfils a domain."""


def judge(
    model: type[BaseModel],
    domain: Domain,
    operators: Mapping[str, Operator],
    known: Sequence[BaseModel] = (),
) -> Judge:
    """Return the test of a record by a domain that may follow relations.

    Args:
        model: The model of the records.
        domain: The condition.
        operators: The operators of the App.
        known: Loaded records, in which ``parent_of`` finds its start records by id.

    Raises:
        DomainError: An unknown field or operator.
        FieldNotLoaded: (the test) The domain needs a field or record that was not fetched.
    """
    return _Judges(operators, known).of(model._schema, domain)


class _Judges:
    def __init__(self, operators: Mapping[str, Operator], known: Sequence[BaseModel]) -> None:
        self._operators = operators
        self._known = known
        self._documents: dict[int, dict[str, Any]] = {}

    def of(self, schema: Schema, node: Domain) -> Judge:
        if isinstance(node, Condition):
            return self._condition(schema, node)
        if isinstance(node, And | Or):
            parts = [self.of(schema, child) for child in node.children]
            combined = all if isinstance(node, And) else any
            return lambda record: combined(part(record) for part in parts)
        if isinstance(node, Not):
            part = self.of(schema, node.child)
            return lambda record: not part(record)
        holds = node is Domain.TRUE
        return lambda record: holds

    def _condition(self, schema: Schema, node: Condition) -> Judge:
        reading = read(node, schema, self._operators)
        if isinstance(reading, Link):
            return self._link(reading, _relation_path(node, reading))
        if isinstance(reading, Tree):
            return self._tree(reading)
        if reading is not node:
            return self.of(schema, reading)
        operator = self._operators.get(node.operator)
        if operator is not None and operator.nested:
            inside = Domain(thaw(node.value))
            if asks_others(inside, element_schema(node, schema), self._operators):
                return self._elements(node.path, inside)
        matches = matcher(node, schema, self._operators)
        name = schema.field_at(node.path)

        def plain(record: Any) -> bool:
            if has_parts(record):
                refuse_unread(record, node, self._operators)
            return matches(self._document(record, name))

        return plain

    def _document(self, record: Any, name: str) -> dict[str, Any]:
        if name not in record.__dict__:
            getattr(record, name)  # raises FieldNotLoaded where it was not fetched
        document = self._documents.get(id(record))
        if document is None:
            document = self._documents[id(record)] = record._stored()
        schema = type(record)._schema
        if name in schema.to_many_names:
            record._stored_links(document, [schema.fields[name]])
        return document

    def _link(self, link: Link, path: str) -> Judge:
        fulfils = self._of_any(link.domain)

        def linked(record: Any) -> bool:
            return any(fulfils(other) for other in _loaded(record, path)) is not link.negated

        return linked

    def _elements(self, path: str, inside: Domain) -> Judge:
        """Return the test whether an embedded object in a list fulfils a domain about others."""
        fulfils, names = self._of_any(inside), path.split(".")
        return lambda record: any(map(fulfils, _at(record, names, 0)))

    def _of_any(self, domain: Domain) -> Judge:
        """Return the test of records, or of embedded objects, of any class."""
        judges: dict[type, Judge] = {}

        def fulfils(one: Any) -> bool:
            test = judges.get(type(one))
            if test is None:
                test = judges[type(one)] = self.of(type(one)._schema, domain)
            return test(one)

        return fulfils

    def _tree(self, tree: Tree) -> Judge:
        def in_tree(record: Any) -> bool:
            places = [record] if tree.crossing is None else _related(record, tree.path)
            return any(self._is_in(tree, place) for place in places)

        return in_tree

    def _is_in(self, tree: Tree, place: Any) -> bool:
        model = type(place)
        starts = set(tree.ids(model._schema.fields["_id"]))
        if place.pk in starts:
            return True
        if not tree.upwards:
            return any(ancestor.pk in starts for ancestor in _ancestors(place))
        return any(
            ancestor == place
            for start in self._records(tree, model)
            for ancestor in _ancestors(start)
        )

    def _records(self, tree: Tree, model: type[Any]) -> Iterator[Any]:
        """Yield the start records, whose parents the domain needs."""
        by_id = {r.pk: r for r in self._known if isinstance(r, model)}
        operand = model._schema.fields["_id"].operand
        for start in tree.starts:
            record = start if isinstance(start, model) else by_id.get(operand(start))
            if record is None:
                raise FieldNotLoaded(
                    f"{model.__name__}: the parents of a start of 'parent_of' are not loaded; give "
                    f"records that are, or 'await app.resolve(model, domain)' first"
                )
            yield record


def _ancestors(record: Any) -> Iterator[Any]:
    """Yield the ancestors of a record, the nearest first, each once."""
    parent: str = getattr(type(record), "_parent_name", "parent_id")
    if parent not in type(record)._schema.fields:
        raise DomainError(f"{type(record)._name} is no tree: it has no {parent!r}")
    seen = {record}
    while not is_gone(record) and (record := getattr(record, parent)) is not None:
        if record in seen:
            return
        seen.add(record)
        yield record


def _relation_path(node: Condition, link: Link) -> str:
    rest = link.crossing.rest
    return node.path[: -len(rest) - 1] if rest else node.path


def _loaded(record: Any, path: str) -> Iterator[Any]:
    for other in _related(record, path):
        if is_gone(other):
            continue
        fetch = getattr(other, "_fetch", None)
        if fetch is not None and fetch.is_ghost:
            raise FieldNotLoaded(
                f"{type(record).__name__}: a record of {path!r} is not loaded; "
                f"search(...).prefetch({path!r}) loads it"
            )
        yield other


def _at(place: Any, names: Sequence[str], start: int) -> Iterator[Any]:
    """Yield all that ``names[start:]`` leads to; as on the server, into the items of one list."""
    value = place
    for number in range(start, len(names)):
        value = _step(value, names[number])
        if isinstance(value, list):
            yield from _at_items(value, names, number + 1)
            return
        if value is None:
            return
    if is_recordset(value):
        value._refuse_part("evaluate a domain on it")
        yield from value
    else:
        yield value


def _at_items(items: list[Any], names: Sequence[str], start: int) -> Iterator[Any]:
    by_position = start < len(names) and is_position(names[start])
    if by_position:
        items = items[int(names[start]) :][:1]
        start += 1
    for item in items:
        if isinstance(item, list):
            if by_position:  # the server looks for nothing in a list that it does not name
                yield from _at_items(item, names, start)
        elif item is not None:
            yield from _at(item, names, start)


def _related(record: Any, path: str) -> Iterator[Any]:
    """Yield the records that a relation leads to, also one inside an embedded object."""
    for related in _at(record, path.split("."), 0):
        if not hasattr(related, "is_stored"):
            raise FieldNotLoaded(
                f"{type(record).__name__}: the records of {path!r} are not loaded; "
                f"'await app.resolve(model, domain)' asks the database instead"
            )
        yield related


def _step(place: Any, name: str) -> Any:
    """Return what a name of a path leads to: a field's value, or that of a dict's key."""
    if isinstance(place, dict):
        values: dict[Any, Any] = place
        # A path names a key by its stored text: that of a member of an enum is its value.
        return next((v for k, v in values.items() if str(getattr(k, "value", k)) == name), None)
    return getattr(place, name)
