"""Checks at class creation: each option of a field is kept at the field's place, or refused."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final

from earnorm.fields.choices import convert_choices
from earnorm.fields.places import Place, is_array, places

if TYPE_CHECKING:
    from earnorm.fields.base import Field

_INDEXING: Final = ("unique", "index", "sparse")

_NO_IDS: Final = frozenset({"array", "decimal", "object"})


def check_options(
    owner: str, fields: Iterable[Field[Any, Any]], *, of_records: bool = False
) -> None:
    """Check the options of a class's fields, and of all fields inside of them, at their places.

    Args:
        owner: The name of the class, for messages.
        fields: Its fields.
        of_records: The class is a model, whose ``_id`` is the id of its records.

    Raises:
        TypeError: An option cannot be kept; the message names the field and the option.
    """
    fields = list(fields)
    for field in fields:
        if field.name == "_id":
            _check_hash(owner, field)
            if of_records:
                _check_id(owner, field)
        if not field.stored and not field.is_derived:
            _check_unstored(owner, field)
        if field.generated and _is_to_be_copied(field):
            raise TypeError(
                f"{owner}.{field.name}: copy=True cannot be kept by a {type(field).__name__} whose value "
                f"is filled in when a record is stored: the copy gets its own"
            )
    for place in places(fields):
        _convert_choices(owner, place)
        if place.unreachable:
            _check_unreachable(owner, place)
        elif place.lists:
            _check_in_list(owner, place)


def check_item(owner: Field[Any, Any], item: Field[Any, Any], what: str = "item") -> None:
    """Check the options of a field that stands for the items, values or keys of another.

    Raises:
        TypeError: An option has no meaning there.
    """
    kind = type(owner).__name__
    if item.of_records or getattr(item, "to_many", False):
        raise TypeError(
            f"{kind}() cannot hold a {type(item).__name__} that a record's own write sets"
        )
    if item.name:
        return  # it is shared with another field, whose class has checked it
    given = {
        "default": item.default is not None,
        "readonly": item.readonly,
        "copy": item.copy is bool(item.unique) and "copy" in item.given_options,
        "db_name": bool(item.db_name),
        "string": bool(item.string),
        "help": bool(item.help),
    }
    if what == "key":
        given |= {name: getattr(item, name) for name in _INDEXING}
    for option, is_given in given.items():
        if is_given:
            raise TypeError(
                f"{kind}({type(item).__name__}({option}=...)): one {what} of a {kind} has no {option}=; "
                f"give it to the {kind}"
            )


def check_field_inside(owner: str, field: Field[Any, Any]) -> None:
    """Check the options of a field of an embedded object that no embedded object can keep.

    Raises:
        TypeError: There is such an option, or the field belongs to records only.
    """
    if field.of_records or (getattr(field, "to_many", False) and not field.stored):
        raise TypeError(
            f"{owner}.{field.name} ({type(field).__name__}): a record's own write sets it, so it belongs "
            f"in a model, not in an embedded one"
        )
    if field.readonly:
        raise TypeError(
            f"{owner}.{field.name}: readonly= cannot be kept inside an embedded object, which a record "
            f"may replace; give it to the field that holds the object"
        )


def _convert_choices(owner: str, place: Place) -> None:
    """Convert the choices of a field once, by the field itself."""
    field = place.field
    if field.choices and field.choices is not vars(field).get("_converted"):
        try:
            convert_choices(field)
        except ValueError as error:
            raise TypeError(f"{_shown(owner, place)}: choices= cannot be kept: {error}") from None
        field._converted = field.choices


def _check_hash(owner: str, field: Field[Any, Any]) -> None:
    """Refuse an id of which the program can make no set and no key of a dict."""
    given = field.bson_schema().get("bsonType", ())
    kinds = {given} if isinstance(given, str) else {*given}
    if field.mutable or not kinds.isdisjoint(_NO_IDS):
        raise _no_id(owner, field, "its stored form has no hash")


def _check_id(owner: str, field: Field[Any, Any]) -> None:
    """Refuse an id that cannot name a record, and options that the id of a record cannot keep."""
    if not field.identifies:
        raise _no_id(owner, field, "a record cannot be found by its stored form and its text")
    refused = {
        "a value that is computed or kept elsewhere": field.is_derived or not field.stored,
        "a value that is filled in later than the id is drawn (a default= is in time)": field.generated,
        "db_name=, because the database knows it as _id only": field.db_name != "_id",
        "copy=True, because no two records have the same one": _is_to_be_copied(field),
        'on_delete="set_null", because no record is without one; choose "restrict" or "cascade"': (
            getattr(field, "on_delete", None) == "set_null"
        ),
    }
    for what, is_given in refused.items():
        if is_given:
            raise TypeError(
                f"{owner}._id ({type(field).__name__}): the id of a record cannot have {what}"
            )


def _no_id(owner: str, field: Field[Any, Any], reason: str) -> TypeError:
    return TypeError(
        f"{owner}._id: the id of a record cannot be of kind {type(field).__name__}, because "
        f"{reason}; use String, Int, UUID or Date"
    )


def _check_unstored(owner: str, field: Field[Any, Any]) -> None:
    given = {name: getattr(field, name) for name in _INDEXING}
    given["db_name"] = field.db_name != field.name
    given["copy"] = _is_to_be_copied(field)
    for option, is_given in given.items():
        if is_given:
            raise TypeError(
                f"{owner}.{field.name}: {option}= has no meaning for a {type(field).__name__} that "
                f"stores nothing in this record"
            )


def _is_to_be_copied(field: Field[Any, Any]) -> bool:
    """Return whether the declaration says so, as it is the default of most fields."""
    return field.copy and "copy" in field.given_options


def _check_unreachable(owner: str, place: Place) -> None:
    option = _needs_path(place.field)
    if option:
        raise TypeError(f"{_shown(owner, place)}: {option}= cannot be kept {place.unreachable}")


def _needs_path(field: Field[Any, Any]) -> str:
    """Return the option of a field for which the database has to find its values, or nothing."""
    if getattr(field, "on_delete", None) is not None:
        return "on_delete"
    return next((name for name in _INDEXING if getattr(field, name)), "")


def _check_in_list(owner: str, place: Place) -> None:
    field, shown = place.field, _shown(owner, place)
    if field.unique and (place.lists > 1 or is_array(field)):
        raise TypeError(
            f"{shown}: unique= cannot be kept in a list inside a list: an empty inner list counts "
            f"as a value"
        )
    if field.unique and not place.is_given:
        raise TypeError(
            f"{shown}: unique= in a list needs required=True (of the field and of the objects around "
            f"it in the list's item), because items without a value would collide"
        )
    on_delete = getattr(field, "on_delete", None)
    if on_delete == "cascade":
        raise TypeError(
            f'{shown}: on_delete="cascade" cannot be kept in a list, because one of several links is no '
            f'reason to delete a record; choose "set_null" or "restrict"'
        )
    if on_delete == "set_null" and place.min_length:
        raise TypeError(
            f'{shown}: on_delete="set_null" takes the link out of the list, which has a min_length; '
            f'choose "restrict"'
        )


def _shown(owner: str, place: Place) -> str:
    field = place.field
    return f"{owner}.{place.path} ({type(field).__name__})"
