"""The common base of records and embedded objects: fields, assignment, change tracking.

A structure takes the decoded document as its ``__dict__``, so reading a plain field is a plain
attribute access. Slots hold everything else: the fetch of the record, and its changes.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar, cast

from earnorm.exceptions import UnreadableDocument
from earnorm.fields.base import MISSING, Field, freeze, is_embedded
from earnorm.fields.relational import Relation, ToMany, listed
from earnorm.fields.secrets import Hidden
from earnorm.kernel.naming import nearest_field
from earnorm.model.reading.fetch import ID_ONLY, Fetch
from earnorm.model.recordset import RecordSet, is_default
from earnorm.model.relations.ghosts import ghost_of, ghosts_of, note_inside, stored_links
from earnorm.model.schema import Schema, State
from earnorm.model.slots import SLOTS, Pending, Slots, pending_of, set_pending, set_state
from earnorm.model.unreadable import refuse_no_link, refuse_no_links, unreadable
from earnorm.model.validation.constraints import validate_alike
from earnorm.model.writing.pending import (
    changed_fields,
    note_assignment,
    unwritten_defaults,
    value_before,
)
from earnorm.model.writing.restoring import copied_state, duplicate, restore_into

if TYPE_CHECKING:
    from earnorm.model.base import BaseModel
    from earnorm.model.validation.constraints import When


class Structure(Slots):
    """The common base of records and embedded objects: fields, assignment, change tracking."""

    __slots__ = ()

    _schema: ClassVar[Schema]
    _fields: ClassVar[Mapping[str, Field[Any, Any]]]

    _is_embedded: ClassVar[bool] = False

    _pending: Pending
    _fetch: Fetch

    # The slash saves comparing each keyword with "self": 0.13 µs for ten of them.
    def __init__(self, /, **values: Any) -> None:
        schema = type(self)._schema
        set_state(self, schema.validate(values))
        if schema.derived is not None:
            schema.derived.settle_new(self)

    if not TYPE_CHECKING:
        # For a checker each field has a __set__ of its own, and a misspelt name is an error.

        def __setattr__(self, name: str, value: Any) -> None:
            cls = type(self)
            field = cls._schema.fields.get(name)
            if field is None:
                if name in SLOTS:
                    object.__setattr__(self, name, value)
                    return
                if isinstance(inspect.getattr_static(cls, name, None), property):
                    raise AttributeError(f"{cls.__name__}.{name} cannot be assigned")
                raise AttributeError(
                    f"{cls.__name__} has no field {name!r}{nearest_field(cls._schema, name)}"
                )
            self._assign(field, value)

    def _assign(self, field: Field[Any, Any], value: Any, when: When = "create") -> None:
        """Take a value that is handed in: the field's own validated copy of it.

        A refused value raises nothing here. The record keeps it as it was given, and the validation
        before the next write, which sees all values together, raises the error.
        """
        schema, name = type(self)._schema, field.name
        if name not in schema.freely_assigned:
            if name in schema.to_many_names:  # commands are validated with the write that does them
                self._set_valid(name, listed(value))
                return
            if (
                field.mutable
                and value is not None
                and value is self.__dict__.get(name)
                and not self._has_part(name)
            ):
                # It is the object that reading the field gave, so it stays the record's own.
                pending = self._pending_or_new()
                pending.changes.setdefault(name, pending.originals.get(name, value))
                return
        fetch: Fetch | None = getattr(self, "_fetch", None)
        # This asks what is_ghost asks, without a call for each assignment.
        if fetch is not None and fetch.loaded is ID_ONLY and self._is_judged_by_its_document(name):
            self._set_refused(name, freeze(value))
            return
        check = schema.checks_of_one.get((name, when)) or schema.one(name, when)
        try:
            value = check(value)
        except Exception:  # a validator may raise anything; the write runs it again and raises it
            self._set_refused(name, value)
            return
        self._set_valid(name, value)

    def _is_judged_by_its_document(self, name: str) -> bool:
        """Return whether a value for a ghost waits for the write, which knows the record's class.

        A ghost may be of a subclass that validates the field otherwise. Validators with effects run
        once, and so those of the class that was asked do not run before.
        """
        cls = type(self)
        classes = self._fetch.app.bind(cast("type[BaseModel]", cls)).classes
        return classes is not None and any(
            not validate_alike(cls, member.model, name) for _, member in classes.below()
        )

    def _has_part(self, name: str) -> bool:
        """Return whether only some fields of the embedded objects in a field were fetched."""
        fetch: Fetch | None = getattr(self, "_fetch", None)
        return fetch is not None and name in fetch.parts

    def _set_valid(self, name: str, value: Any) -> None:
        """Make a valid value an unsaved change."""
        note_assignment(self, name)
        self.__dict__[name] = value
        derived = type(self)._schema.derived
        if derived is not None:
            derived.changed(self, name)

    def _set_refused(self, name: str, value: Any) -> None:
        """Make a value that the validation refused an unsaved change."""
        if type(self)._schema.fields[name].secret and type(value) is not Hidden:
            value = Hidden(value)  # reading the field gives no secret
        self._set_valid(name, value)
        self._pending.refuse(name)

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"a field cannot be deleted; assign None to {name!r}")

    def _pending_or_new(self) -> Pending:
        """Return the notes about unsaved changes, to note something in them."""
        pending: Pending | None = getattr(self, "_pending", None)
        if pending is None:
            pending = Pending()
            set_pending(self, pending)
        return pending

    def _absent(self, field: Field[Any, Any]) -> Any:
        """Return the default of a field that the state lacks; refuse one that was not fetched."""
        derived = type(self)._schema.derived
        if derived is not None and field.name in derived.by_name:
            return derived.read(self, field)
        fetch: Fetch | None = getattr(self, "_fetch", None)
        if fetch is not None and not fetch.knows(field.name):
            raise fetch.unread(self, field.name)
        default = type(self)._schema.default_of(field)
        if field.mutable and default is not None:
            # The caller may change it in place, and save() must notice that.
            self._pending_or_new().originals[field.name] = MISSING
            self.__dict__[field.name] = default
        return default

    def _value_before(self, name: str) -> Any:
        """Return the stored value of a field without unsaved changes; None if there is no key."""
        return value_before(self, name)

    def _ghost(self, field: Relation[Any, Any], pk: Any) -> BaseModel:
        refuse_no_link(self, field, pk)
        return ghost_of(self, field, pk)

    def _ghosts(self, field: ToMany[Any], value: Any) -> RecordSet[Any]:
        if value is not None:
            refuse_no_links(self, field, value)
        return ghosts_of(self, field, value)

    def _inside(self, field: Field[Any, Any], value: Any) -> None:
        note_inside(self, field, value)

    def _unreadable(self, field: Field[Any, Any], problem: str) -> UnreadableDocument:
        return unreadable(self, field, problem)

    def _stored(self, without: Collection[str] = ()) -> State:
        """Return the stored form of the state, without some fields."""
        schema, state = type(self)._schema, self.__dict__
        if without or schema.to_many or getattr(self, "_pending", None) is not None:
            unwritten = unwritten_defaults(self).union(without)
            unread = [f.name for f in schema.to_many if is_default(state.get(f.name))]
            unwritten = unwritten.union(unread)
            if unwritten:  # a default that was only read is not a change
                state = {name: value for name, value in state.items() if name not in unwritten}
        document = schema.document(state)
        return self._with_undeclared(dict(document) if document is state else document)

    def _stored_links(self, document: State, fields: Iterable[ToMany[Any]]) -> None:
        """Put the links of to-many fields into a stored form, in the place of commands.

        Raises:
            FieldNotLoaded: Only the save knows what the commands leave.
        """
        for field in fields:
            if field.db_name in document:
                document[field.db_name] = stored_links(self, field)

    def _with_undeclared(self, document: State) -> State:
        """Return a stored form with the keys that the class does not declare, each in its place."""
        return document

    def _unstore(self, state: State) -> None:
        """Make a record that was created unsaved again, with the state that it was given."""
        restore_into(self, state, {})

    def _reassign(self, values: Mapping[str, tuple[Any, bool]]) -> None:
        """Make values unsaved changes again.

        Args:
            values: By name, a value and if the validation refused it.
        """
        for name, (value, is_refused) in values.items():
            if is_refused:
                self._set_refused(name, value)
            else:
                self._set_valid(name, value)

    def _changed_in_place(self) -> State:
        """Return the stored form of what can change in place and has unsaved changes, by name.

        Of a record that is not stored, that is all that can change in place.
        """
        schema, state = type(self)._schema, self.__dict__
        names = changed_fields(self) if hasattr(self, "_fetch") else list(state)
        unclear = schema.to_many_names | pending_of(self).refused  # what the write will validate
        return {
            name: duplicate(field.encode(state[name]))
            for name in names
            if (field := schema.fields.get(name)) is not None
            and (field.mutable or is_embedded(state.get(name)))
            and name in state
            and name not in unclear
        }

    def _restorer(self) -> Callable[[], None]:
        """Return a function that gives the record its present state again, in new objects."""
        state, slots = copied_state(self)
        return lambda: restore_into(self, state, slots)


F = TypeVar("F", bound=Callable[..., Any])
_YIELDS = "_earnorm_yields"


def yields_to_fields(method: F) -> F:
    """Mark a newer method of records, whose name a model's field may take.

    Models may have declared a field of that name before the method existed. So the library calls
    the function behind such a method, and never the method by its name on a record.
    """
    setattr(method, _YIELDS, True)
    return method


def reserved_names(cls: type) -> frozenset[str]:
    """Return the names of a class that no field may have."""
    attributes: dict[str, object] = {}  # as they stand in the classes, found in one pass
    for ancestor in reversed(cls.__mro__):
        attributes.update(vars(ancestor))
    return frozenset(
        name
        for name, attribute in attributes.items()
        if not name.startswith("__") and not _is_marked(attribute)
    )


def _is_marked(attribute: object) -> bool:
    return hasattr(getattr(attribute, "__func__", attribute), _YIELDS)


def declared_fields(cls: type, reserved: frozenset[str]) -> dict[str, Field[Any, Any]]:
    """Return the fields of a class and its bases, by name.

    Raises:
        TypeError: A name is reserved, or something else hides a field of a base class.
    """
    fields: dict[str, Field[Any, Any]] = {}
    for ancestor in reversed(cls.__mro__):
        for name, value in vars(ancestor).items():
            if isinstance(value, Field):
                if name in reserved:
                    raise TypeError(
                        f"{cls.__name__}.{name}: the name is taken by a method or property; choose "
                        f'another and keep the stored key with db_name="{name}"'
                    )
                fields[name] = value
            elif name in fields:
                raise TypeError(
                    f"{cls.__name__}.{name} is a field of a base class, and hidden here"
                )
    return fields
