"""The nodes of a domain: constants, conditions, and their combinations. All immutable and hashable.

A domain knows paths and operators by name only. ``operators`` says what they mean; ``to_mongo`` and
``in_memory`` are the two interpreters.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any, ClassVar, Final, NoReturn, TypeAlias

from earnorm.domain.values import PLAIN, freeze, hashable, identity, shorten, thaw
from earnorm.exceptions import DomainError, LimitExceeded

__all__ = ["FALSE", "TRUE", "And", "Condition", "Domain", "Or", "condition"]

MAX_DEPTH: Final = 60
"""The most levels of alternating ``&``, ``|`` and ``!``. A server accepts about 99 (BSON nests 200
levels)."""

DomainSource: TypeAlias = "Domain | list[Any] | tuple[Any, ...] | None"


class Domain:
    """A search condition. Immutable; equal and hashed by structure.

    ``Domain(source)`` reads Odoo's list notation: conditions are ``(path, operator, value)``, listed
    ones are ANDed, and ``'&'``, ``'|'`` (two terms) and ``'!'`` (one term) stand before their terms.
    ``None`` and ``[]`` are true; a ``Domain`` is returned as it is.

    Combine domains with ``&``, ``|`` and ``~``. Each side may also be a list.

    Raises:
        DomainError: The notation is malformed; the message says what to write instead.
    """

    __slots__ = ()

    TRUE: ClassVar[Domain]
    FALSE: ClassVar[Domain]

    depth: int = 1
    """Levels of nested combinations; a single condition has one."""

    is_untrusted: bool = False
    """True if a part of it came from a client, by :meth:`untrusted`. What uses it has the rights of
    the principal, also inside of ``system()``."""

    def __new__(cls, source: DomainSource | bool = None) -> Domain:  # noqa: D102  see the class
        return parse(source)

    @staticmethod
    def untrusted(
        data: object,
        *,
        fields: Collection[str] | Mapping[str, Collection[str]],
        operators: Collection[str] | None = None,
        depth: int = 3,
        conditions: int = 50,
        values: int = 1_000,
        length: int = 1_000,
    ) -> Domain:
        """Read a condition that an HTTP client or a language model has sent.

        It names only what is allowed, has a bounded size, and is always used with the rights of
        the acting principal, also inside of ``earnorm.system()``, alone or as a part of a domain.

        Args:
            data: The list notation, as JSON gives it.
            fields: The paths that it may name; a mapping gives the operators of each.
            operators: The operators that it may use; None means comparisons, ``in``, ``like``,
                ``ilike`` and their negations.
            depth: The most levels of combinations.
            conditions: The most conditions.
            values: The most values, those of lists included.
            length: The most characters of a text.

        Raises:
            DomainError: It is malformed, too large, or names something else
                (``code="untrusted"``). The message tells nothing of what is not allowed.
            TypeError: ``fields`` or ``operators`` is one text, or offers ``any``.
        """
        from earnorm.domain.untrusted import Bounds, Offer

        offer = Offer(fields, operators, Bounds(depth, conditions, values, length))
        offer.check_size(data)
        try:
            domain = Domain(data)  # type: ignore[arg-type]  # it refuses what is no notation
        except DomainError as error:
            raise error.coded("untrusted") from None
        offer.check(domain)
        return marked(And, (domain,))

    def __and__(self, other: DomainSource) -> Domain:
        if type(other) in TRUTH_VALUES:
            raise truth_value(other)
        return And((self, Domain(other)))

    def __rand__(self, other: DomainSource) -> Domain:
        if type(other) in TRUTH_VALUES:
            raise truth_value(other)
        return And((Domain(other), self))

    def __or__(self, other: DomainSource) -> Domain:
        if type(other) in TRUTH_VALUES:
            raise truth_value(other)
        return Or((self, Domain(other)))

    def __ror__(self, other: DomainSource) -> Domain:
        if type(other) in TRUTH_VALUES:
            raise truth_value(other)
        return Or((Domain(other), self))

    def __invert__(self) -> Domain:
        return Not(self)

    def __bool__(self) -> NoReturn:
        raise TypeError(
            "a domain is neither true nor false before it meets a record; combine domains with "
            "&, | and ~ instead of and, or and not, each side in parentheses: (a > 1) & (b < 2)"
        )

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError("a domain is immutable; combine it with &, | and ~ to get a new one")

    def __delattr__(self, name: str) -> None:
        raise AttributeError("a domain is immutable")

    def __repr__(self) -> str:
        return f"Domain({self.to_list()!r})"

    def to_list(self) -> list[object]:
        """Return the list notation; ``Domain(d.to_list()) == d`` if ``d`` was read from a list."""
        return self.prefix()

    def simplify(self) -> Domain:
        """Return an equivalent domain without constants, repeated terms and lone combined terms."""
        return self

    def conditions(self) -> Iterator[Condition]:
        """Iterate over all conditions, from left to right."""
        return iter(())

    def paths(self) -> frozenset[str]:
        """Return the names of the model's own fields in it (``address`` for ``address.city``)."""
        return frozenset(c.path.partition(".")[0] for c in self.conditions())

    def prefix(self) -> list[object]:
        """Return the notation as exactly one term, so that a prefix operator can precede it."""
        raise NotImplementedError


_set = object.__setattr__


TRUTH_VALUES: Final[frozenset[type[object]]] = frozenset({bool})
"""The type of what a program gives in the place of a condition by mistake; see :func:`truth_value`."""


def truth_value(source: object) -> DomainError:
    """Return the error for True or False in the place of a program's condition.

    Python has compared something that is no field there, and every record, or none, would match.
    """
    return DomainError(
        f"{source} is no condition: what was compared is no field of the model, but a property or "
        f"another attribute; all records are Domain.TRUE, and none Domain.FALSE"
    )


class _Constant(Domain):
    """A constant domain. There is one of each: ``Domain.TRUE`` and ``Domain.FALSE``."""

    __slots__ = ("value",)

    value: bool

    def __new__(cls, value: bool) -> _Constant:
        constant = _CONSTANTS.get(value)
        if constant is None:
            constant = object.__new__(cls)
            _set(constant, "value", value)
            _CONSTANTS[value] = constant
        return constant

    def __reduce__(self) -> tuple[type[_Constant], tuple[bool]]:
        return _Constant, (self.value,)

    def __invert__(self) -> Domain:
        return _Constant(not self.value)

    def to_list(self) -> list[object]:
        return [] if self.value else self.prefix()

    def prefix(self) -> list[object]:
        return [(int(self.value), "=", 1)]


_CONSTANTS: dict[bool, _Constant] = {}
TRUE: Final = _Constant(True)
FALSE: Final = _Constant(False)
Domain.TRUE = TRUE
Domain.FALSE = FALSE


class Condition(Domain):
    """One ``(path, operator, value)``.

    Args:
        path: A field name, or names joined with dots.
        operator: A name from the table of operators; it is looked up when the condition is
            compiled.
        value: Data. It is frozen: lists become tuples. With a domain that came from a client, the
            result is a combination of this condition alone, which has the mark.

    Raises:
        DomainError: The path or operator is not a text, or the value is not data.
    """

    __slots__ = ("operator", "path", "value")

    path: str
    operator: str
    value: object

    def __new__(cls, path: str, operator: str, value: object) -> Condition:  # noqa: D102
        if type(path) is not str or type(operator) is not str or not path:
            path, operator = _checked_names(path, operator)
        is_client = False
        if type(value) not in PLAIN:
            is_client = isinstance(value, Domain) and value.is_untrusted
            try:
                value = freeze(value.to_list() if isinstance(value, Domain) else value)
            except ValueError as error:
                raise DomainError(f"({path!r}, {operator!r}): {error}", loc=(path,)) from None
            is_client = is_client or (operator in _ASKING and _has_clients(value))
        self: Condition = object.__new__(cls)
        _set_path(self, path)
        _set_operator(self, operator)
        _set_value(self, value)
        # A condition has no mark of its own, so a combination carries it.
        return by_client(self) if is_client else self  # type: ignore[return-value]

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        return (
            type(other) is Condition
            and self.path == other.path
            and self.operator == other.operator
            and identity(self.value) == identity(other.value)
        )

    def __hash__(self) -> int:
        try:
            return hash((self.path, self.operator, self.value))
        except TypeError:
            return hash((self.path, self.operator, hashable(self.value)))

    def __reduce__(self) -> tuple[type[Condition], tuple[object, ...]]:
        return Condition, (self.path, self.operator, thaw(self.value))

    def conditions(self) -> Iterator[Condition]:
        """Iterate over this condition only."""
        yield self

    def prefix(self) -> list[object]:
        """Return this condition as the only term."""
        return [(self.path, self.operator, thaw(self.value))]


_ASKING: Final = frozenset({"any", "not any", "elem"})
"""The operators whose value is a condition, which may have domains in it."""


def _has_clients(value: object) -> bool:
    """Return whether a frozen condition has a client's domain in it."""
    if isinstance(value, Domain):
        return value.is_untrusted
    return isinstance(value, tuple) and any(map(_has_clients, value))


# The slots' own setters take a quarter less time per condition than object.__setattr__ with a name.
_set_path = vars(Condition)["path"].__set__
_set_operator = vars(Condition)["operator"].__set__
_set_value = vars(Condition)["value"].__set__


class _Combination(Domain):
    """The base of ``And`` and ``Or``, which are associative: each flattens children of its kind."""

    __slots__ = ("children", "depth", "is_untrusted")

    children: tuple[Domain, ...]
    depth: int
    is_untrusted: bool

    _SIGN: ClassVar[str]
    _NEUTRAL: ClassVar[_Constant]

    def __new__(cls, children: Iterable[Domain] = ()) -> _Combination:
        flat: list[Domain] = []
        depth, is_untrusted = 0, False
        for child in children:
            if type(child) is Condition:
                flat.append(child)  # the common case; its depth is 1
                depth = depth or 1
                continue
            below = _checked_domain(child).depth
            is_untrusted = is_untrusted or child.is_untrusted
            if type(child) is cls:
                flat += child.children
                below -= 1
            else:
                flat.append(child)
            if below > depth:
                depth = below
        self = object.__new__(cls)
        _set(self, "children", tuple(flat))
        _set(self, "depth", _checked_depth(1 + depth))
        _set(self, "is_untrusted", is_untrusted)
        return self

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        return (
            isinstance(other, _Combination)
            and self._SIGN == other._SIGN
            and self.children == other.children
        )

    def __hash__(self) -> int:
        return hash((self._SIGN, self.children))

    def __reduce__(self) -> tuple[object, ...]:
        if self.is_untrusted:
            return marked, (type(self), self.children)
        return type(self), (self.children,)

    def conditions(self) -> Iterator[Condition]:
        for child in self.children:
            yield from child.conditions()

    def simplify(self) -> Domain:
        return marked(And, (self._simplified(),)) if self.is_untrusted else self._simplified()

    def _simplified(self) -> Domain:
        opposite = ~self._NEUTRAL
        kept: dict[Domain, None] = {}  # ordered, without repetitions
        for child in self.children:
            part = child.simplify()
            if part is opposite:
                return part
            for term in part.children if isinstance(part, type(self)) else (part,):
                kept[term] = None
        kept.pop(self._NEUTRAL, None)
        if not kept:
            return self._NEUTRAL
        return next(iter(kept)) if len(kept) == 1 else type(self)(kept)

    def prefix(self) -> list[object]:
        if not self.children:
            return self._NEUTRAL.prefix()
        terms = [term for child in self.children for term in child.prefix()]
        return [self._SIGN] * (len(self.children) - 1) + terms


class And(_Combination):
    """A domain that is true when all its children are; without children it is true."""

    __slots__ = ()
    _SIGN = "&"
    _NEUTRAL = TRUE

    def to_list(self) -> list[object]:
        """Return the list notation, with the listed terms ANDed."""
        return [term for child in self.children for term in child.prefix()]


class Or(_Combination):
    """A domain that is true when at least one of its children is; without children it is false."""

    __slots__ = ()
    _SIGN = "|"
    _NEUTRAL = FALSE


class Not(Domain):
    """A domain that is true exactly when its child is not, also for records without the field."""

    __slots__ = ("child", "depth", "is_untrusted")

    child: Domain
    depth: int
    is_untrusted: bool

    def __new__(cls, child: Domain) -> Not:
        self = object.__new__(cls)
        _set(self, "child", _checked_domain(child))
        _set(self, "is_untrusted", child.is_untrusted)
        _set(self, "depth", _checked_depth(1 + child.depth))
        return self

    def __invert__(self) -> Domain:
        return self.child

    def __eq__(self, other: object) -> bool:
        return type(other) is Not and self.child == other.child

    def __hash__(self) -> int:
        return hash(("!", self.child))

    def __reduce__(self) -> tuple[type[Not], tuple[Domain]]:
        return Not, (self.child,)

    def conditions(self) -> Iterator[Condition]:
        return self.child.conditions()

    def simplify(self) -> Domain:
        return ~self.child.simplify()

    def prefix(self) -> list[object]:
        return ["!", *self.child.prefix()]


def marked(kind: type[_Combination], children: Iterable[Domain]) -> Domain:
    """Return a combination that came from a client; see :meth:`Domain.untrusted`."""
    made = kind(children)
    _set(made, "is_untrusted", True)
    return made


def by_client(domain: Domain) -> Domain:
    """Return the same domain with the mark of what a client has sent."""
    return domain if domain.is_untrusted else marked(And, (domain,))


def condition(path: str, operator: str, value: object) -> Domain:
    """Make one condition, as a field's ``>``, ``in_()`` and ``like()`` do.

    Raises:
        DomainError: See :class:`Condition`.
    """
    return Condition(path, operator, value)


def _checked_names(path: object, operator: object) -> tuple[str, str]:
    if not isinstance(path, str) or not path:
        raise DomainError(f"a path is the name of a field, not {shorten(path)}")
    if not isinstance(operator, str):
        raise DomainError(f"({path!r}, …): an operator is a text, not {shorten(operator)}")
    return str(path), str(operator)  # an Enum of texts is a text here


def _checked_domain(child: object) -> Domain:
    if not isinstance(child, Domain):
        raise DomainError(f"a combination is made of domains, not of {shorten(child)}")
    return child


def _checked_depth(depth: int) -> int:
    if depth > MAX_DEPTH:
        raise LimitExceeded(f"the domain is nested deeper than {MAX_DEPTH} levels; simplify it")
    return depth


from earnorm.domain.parse import parse  # noqa: E402  the parser builds the nodes above
