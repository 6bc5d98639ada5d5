"""Checks what an endpoint offers to clients: its form when it is made, its names against the model.

A name that is misspelt here is a mistake of the program. Unchecked it would be told to a client, as
if the client had sent it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import TYPE_CHECKING, Final, TypeAlias

from earnorm.domain.client_text import checked_names
from earnorm.exceptions import (
    ConfigurationError,
    DomainError,
    UnresolvedDomain,
    ValidationError,
    nearest,
)
from earnorm.features.paging.paging import Keyset
from earnorm.kernel.naming import nearest_field
from earnorm.model.reading.ordering import parse_order
from earnorm.model.reading.serializing import public_names
from earnorm.model.relations.ghosts import target_of

if TYPE_CHECKING:
    from earnorm.integrations.listings import Listing
    from earnorm.kernel.binding import BoundModel

__all__ = ["Filterable", "check_form", "check_names"]

Filterable: TypeAlias = Collection[str] | Mapping[str, Collection[str]]

_SIGNS: Final = ("-", "+")


# -- the form -------------------------------------------------------------------------------------


def check_form(listing: Listing) -> None:
    """Check what needs no model.

    Raises:
        TypeError: A part has no such form.
        ValueError: A number is out of its range.
    """
    if isinstance(listing.fields, str) or not listing.fields:
        raise TypeError("Listing(fields=...) is a list of at least one name")
    _check_names("fields", listing.fields)
    _check_names("filter", listing.filter)
    _check_names("order", listing.order)
    for name in listing.fields:
        if list(listing.fields).count(name) > 1:
            raise TypeError(f"Listing(fields=...): {name!r} is there twice")
    for name in listing.order:
        if name.startswith(_SIGNS):
            raise TypeError(
                f"Listing(order=...): {name!r} has a sign; offer {name.lstrip('-+')!r}: the client "
                f"says the direction, and default_order that of the program"
            )
        if "," in name:
            raise TypeError(f"Listing(order=...): {name!r} is no name; give each its own text")
    if isinstance(listing.filter, Mapping):
        for path, operators in listing.filter.items():
            if isinstance(operators, str) or not operators:
                raise TypeError(
                    f"Listing(filter=...): the operators of {path!r} are a list of at least one: "
                    f'{{{path!r}: ["=", "in"]}}'
                )
    if not isinstance(listing.default_order, str | None):
        raise TypeError('Listing(default_order=...) is a text: "-date,name"')
    if not 0 < listing.size <= listing.most:
        raise ValueError("Listing(size=...) is a number from 1 to most")
    if listing.length < 1:
        raise ValueError("Listing(length=...) is a number from 1")
    if listing.timeout is not None and not listing.timeout > 0:
        raise ValueError("Listing(timeout=...) is a time in seconds above 0")


def _check_names(argument: str, names: Collection[str]) -> None:
    try:
        checked_names(argument, names)
    except TypeError:
        raise TypeError(f"Listing({argument}=...) is a collection of names") from None


# -- the names ------------------------------------------------------------------------------------


def check_names(listing: Listing, bound: BoundModel) -> None:
    """Check the names and the operators of a listing against a model, as an App has it.

    Raises:
        ConfigurationError: Some are wrong; it lists all of them.
    """
    problems = [
        *_wrong_fields(listing.fields, bound),
        *_wrong_filters(listing.filter, bound),
        *(text for path in listing.order for text in _wrong_order("order", path, bound)),
        *_wrong_order("default_order", listing.default_order, bound),
    ]
    if problems:
        raise ConfigurationError(
            f"what clients may ask of {bound.model._name} is misspelt: {'; and '.join(problems)}"
        )


def _wrong_fields(names: Collection[str], bound: BoundModel) -> Iterator[str]:
    known = public_names(bound.schema)
    for name in names:
        if name not in known:
            hint = nearest_field(bound.schema, name, known)
            yield f"fields: {bound.model._name} has no public field {name!r}{hint}"


def _wrong_filters(offered: Filterable, bound: BoundModel) -> Iterator[str]:
    for path in offered:
        operators = offered[path] if isinstance(offered, Mapping) else ()
        known = [bound.operators[each] for each in operators if each in bound.operators]
        for operator in operators:
            if operator not in bound.operators:
                hint = nearest(str(operator), bound.operators)
                yield f"filter: {path!r} has no operator {operator!r}{hint}"
        if any(operator.pathless for operator in known):
            continue  # it is about the whole record, and its path is no field's
        try:
            _check_path(path, bound)
        except DomainError as error:
            yield f"filter: {error.errors()[0]['msg']}"


def _check_path(path: str, bound: BoundModel) -> None:
    """Refuse a path that leads nowhere, in this model or in those behind its relations.

    Raises:
        DomainError: It names the nearest field.
    """
    while (crossing := bound.schema.crossing(path)) is not None:
        if not crossing.rest or not crossing.field.comodel:
            return  # it ends at a relation, or leads to records of several models
        bound, path = target_of(bound.app, crossing.field), crossing.rest
    try:
        bound.schema.resolve(path)
    except UnresolvedDomain:
        return  # a computed field, which says itself how it is searched


def _wrong_order(argument: str, order: str | None, bound: BoundModel) -> Iterator[str]:
    """Yield what is wrong with an order, of which a page must be able to make a cursor."""
    try:
        Keyset(bound.schema, parse_order(order))
    except ValidationError as error:
        yield f"{argument}: {error.errors()[0]['msg'].removeprefix('order: ')}"
