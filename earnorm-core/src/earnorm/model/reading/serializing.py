"""Turns records into dicts and JSON without a query: a relation that is not loaded stays an id."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from earnorm.exceptions import EarnORMError, FieldNotLoaded, LimitExceeded, ValidationError
from earnorm.fields.base import MISSING, ConvertingField, Field, MutableField
from earnorm.fields.reference import Reference
from earnorm.fields.relational import ToMany, is_record, is_recordset
from earnorm.fields.temporal import DateTime
from earnorm.kernel.naming import nearest_field
from earnorm.model.unreadable import unreadable

if TYPE_CHECKING:
    from earnorm.model.base import BaseModel
    from earnorm.model.reading.fetch import Fetch
    from earnorm.model.schema import Schema
    from earnorm.model.structures import Structure

Names: TypeAlias = Iterable[str] | None

MAX_LEVELS: Final = 60
"""The most levels of nested dicts; a deeper one would end at Python's own limit of recursion."""
MAX_NESTED: Final = 100_000
"""The most related records that one call turns into nested dicts."""

_SCALARS = (str, int, bool)  # these types are their own JSON form, and cannot change in place
_GETTERS = frozenset(
    vars(kind)["__get__"] for kind in (Field, ConvertingField, MutableField, DateTime)
)


class SelfDescribed:
    """A value that makes its own dict."""

    __slots__ = ()

    def to_dict(self) -> dict[str, Any] | None:
        """Return a dict of Python values; None where the value is empty."""
        raise NotImplementedError


class Serializer:
    """Turns records into dicts, with one form of their values.

    Args:
        form: Returns the form of a field's value, which is neither None nor a record.
        depth: The number of nested relations whose loaded records become dicts; deeper ones, ids.
    """

    def __init__(self, form: Callable[[Field[Any, Any], Any], Any], depth: int) -> None:
        self._form = form
        self._depth = depth
        self._left = MAX_NESTED
        self._path: list[BaseModel] = []  # a record inside itself becomes its id

    def record(self, record: BaseModel, include: Names = None, exclude: Names = None) -> Any:
        """Return a record as a dict: its id, then its fields.

        Raises:
            LimitExceeded: There are more than 60 levels, or 100,000 nested dicts with those before.
        """
        schema = type(record)._schema
        names = chosen(schema, include, exclude)
        result: dict[str, Any] = {"id": record.id} if names is None or "id" in names else {}
        self._path.append(record)
        try:
            self._fill(result, record, names, wanted=include is not None)
        finally:
            self._path.pop()
        return result

    def embedded(self, record: Structure) -> dict[str, Any]:
        """Return an embedded object as a dict of its fields."""
        result: dict[str, Any] = {}
        self._fill(result, record, None, wanted=False)
        return result

    def _fill(
        self,
        result: dict[str, Any],
        record: Structure,
        names: Collection[str] | None,
        wanted: bool,
    ) -> None:
        state, schema = record.__dict__, type(record)._schema
        fetch: Fetch | None = None if wanted else getattr(record, "_fetch", None)
        for name, field in schema.fields.items():
            if name.startswith("_") or (names is not None and name not in names):
                continue
            value = state.get(name)
            if type(value) in _SCALARS and name in schema.as_it_is:
                result[name] = value
                continue
            if field.secret:
                continue
            if not wanted and name not in state and not _can_read(schema, record, field, fetch):
                continue
            try:
                value = read(record, field)
            except FieldNotLoaded:  # a method may read more than its @depends names
                if wanted:
                    raise
                continue
            if value is not MISSING:
                try:
                    result[name] = self._value(field, value)
                except EarnORMError:
                    raise
                except Exception as error:  # a field of another class than the library's
                    raise unreadable(record, field, _problem(field, error)) from None

    def _value(self, field: Field[Any, Any], value: Any) -> Any:
        if value is None:
            return None
        if is_recordset(value):
            known = value._records
            return value.ids if known is None else [self._related(record) for record in known]
        if hasattr(value, "is_stored"):
            related = self._related(value)
            if isinstance(field, Reference) and not isinstance(related, dict):
                return f"{type(value)._name},{related}"  # an id alone does not name the model
            return related
        return self._form(field, value)

    def _related(self, record: BaseModel) -> Any:
        fetch = getattr(record, "_fetch", None)
        is_ghost = fetch is not None and fetch.is_ghost
        if (
            is_ghost
            or len(self._path) > self._depth
            or any(record is outer for outer in self._path)
        ):
            return record.id
        if len(self._path) > MAX_LEVELS:
            raise LimitExceeded(
                f"dicts are nested along at most {MAX_LEVELS} levels of relations: ask for a lower depth"
            )
        self._left -= 1
        if self._left < 0:
            # Records that lead to each other are repeated below each of them.
            raise LimitExceeded(
                f"more than {MAX_NESTED:,} related records would become nested dicts: ask for a lower depth"
            )
        return self.record(record)


def _can_read(
    schema: Schema, record: Structure, field: Field[Any, Any], fetch: Fetch | None
) -> bool:
    """Return whether a field that the state lacks can be read."""
    if not field.is_derived:
        return fetch is None or fetch.knows(field.name)
    return schema.derived is None or schema.derived.can_read(record, field)


def read(record: Structure, field: Field[Any, Any]) -> Any:
    """Return a field's value, without the copy for ``save()`` that reading a mutable value keeps.

    The value is MISSING for an inverse relation that is not loaded.

    Raises:
        FieldNotLoaded: The field was not fetched.
    """
    name = field.name
    stored = record.__dict__.get(name, MISSING)
    if isinstance(field, ToMany):
        if not field.stored and not is_recordset(stored):
            return MISSING
        value = getattr(record, name)
        # A relation that stores ids has them before its records are loaded.
        return value if field.stored or value._records is not None else MISSING
    if stored is not MISSING and type(field).__get__ in _GETTERS:
        try:
            return None if stored is None else field.decode(stored)
        except Exception as error:
            raise unreadable(record, field, _problem(field, error)) from None
    return getattr(record, name)


def _problem(field: Field[Any, Any], error: Exception) -> str:
    return f"a {type(field).__name__} cannot read it ({type(error).__name__})"


def as_dict(record: BaseModel, depth: int, include: Names, exclude: Names) -> dict[str, Any]:
    """Return a record as a dict; see ``BaseModel.to_dict``."""
    result: dict[str, Any] = Serializer(_plain_form, depth).record(record, include, exclude)
    return result


def as_json(record: BaseModel, depth: int, include: Names, exclude: Names) -> dict[str, Any]:
    """Return a record as a dict of JSON values; see ``BaseModel.to_json``."""
    result: dict[str, Any] = Serializer(_json_form, depth).record(record, include, exclude)
    return result


def as_dicts(
    records: Iterable[BaseModel], depth: int, include: Names, exclude: Names
) -> list[dict[str, Any]]:
    """Return records as dicts; the limit to nested ones is for all of them together."""
    serializer = Serializer(_plain_form, depth)
    return [serializer.record(record, include, exclude) for record in records]


def as_json_dicts(
    records: Iterable[BaseModel], depth: int, include: Names, exclude: Names
) -> list[dict[str, Any]]:
    """Return records as dicts of JSON values; the limit is as that of ``as_dicts``."""
    serializer = Serializer(_json_form, depth)
    return [serializer.record(record, include, exclude) for record in records]


def embedded_dict(record: Structure) -> dict[str, Any]:
    """Return an embedded object as a dict of Python values."""
    return Serializer(_plain_form, 0).embedded(record)


def embedded_json(record: Structure) -> dict[str, Any]:
    """Return an embedded object as a dict of JSON values."""
    return Serializer(_json_form, 0).embedded(record)


def _json_form(field: Field[Any, Any], value: Any) -> Any:
    return field.to_json(value)


def _plain_form(field: Field[Any, Any], value: Any) -> Any:
    return plain(value)


def plain(value: Any) -> Any:
    """Return an independent copy of a value, with embedded objects as dicts and records as ids."""
    if is_record(value):
        return value.id if hasattr(value, "is_stored") else embedded_dict(value)
    if isinstance(value, list):
        return [plain(item) for item in value]
    if isinstance(value, SelfDescribed):
        return value.to_dict()
    if isinstance(value, set):
        return set(value)
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return value


def chosen(
    schema: Schema, include: Names, exclude: Names, *, secret: bool = False
) -> Collection[str] | None:
    """Return the names to include, ``id`` among them; None for all.

    Args:
        schema: The fields.
        include: Names; None means all that are not secret.
        exclude: Names.
        secret: Names of secret fields may be included.

    Raises:
        ValidationError: A name is unknown, or that of a secret field.
    """
    if include is None and exclude is None:
        return None
    known = public_names(schema, secret=True)
    shown = public_names(schema)
    picked = (
        shown
        if include is None
        else checked(schema, known if secret else shown, include, "include")
    )
    left_out = checked(schema, known, exclude or (), "exclude")
    return [name for name in picked if name not in left_out]


def public_names(schema: Schema, *, secret: bool = False) -> Mapping[str, None]:
    """Return ``id`` and the fields that are not the library's own, in their order.

    Args:
        schema: The fields.
        secret: Include those that are secret.
    """
    fields = schema.fields.items()
    names = (n for n, f in fields if not n.startswith("_") and (secret or not f.secret))
    return dict.fromkeys(("id", *names))


def checked(
    schema: Schema, known: Mapping[str, None], names: Iterable[str], option: str
) -> Mapping[str, None]:
    """Return the names, and refuse unknown ones.

    Raises:
        ValidationError: A name is unknown.
    """
    result = dict.fromkeys([names] if isinstance(names, str) else names)
    unknown = [name for name in result if name not in known]
    if unknown:
        raise ValidationError(
            schema.name,
            [
                {
                    "loc": (option,),
                    "msg": f"the field {name!r} is secret, and shown nowhere"
                    if name in schema.fields and schema.fields[name].secret
                    else f"unknown field {name!r}{nearest_field(schema, str(name), known)}",
                    "type": "unknown_field",
                }
                for name in unknown
            ],
        )
    return result
