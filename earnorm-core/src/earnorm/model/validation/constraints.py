"""Rules of a model as methods: ``@validates`` for one value, ``@constrains`` for a record.

Every write runs them in this order: the field's type, its synchronous ``validators=``, synchronous
``@validates`` methods, then the asynchronous ones of both, then ``@constrains``. Nothing is written
before all of them have passed for every record. This module first collects the rules of a class,
and then applies them.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias, TypeVar

from earnorm.exceptions import nearest
from earnorm.fields.base import Field, is_async
from earnorm.model.reading.fetch import Fetch

if TYPE_CHECKING:
    from earnorm.model.structures import Structure

__all__ = ["Rules", "constrains", "rules_of", "validates"]

F = TypeVar("F")
When: TypeAlias = Literal["create", "write"]
BOTH: Final[tuple[When, When]] = ("create", "write")
_MARK: Final = "_earnorm_rule"


@dataclass(frozen=True, slots=True)
class Declared:
    """The arguments of a decorator, noted on its method.

    Attributes:
        kind: ``validates`` or ``constrains``.
        fields: The fields of the rule.
        on: The operations that the rule checks.
    """

    kind: str
    fields: tuple[str, ...]
    on: frozenset[When]


def validates(*fields: str, on: Iterable[When] = BOTH) -> Callable[[F], F]:
    """Declare a method that checks a value of these fields.

    It gets the value and returns the value to store, or raises ``ValueError``.

    It is called for each value that is set (never for None), after the field's own checks. It sees
    no record, since an update by domain has none; a rule about several fields is a
    :func:`constrains`. It may be a coroutine function, which the constructor does not call: it is
    called when the record is created or written. An override of the same name replaces it, and may
    call it with ``super()``.

    Args:
        *fields: Names of fields.
        on: ``create``, ``write``, or both. A constructor counts as create.
    """
    return _declaring("validates", fields, on)


def constrains(*fields: str, on: Iterable[When] = BOTH) -> Callable[[F], F]:
    """Declare a method that raises ``ValueError`` where a record must not be stored as ``self`` is.

    ``self`` shows the record as it will be: the new values, and the stored values of the other
    fields, loaded where they were not fetched. The method may be a coroutine function and read the
    database. It is called before anything is written, for every new record and for a record of
    which one of the fields is written. It changes nothing.

    Args:
        *fields: Names of fields; without any, every write is checked.
        on: ``create``, ``write``, or both.
    """
    return _declaring("constrains", fields, on)


def _declaring(kind: str, fields: tuple[Any, ...], on: Iterable[When]) -> Callable[[F], F]:
    if not all(isinstance(name, str) for name in fields) or (kind == "validates" and not fields):
        raise TypeError(f'@{kind} takes the names of fields: @{kind}("email")')
    given_words = {on} if isinstance(on, str) else {*on}
    when: frozenset[When] = frozenset(word for word in BOTH if word in given_words)
    if not when or len(given_words) > len(when):
        raise TypeError(f"@{kind}: on= is 'create', 'write' or both, not {on!r}")
    rule = Declared(kind, fields, when)

    def declare(method: F) -> F:
        if not (callable(method) or isinstance(method, classmethod | staticmethod)):
            raise TypeError(f"@{kind} stands above a method, not above a {type(method).__name__}")
        setattr(method, _MARK, rule)
        return method

    return declare


# -- the rules of one class -----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Rule:
    """A method with the declaration above it, or above the method that it overrides."""

    method: str
    fields: frozenset[str]
    on: frozenset[When]
    is_async: bool

    def concerns(self, when: When, written: Collection[str]) -> bool:
        """Return whether such a write must be checked.

        A new record always is, because all of its values are new.
        """
        if when not in self.on:
            return False
        return when == "create" or not self.fields or not self.fields.isdisjoint(written)


class Rules:
    """The rules of one class; a class without rules has None instead.

    Attributes:
        constraints: Its ``@constrains`` methods.
        are_late: Some validators are asynchronous, so they are called before a write and not when a
            value is set.
    """

    __slots__ = ("_late", "_of_new", "_sync", "are_late", "constraints")

    def __init__(self, cls: type[Structure], rules: Iterable[tuple[Declared, Rule]]) -> None:
        self.constraints: list[Rule] = []
        self._sync: dict[str, list[tuple[frozenset[When], Callable[[Any], Any]]]] = {}
        # The lists have the order in which the asynchronous validators are called.
        self._late: dict[str, list[tuple[frozenset[When], Callable[[Any], Any]]]] = {}
        both = frozenset(BOTH)
        for field in cls._schema.stored:
            for validator in field.async_validators:
                self._late.setdefault(field.name, []).append((both, validator))
        for declared, rule in rules:
            if declared.kind == "constrains":
                self.constraints.append(rule)
                continue
            target = self._late if rule.is_async else self._sync
            for name in declared.fields:
                target.setdefault(name, []).append((rule.on, _caller(cls, rule.method)))
        self.are_late = bool(self._late)
        # All values of a new record are new, so every constraint on creation concerns it.
        self._of_new = [rule for rule in self.constraints if "create" in rule.on]

    def checks(self, field: Field[Any, Any], when: When) -> list[Callable[[Any], Any]]:
        """Return a field's synchronous ``@validates`` methods; each returns the value to store."""
        return [
            partial(_check, call, field)
            for on, call in self._sync.get(field.name, ())
            if when in on
        ]

    def validates(self, name: str) -> bool:
        """Return whether a field has synchronous ``@validates`` methods."""
        return name in self._sync

    def late(self, when: When, names: Iterable[str]) -> list[tuple[str, Callable[[Any], Any]]]:
        """Return the asynchronous validators of these fields, each with its field's name."""
        return [(n, call) for n in names for on, call in self._late.get(n, ()) if when in on]

    def hindering(self, name: str) -> str | None:
        """Return the rule that must know the field's whole new value; None where no rule must."""
        if name in self._sync or name in self._late:
            return "a validator"
        constraints = self.concerning("write", (name,))
        return constraints[0].method + "()" if constraints else None

    def concerning(self, when: When, written: Collection[str]) -> list[Rule]:
        """Return the constraints that such a write must fulfil."""
        if when == "create":
            return self._of_new
        return [rule for rule in self.constraints if rule.concerns(when, written)]


def validate_alike(one: type[Structure], other: type[Structure], name: str) -> bool:
    """Return whether two classes of a family certainly validate an assigned value in the same way.

    A method may call others that a subclass overrides, so one that a class only inherits counts, too.
    """
    if one._schema.fields.get(name) is not other._schema.fields.get(name):
        return False
    rules = (one._schema.rules, other._schema.rules)
    return not any(own is not None and own.validates(name) for own in rules)


def rules_of(cls: type[Structure]) -> Rules | None:
    """Return the rules that a class declares or inherits; those of a base class come first.

    Raises:
        TypeError: A rule names an unknown field, or is asynchronous where nothing can wait for it.
    """
    rules = [
        (rule, Rule(name, frozenset(rule.fields), rule.on, is_async(getattr(cls, name))))
        for name, rule in declared_rules(cls).items()
    ]
    _refuse_unknown(cls, rules)
    late = _refuse_nested(cls)
    return Rules(cls, rules) if rules or late else None


def declared_rules(cls: type[Structure]) -> dict[str, Declared]:
    """Return each rule's declaration by the method's name; those of a base class come first."""
    declared: dict[str, Declared] = {}
    for ancestor in reversed(cls.__mro__):
        for name, value in vars(ancestor).items():
            rule = getattr(value, _MARK, None)
            if isinstance(rule, Declared):
                declared[name] = rule
    # A class removes an inherited rule with "check = None".
    return {name: rule for name, rule in declared.items() if callable(getattr(cls, name))}


def _refuse_unknown(cls: type[Structure], rules: Iterable[tuple[Declared, Rule]]) -> None:
    if getattr(cls, "_abstract", False) or getattr(cls, "_inherit", None) is not None:
        return  # the extended model may have the field
    fields = cls._schema.fields
    for declared, rule in rules:
        for name in declared.fields:
            field = fields.get(name)
            if field is None or (declared.kind == "validates" and not field.stored):
                raise TypeError(
                    f"{cls.__name__}.{rule.method}: @{declared.kind} names {name!r}, which is no "
                    f"{'' if field is None else 'stored '}field{nearest(name, fields)}"
                )
        if rule.is_async and not hasattr(cls, "save"):
            raise TypeError(
                f"{cls.__name__}.{rule.method}: an embedded object is checked when it is made, which "
                f"cannot wait; put an asynchronous rule on the model that embeds it"
            )


def _refuse_nested(cls: type[Structure]) -> bool:
    """Refuse asynchronous validators inside a field; return whether a field itself has some."""
    has_late = False
    for field in cls._schema.stored:
        has_late = has_late or bool(field.async_validators)
        inner_field = field if not hasattr(cls, "save") else field.contents().each
        while inner_field is not None:
            if inner_field.async_validators:
                raise TypeError(
                    f"{cls.__name__}.{field.name}: asynchronous validators stand on a model's own field, "
                    f"not on the items of one nor inside an embedded object"
                )
            inner_field = inner_field.contents().each
    return has_late


# -- @validates -----------------------------------------------------------------------------------


class _ValueOnly(Fetch):
    """The loading state of ``self`` in a ``@validates`` method, where no record exists."""

    def __init__(self) -> None:
        super().__init__(None, frozenset())  # type: ignore[arg-type] # it belongs to no App

    def how_to_load(self, model: type[Any], name: str) -> str:
        return (
            f"{model.__name__}.{name}: a @validates method gets one value and sees no record; "
            f"a rule about several fields is a @constrains method"
        )


_VALUE_ONLY: Final = _ValueOnly()


def _caller(cls: type[Structure], method: str) -> Callable[[Any], Any]:
    if isinstance(inspect.getattr_static(cls, method), classmethod | staticmethod):
        bound: Callable[[Any], Any] = getattr(cls, method)
        return bound

    def call(value: Any) -> Any:
        blank = object.__new__(cls)
        object.__setattr__(blank, "_fetch", _VALUE_ONLY)
        return getattr(blank, method)(value)

    return call


def _check(call: Callable[[Any], Any], field: Field[Any, Any], value: Any) -> Any:
    # An earlier validator may have returned None, which unsets the field.
    return returned(field, call(value)) if value is not None else None


def returned(field: Field[Any, Any], value: Any) -> Any:
    """Return a validator's result, and refuse one that cannot be stored.

    Raises:
        ValueError: The result is None, and the field needs a value.
    """
    if inspect.isawaitable(value):
        getattr(value, "close", lambda: None)()
        raise TypeError(f"a validator of {field.name} gave an awaitable; write it as 'async def'")
    if value is None and field.required:
        raise ValueError("a value is required, and a validator returned None")
    return value


def check_embedded(value: Structure, rules: Rules) -> None:
    """Run the constraints of an embedded object, which are synchronous.

    Raises:
        ValueError: A constraint raised it.
    """
    for rule in rules.constraints:
        getattr(value, rule.method)()
