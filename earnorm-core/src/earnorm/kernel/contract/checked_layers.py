"""Checks of plugins' layers: what ``wrap_operation`` gives, what a layer passes on and returns.

The core's own layers are not checked, so an operation that no plugin has a layer around pays nothing.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from itertools import repeat
from operator import is_not, itemgetter
from types import NoneType
from typing import TYPE_CHECKING, Any, Final, cast

from earnorm.exceptions import EarnORMError, PluginError

if TYPE_CHECKING:
    from earnorm.kernel.layers import Middleware, PlacedLayer
    from earnorm.kernel.operations import Call, Operation, OperationName

_EXPECTED: Final = {
    "search": "a list of documents, each a dict with its _id",
    "group": "a list of mappings",
    "create": "a list of the stored id of each document",
    "count": "a number of records",
    "write": "a number of records",
    "unlink": "a number of records",
}


# -- what wrap_operation returns ------------------------------------------------------------------


def checked_layers(
    plugin: str, given: object, operation: OperationName
) -> Iterator[tuple[int, Middleware]]:
    """Yield the layers that a plugin returned for an operation, each with its number.

    Raises:
        PluginError: It returned anything else.
    """
    if given is None:
        return
    if not isinstance(given, Iterable) or _is_pair(given):
        raise _not_a_layer(plugin, given, "return [(Layer.DEFAULT, self.layer)]")
    for pair in cast("Iterable[object]", given):
        if not _is_pair(pair):
            raise _not_a_layer(plugin, pair, "a layer is a pair: (Layer.DEFAULT, self.layer)")
        number, middleware = cast("tuple[object, object]", pair)
        if not isinstance(number, int) or isinstance(number, bool):
            raise _not_a_layer(plugin, number, "a layer's number is an int: Layer.DEFAULT, 510")
        if not callable(middleware) or not _takes_two(middleware):
            raise _not_a_layer(
                plugin, middleware, f"a layer is 'async def layer(op, call_next)' (of {operation})"
            )
        yield int(number), cast("Middleware", middleware)


def _is_pair(value: object) -> bool:
    if not isinstance(value, tuple | list):
        return False
    items = cast("tuple[object, ...]", tuple(cast("Iterable[object]", value)))
    return len(items) == 2 and not isinstance(items[0], tuple | list)


def _takes_two(function: Any) -> bool:
    try:
        inspect.signature(function).bind(None, None)
    except TypeError:
        return False
    except ValueError:  # a function of C says nothing of its arguments
        return True
    return True


def _not_a_layer(plugin: str, given: object, expected: str) -> PluginError:
    return PluginError(
        f"plugin {plugin!r} breaks the contract: wrap_operation gave {_shown(given)}; {expected}"
    ).coded("not_a_layer")


def _shown(value: object) -> str:
    """Describe a value that a plugin gave, without the data that it may hold."""
    if value is None or isinstance(value, bool | int | float):
        return repr(value)
    if inspect.isroutine(value) or isinstance(value, type):
        return f"{value.__qualname__}{_signature(value)}"
    return f"a {type(value).__name__}"


def _signature(function: Any) -> str:
    try:
        return str(inspect.signature(function))
    except (TypeError, ValueError):
        return ""


# -- what a layer returns -------------------------------------------------------------------------


def checked(plugin: str, middleware: Middleware, call_next: Call) -> Call:
    """Compose a plugin's layer with what it calls, and check its result.

    A wrong result is an error that names the plugin and the layer. An exception of the layer itself
    that is no EarnORMError gets a note that names them.
    """
    is_checked = getattr(call_next, "__module__", None) == __name__
    inner = call_next if is_checked else _core(call_next)
    around = getattr(middleware, "around", None)
    run: Any = middleware
    arguments: tuple[Call, ...] = (inner,)
    if around is not None:
        run, arguments = around(inner), ()

    async def checked_layer(op: Operation) -> Any:
        if not hasattr(op, "with_note"):
            raise _NoOperation(op)
        answer: Any = _NO_ANSWER
        try:
            answer = run(op, *arguments)
            result: Any = await answer
        except EarnORMError:
            raise
        except _NoOperation as error:
            raise PluginError(
                f"the {_named(plugin, middleware, op)}, passed on {_shown(error.given)}, not an "
                f"operation; return await call_next(op), or call_next(op.replace(...))"
            ).coded("layer_result") from None
        except Exception as error:
            if isinstance(error, TypeError) and not (
                answer is _NO_ANSWER or isinstance(answer, Awaitable)
            ):
                raise _wrong(plugin, middleware, op, answer, "make it an async function") from None
            if not _passed_through(error):
                error.add_note(f"in the {_named(plugin, middleware, op)}")
            raise
        fault = _FAULTS[op.name](op, result)
        if fault is not None:
            raise _wrong(plugin, middleware, op, result, fault=fault)
        return result

    return checked_layer


# Each row of a search passes here, so what is done with each is done by functions of C.


def _fault_of_search(op: Operation, result: Any) -> str | None:
    if not isinstance(result, list):
        return _shown(result)
    if len(result) == 1 and type(result[0]) is dict and result[0].get("_id") is not None:
        return None  # of a get by an id, in a fifth of the time
    for kind in set(map(type, result)):
        if not issubclass(kind, dict):
            return f"a list that holds {_item(kind)}"
    try:
        if all(map(is_not, map(_ID, result), repeat(None))):
            return None
    except KeyError:
        pass
    return "a list that holds a document without an _id"


def _fault_of_group(op: Operation, result: Any) -> str | None:
    if not isinstance(result, list):
        return _shown(result)
    for kind in set(map(type, result)):
        if not issubclass(kind, Mapping):
            return f"a list that holds {_item(kind)}"
    return None


def _fault_of_create(op: Operation, result: Any) -> str | None:
    if not isinstance(result, list):
        return _shown(result)
    documents = cast("list[Any]", op.values)
    if len(result) != len(documents):
        return f"{len(result)} ids for {len(documents)} documents"
    if result != list(map(_ID, documents)):
        return "ids that are not those of the documents in their order"
    return None


def _fault_of_number(op: Operation, result: Any) -> str | None:
    if not isinstance(result, int) or isinstance(result, bool) or result < 0:
        return _shown(result)
    return None


_ID: Final = itemgetter("_id")
_NO_ANSWER: Final = object()

_FAULTS: Final[Mapping[str, Callable[[Operation, Any], str | None]]] = {
    "search": _fault_of_search,
    "group": _fault_of_group,
    "create": _fault_of_create,
    "count": _fault_of_number,
    "write": _fault_of_number,
    "unlink": _fault_of_number,
}
"""For each operation, what is wrong with a result of it; None if nothing is."""


def _item(kind: type) -> str:
    return "None" if kind is NoneType else f"an item of type {kind.__name__}"


class _NoOperation(Exception):
    """A layer has passed on something else than an operation."""

    def __init__(self, given: object) -> None:
        super().__init__(given)
        self.given = given


def _core(call: Call) -> Call:
    """Give what a plugin's layer calls a frame that tracebacks show."""

    async def core(op: Operation) -> Any:
        if not hasattr(op, "with_note"):
            raise _NoOperation(op)
        return await call(op)

    return core


def _passed_through(error: BaseException) -> bool:
    """Return whether an exception that leaves a layer came out of what the layer calls."""
    traceback = error.__traceback__
    traceback = None if traceback is None else traceback.tb_next  # the first is the layer's own
    while traceback is not None:
        if traceback.tb_frame.f_globals is globals():  # another layer of a plugin, or the core
            return True
        traceback = traceback.tb_next
    return False


def note_layer(placed: PlacedLayer, op: Operation, error: Exception) -> None:
    """Name a plugin's layer in an exception of a function that belongs to it, e.g. ``needs``."""
    if placed.is_checked and not isinstance(error, EarnORMError):
        error.add_note(f"in the {_named(placed.plugin, placed.middleware, op)}")


def _named(plugin: str, middleware: Any, op: Operation) -> str:
    name = getattr(middleware, "__qualname__", None) or type(middleware).__qualname__
    return f"layer {name} of plugin {plugin!r}, around {op.name} of model {op.model._name!r}"


def _wrong(
    plugin: str, middleware: Any, op: Operation, result: Any, hint: str = "", fault: str = ""
) -> PluginError:
    expected = _EXPECTED[op.name]
    shown = fault or _shown(result)
    if inspect.iscoroutine(result):
        result.close()  # nobody will await it, and Python would warn of that
        shown, hint = "a coroutine that was not awaited", "return await call_next(op)"
    elif hint:
        shown, expected = f"{shown} at once", f"an awaitable of {expected}"
    return PluginError(
        f"the {_named(plugin, middleware, op)}, returned {shown}, not {expected}; "
        f"{hint or 'return await call_next(op), or an answer of its own'}"
    ).coded("layer_result")
