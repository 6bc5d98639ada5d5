"""The items of a list that a change is about: which field they have, and where their values lie."""

from __future__ import annotations

from typing import Any, NamedTuple

from earnorm.domain import OPERATORS, Domain, condition, to_filter
from earnorm.domain.relational import asks_others
from earnorm.exceptions import UnresolvedDomain
from earnorm.fields.structured import Embedded, List
from earnorm.kernel.steps import Loc
from earnorm.model.schema import schema_inside
from earnorm.model.writing.bounds import works_on
from earnorm.model.writing.places import Place, RefusedError


class Items(NamedTuple):
    """The items of a list that fulfil a domain.

    Attributes:
        outer: The items that have the list; None for a list of the record.
        place: The place of the list, in the record or in such an item.
        item: The field of the items.
        domain: The condition about an item.
        path: The stored path of the list, from the record on.
        name: The name that stands for such an item in stored paths.
        loc: The location of the list in the given values.
    """

    outer: Items | None
    place: Place
    item: Embedded[Any, Any]
    domain: Domain
    path: str
    name: str
    loc: Loc

    def stored(self, path: str) -> str:
        """Return the stored path, from the record on, of a path in an item."""
        return f"{self.path}.$[{self.name}].{path}"

    def some(self, domain: Domain) -> Domain:
        """Return the domain of the records of which some such item fulfils another domain, too."""
        here = condition(self.place.path, "elem", self.domain & domain)
        return here if self.outer is None else self.outer.some(here)

    def every(self, domain: Domain) -> Domain:
        """Return the domain of the records of which every such item fulfils another domain."""
        return ~self.some(~domain)


def item_field(place: Place) -> Embedded[Any, Any]:
    """Return the field of the embedded objects in a list.

    Raises:
        RefusedError: There is no such list, or a rule looks at the whole list or at whole objects.
    """
    field: Any = place.field
    item = field.contents().items
    if not isinstance(field, List) or not isinstance(item, Embedded):
        raise RefusedError(works_on("UpdateItems", "List(Embedded(…))", field))
    if "UpdateItems" in getattr(field, "refused_changes", ()):
        raise RefusedError(f"a {type(field).__name__} does not take UpdateItems")
    if any((*field.validators, *field.async_validators, *item.validators, *item.async_validators)):
        raise RefusedError(
            "the result of UpdateItems cannot be checked by the field's validators; read the record, "
            "change it and save() it"
        )
    return item


def check_item_domain(item: Embedded[Any, Any], domain: Domain) -> None:
    """Refuse a domain that the database cannot decide for one item.

    Raises:
        RefusedError: It asks about other records, or about the whole record.
        DomainError: Unknown field or operator, or a value that doesn't fit.
    """
    schema = schema_inside(item)
    operators = [OPERATORS.get(asked.operator) for asked in domain.conditions()]
    if any(operator is not None and operator.pathless for operator in operators):
        raise RefusedError("a condition about the whole record does not choose items of a list")
    if asks_others(domain, schema, OPERATORS):
        raise RefusedError(
            "a condition about other records does not choose items of a list; search() these records, "
            "and compare with their ids"
        )
    if None not in operators:  # one that a plugin brings is known to the App only
        try:
            to_filter(domain, schema, OPERATORS)
        except UnresolvedDomain as error:
            raise RefusedError(str(error)) from error
