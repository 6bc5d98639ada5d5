"""Secret values: fields say ``secret = True``, and whoever shows, copies or compares values asks here.

A container of secret values is secret itself. An object with a secret field *holds* a secret: its
other fields are shown, and the object as a whole is not compared, ordered or copied elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NoReturn

import pydantic
from pydantic_core import PydanticCustomError

if TYPE_CHECKING:
    from earnorm.fields.base import Field

Limits = Callable[[str, object], str]
"""Returns why a condition with this operator and value is refused; an empty text where it is not."""

_NOT_VALID: Final = "the value is not valid"
_PRESENCE: Final = frozenset({"exists", "size"})
"""The operators that ask whether there is a value, and not for a value."""


class Hidden:
    """Holds a value of a secret field that was refused; nothing shows it.

    A record keeps a refused value, so that the next write raises the error about it.
    """

    __slots__ = ("_value",)

    def __init__(self, value: object) -> None:
        self._value = value

    def reveal(self) -> Any:
        """Return the value."""
        return self._value

    def __repr__(self) -> str:
        return "<hidden>"

    def __copy__(self) -> Hidden:
        return self

    def __deepcopy__(self, memo: object) -> Hidden:
        return self

    def __reduce__(self) -> NoReturn:
        raise TypeError("a secret value is not pickled")


def holds_secrets(field: Field[Any, Any]) -> bool:
    """Return whether a field is secret, or a value of it contains a value of a secret field."""
    return field.secret or any(inner.secret for inner in _inside(field, set()))


def _inside(field: Field[Any, Any], seen: set[int]) -> Iterator[Field[Any, Any]]:
    contents = field.contents()
    if contents.each is not None:
        yield contents.each
        yield from _inside(contents.each, seen)
    elif contents.model is not None and id(contents.model) not in seen:
        seen.add(id(contents.model))
        for inner in _fields_of(field):
            yield inner
            yield from _inside(inner, seen)


def _fields_of(field: Field[Any, Any]) -> Iterable[Field[Any, Any]]:
    fields = field.fields_inside()
    return () if fields is None else fields.values()


def secret_paths(fields: Iterable[Field[Any, Any]], prefix: str = "") -> Iterator[str]:
    """Yield the stored path of each secret value; it leads through lists.

    The values of a Dict have no such path: where they hold secrets, the path is that of the Dict.
    """
    for field in fields:
        if not field.stored:
            continue
        path = prefix + field.db_name
        contents = field.contents()
        while contents.items is not None and not field.secret:
            field = contents.items
            contents = field.contents()
        if field.secret or (contents.values is not None and holds_secrets(field)):
            yield path
        elif contents.model is not None:
            yield from secret_paths(_fields_of(field), f"{path}.")


# -- conditions -----------------------------------------------------------------------------------


def limits_of(field: Field[Any, Any]) -> Limits | None:
    """Return the limits of conditions on a field; None for a field without a secret."""
    if field.secret:
        return partial(_limited_secret, field)
    if holds_secrets(field):
        return _limited_holder
    return None


def _limited_secret(field: Field[Any, Any], operator: str, value: object) -> str:
    if operator in field.operators or _is_presence(operator, value):
        return ""
    how = f"; it takes {', '.join(sorted(field.operators))}" if field.operators else ""
    return f"the field is secret, and a search cannot compare it by {operator!r}{how}"


def _is_presence(operator: str, value: object) -> bool:
    return operator in _PRESENCE or (operator in ("=", "!=") and (value is None or value == ()))


def _limited_holder(operator: str, value: object) -> str:
    if operator == "elem" or _is_presence(operator, value):
        return ""
    return "its objects have a secret field, so they are not compared; compare their other fields"


def refused_order(field: Field[Any, Any]) -> str:
    """Return why nothing is ordered, grouped or computed by a field; empty if it may be."""
    if field.secret:
        return "the field is secret, so nothing is ordered, grouped or computed by it"
    if holds_secrets(field):
        return "its objects have a secret field, so nothing is ordered, grouped or computed by them"
    return ""


# -- errors ---------------------------------------------------------------------------------------


def guarded(value: Any, validate: Callable[[Any], Any]) -> Any:
    """Validate a value of a secret field, and keep it out of the messages of its problems."""
    given = value.reveal() if type(value) is Hidden else value
    try:
        return validate(given)
    except pydantic.ValidationError as error:
        problems = error.errors(include_url=False, include_input=False, include_context=True)
    except (ValueError, AssertionError) as error:
        problems = [{"type": "value_error", "loc": (), "msg": str(error), "input": None}]
    kind: Any = problems[0]["type"]  # a literal to PydanticCustomError
    message = "; ".join(dict.fromkeys(_message(problem, given) for problem in problems))
    raise PydanticCustomError(kind, "{message}", {"message": message})


def _message(problem: Any, given: object) -> str:
    raised = problem.get("ctx", {}).get("error")
    message = str(raised) if isinstance(raised, Exception) else str(problem["msg"])
    return _NOT_VALID if any(text in message for text in _texts(given)) else message


def _texts(value: object) -> Iterator[str]:
    """Yield the texts by which a message may show a value, or a part of it."""
    if isinstance(value, dict):
        for name, item in value.items():
            yield from _texts(name)
            yield from _texts(item)
    elif isinstance(value, list | tuple | set | frozenset):
        for item in value:
            yield from _texts(item)
    elif value is not None and not isinstance(value, bool):
        yield from filter(None, (str(value), repr(value)))
        if isinstance(value, str) and value.strip():
            yield value.strip()
