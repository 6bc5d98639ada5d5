"""Checks of what a plugin hands in: the hooks of its class, its settings, and what its hooks return.

``checked_layers`` has the checks of layers, ``steps`` those of steps. An error names the plugin, the
hook and what was expected.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, cast
from weakref import WeakSet

import pydantic

from earnorm import fields
from earnorm.backends import is_listener
from earnorm.domain import Operator
from earnorm.exceptions import PluginError, nearest
from earnorm.fields import Field
from earnorm.fields.adapters import kind_problem
from earnorm.kernel.contract.findings import Finding
from earnorm.kernel.contract.named_functions import is_plain, named, named_operator
from earnorm.kernel.hookspecs import PROJECT, Hooks

if TYPE_CHECKING:
    from earnorm.model.base import BaseModel

HOOKS: Final[Mapping[str, Callable[..., Any]]] = MappingProxyType(
    {name: hook for name, hook in vars(Hooks).items() if not name.startswith("_")}
)
_ASYNC: Final = frozenset(
    name for name, hook in HOOKS.items() if "Awaitable" in hook.__annotations__["return"]
)
_ITERABLE: Final = frozenset(
    name for name, hook in HOOKS.items() if hook.__annotations__["return"].startswith("Iterable")
)
_STATIC: Final = frozenset({"settings", "model_attributes", "needed_by", "register_commands"})
_PLUGGY_OPTIONS: Final = (
    "wrapper",
    "hookwrapper",
    "tryfirst",
    "trylast",
    "optionalhook",
    "specname",
)
_CONSTRUCTORS: Final = frozenset({"__init__", "__new__"})
STATUSES: Final = ("ok", "degraded", "failed")
"""The statuses of a part of a health report."""
_PREFIXES: Final = frozenset("&|!")
_CHECKED: Final[WeakSet[type]] = WeakSet()
"""The classes whose hooks have been checked."""
_FUNCTIONS_OF_OPERATOR: Final[Mapping[str, Sequence[str]]] = {
    "prepare": ("field", "value"),
    "to_mongo": ("path", "operand"),
    "matches": ("operand",),
}
"""The functions of an operator, and what each is called with."""


def signature(hook: str) -> str:
    """Return a hook with its expected signature, for messages."""
    return f"{hook}({', '.join(inspect.signature(HOOKS[hook]).parameters)})"


# -- the hooks of a class -------------------------------------------------------------------------


def check_hooks(name: str, plugin: object) -> None:
    """Check the methods of a plugin, an instance or a class.

    Raises:
        PluginError: One is no hook, has another signature, or would never be called.
    """
    if isinstance(plugin, type) and plugin in _CHECKED:
        return
    for attribute in dir(plugin):
        if attribute.startswith("__"):
            continue
        given = inspect.getattr_static(plugin, attribute, None)
        function = given.__func__ if isinstance(given, staticmethod | classmethod) else given
        if not inspect.isroutine(function):
            _refuse_uncallable(name, attribute, function, not isinstance(plugin, type))
            continue
        options: Mapping[str, Any] | None = getattr(function, f"{PROJECT}_impl", None)
        if options is None:
            if attribute in HOOKS:
                raise _breaks(
                    name,
                    f"{attribute}() is named like a hook and not marked: @hookimpl "
                    "directly above 'def', below @staticmethod; or give it another name",
                )
            continue
        _refuse_options(name, attribute, options)
        if attribute not in HOOKS:
            hint = nearest(attribute, HOOKS) or "; docs/plugins.md lists the hooks"
            raise _breaks(name, f"there is no hook {attribute!r}{hint}")
        _check_hook(name, attribute, given, function)
    if isinstance(plugin, type):
        _CHECKED.add(plugin)


def check_instance(name: str, plugin: object) -> None:
    """Refuse what a plugin's ``__init__`` has put under the name of a hook, which would not be called.

    Raises:
        PluginError: It is a function, or another object that can be called.
    """
    for hook in HOOKS.keys() & getattr(plugin, "__dict__", {}).keys():
        value = vars(plugin)[hook]
        if not hasattr(value, f"{PROJECT}_impl"):
            _refuse_uncallable(name, hook, value, is_value=True)


def _refuse_uncallable(name: str, hook: str, given: object, is_value: bool) -> None:
    """Refuse what stands under the name of a hook, is no method, and looks as if it were called.

    Args:
        name: The plugin's name.
        hook: The name of the attribute.
        given: The attribute.
        is_value: An instance has it, so that a descriptor is no more than a value.
    """
    if hook not in HOOKS or inspect.ismemberdescriptor(given):
        return
    is_computed = hasattr(type(given), "__get__") and not is_value
    if callable(given) or is_computed:
        kind = (
            f"the class {given.__qualname__}" if isinstance(given, type) else type(given).__name__
        )
        raise _breaks(
            name,
            f"{hook} is named like a hook and is no method, but {kind}, which is never called: make it "
            f"a method with @hookimpl directly above 'def', or give it another name",
        )


def _refuse_options(name: str, method: str, options: Mapping[str, Any]) -> None:
    for option in _PLUGGY_OPTIONS:
        if options.get(option):
            raise _breaks(
                name,
                f"{method}() says {option}={options[option]!r}, which has no meaning here: a method has the "
                f"name of its hook, plugins are called in the order of their names, and what stands around "
                f"an operation is a layer (wrap_operation)",
            )


def _check_hook(name: str, hook: str, given: object, function: Any) -> None:
    parameters = list(inspect.signature(function).parameters)
    is_static = isinstance(given, staticmethod)
    if hook in _STATIC and not isinstance(given, staticmethod | classmethod):
        raise _breaks(
            name, f"{hook}() is asked before there is an instance: @staticmethod above @hookimpl"
        )
    taken = parameters if is_static else parameters[1:]
    unknown = [p for p in taken if p not in inspect.signature(HOOKS[hook]).parameters]
    if unknown:
        raise _breaks(
            name,
            f"{hook}({', '.join(parameters)}) has an unknown argument {unknown[0]!r}; "
            f"expected {signature(hook)}",
        )
    if inspect.iscoroutinefunction(function) and hook not in _ASYNC:
        raise _breaks(name, f"{hook}() is never awaited: make it a plain 'def'")
    is_generator = inspect.isgeneratorfunction(function) and hook not in _ITERABLE
    if is_generator or inspect.isasyncgenfunction(function):
        raise _breaks(name, f"{hook}() has a 'yield', so it would never run")


def _breaks(name: str, what: str) -> PluginError:
    return PluginError(f"plugin {name!r} breaks the contract: {what}").coded("hook_contract")


# -- settings -------------------------------------------------------------------------------------


def check_settings_model(name: str, model: object) -> None:
    """Refuse what ``settings()`` gave if it is neither None nor a pydantic model.

    Raises:
        PluginError: It is something else.
    """
    is_model = isinstance(model, type) and issubclass(model, pydantic.BaseModel)
    if model is not None and not is_model:
        raise _wrong(name, "settings", model, "the class of a pydantic model")


def _attributes(cls: type) -> Iterable[str]:
    """Return the names that a class and its bases define, except those of ``object``."""
    return chain.from_iterable(vars(base) for base in cls.__mro__[:-1])


def check_constructor(name: str, cls: type, model: type[pydantic.BaseModel] | None) -> None:
    """Refuse a class that cannot be called with its settings, or without any.

    Raises:
        PluginError: Its ``__init__`` takes other arguments.
    """
    if model is None and type(cls) is type and _CONSTRUCTORS.isdisjoint(_attributes(cls)):
        return  # a signature takes 60 µs to make
    arguments = () if model is None else (None,)
    try:
        inspect.signature(cls).bind(*arguments)
    except TypeError as error:
        expected = (
            "has no settings() hook, so it is called without arguments"
            if model is None
            else f"is called with its settings: def __init__(self, settings: {model.__name__})"
        )
        raise _breaks(name, f"its class {cls.__name__} {expected}: {error}") from None
    except ValueError:  # a class of C says nothing of its arguments
        return


def unknown_settings(
    model: type[pydantic.BaseModel], settings: Mapping[str, object]
) -> Sequence[str]:
    """Return the settings that a model would leave out in silence.

    A model that says ``extra="ignore"`` or ``"allow"`` wants that.
    """
    if model.model_config.get("extra") is not None:
        return ()
    known = set(model.model_fields)
    for field in model.model_fields.values():
        alias = field.validation_alias or field.alias
        if alias is not None and not isinstance(alias, str):
            return ()  # a path or a choice of names: pydantic alone knows them
        known |= {alias} if alias else set()
    return [name for name in settings if name not in known]


# -- what hooks return ----------------------------------------------------------------------------


def refuse_awaitable(name: str, hook: str, result: object) -> None:
    """Refuse the awaitable that a hook returned which nobody awaits.

    Raises:
        PluginError: It is one.
    """
    if inspect.isawaitable(result):
        if inspect.iscoroutine(result):
            result.close()  # else Python would warn that nobody awaited it
        raise _wrong(name, hook, result, "its answer at once; the hook is never awaited")


def checked_functions(
    hook: str, by_plugin: Iterable[tuple[str, object]], *arguments: str
) -> Iterator[Callable[..., Any]]:
    """Yield the functions that plugins returned from a hook; None of a plugin is left out.

    Args:
        hook: The hook.
        by_plugin: Each plugin's name, and what it returned.
        *arguments: What each function is called with, for the error.

    Raises:
        PluginError: A plugin returned anything else.
    """
    for name, result in by_plugin:
        if result is None:
            continue
        if not is_plain(result, len(arguments)):
            raise _wrong(
                name, hook, result, f"a plain function of ({', '.join(arguments)}), or None"
            )
        yield named(
            cast("Callable[..., Any]", result), f"the function of {hook} of plugin {name!r}"
        )


def checked_items(name: str, hook: str, result: object, expected: str) -> Iterator[object]:
    """Yield what a hook returned, which has to be an iterable or None."""
    if result is None:
        return
    if isinstance(result, str | bytes | Mapping) or not isinstance(result, Iterable):
        raise _wrong(name, hook, result, f"a list of {expected}")
    yield from cast("Iterable[object]", result)


def checked_named(
    name: str, hook: str, result: object, expected: str
) -> Iterator[tuple[str, object]]:
    """Yield what a hook returned, which has to be a mapping of names or None."""
    if result is None:
        return
    if not isinstance(result, Mapping):
        raise _wrong(name, hook, result, f"a dict of {expected} by name")
    for key, value in cast("Mapping[object, object]", result).items():
        if not isinstance(key, str) or not key:
            raise _wrong(name, hook, key, "names that are texts")
        yield key, value


def checked_models(name: str, result: object) -> Iterator[type[BaseModel]]:
    """Yield the models that ``register_models`` returned.

    Raises:
        PluginError: One is no model.
    """
    for model in checked_items(name, "register_models", result, "models"):
        is_model = isinstance(model, type) and hasattr(model, "_inherit")
        if not is_model or not hasattr(model, "_schema"):  # BaseModel itself has none
            raise _wrong(name, "register_models", model, "subclasses of models.BaseModel")
        yield cast("type[BaseModel]", model)


def checked_field_types(name: str, result: object) -> Iterator[tuple[str, type[Field[Any, Any]]]]:
    """Yield the field types that ``register_fields`` returned.

    Raises:
        PluginError: One is no field type.
    """
    hook = "register_fields"
    for key, kind in checked_named(name, hook, result, "field types"):
        if not isinstance(kind, type) or not issubclass(kind, Field):
            raise _wrong(name, hook, kind, f"a class of fields for {key!r}")
        _check_kind(name, key, kind)
        yield key, kind


def check_field_name(name: str, key: str, kind: object) -> None:
    """Refuse a field type under the name of another one, EarnORM's own.

    Raises:
        PluginError: EarnORM has a field type of this name.
    """
    if key in fields.__all__ and getattr(fields, key) is not kind:
        raise PluginError(
            f"plugin {name!r}: register_fields gave a field type named {key!r}, which EarnORM has; "
            f"give it another name"
        ).coded("name_taken")


def _check_kind(name: str, key: str, kind: type[Field[Any, Any]]) -> None:
    """Refuse a field type whose methods do not fit, if it can be made without arguments."""
    try:
        made = kind()
    except Exception:  # it needs arguments; a model gives them, and is checked
        return
    problem = kind_problem(made)
    if problem is not None:
        raise PluginError(f"plugin {name!r}: register_fields gave {key!r}, and {problem}").coded(
            "field_annotation"
        )


def checked_operators(name: str, result: object) -> Iterator[Operator]:
    """Yield the operators that ``register_operators`` returned, which name themselves where they fail.

    Raises:
        PluginError: One is no operator, or its name means something else in a domain.
    """
    hook = "register_operators"
    for operator in checked_items(name, hook, result, "operators"):
        if not isinstance(operator, Operator):
            raise _wrong(name, hook, operator, "objects of earnorm.Operator")
        given: object = operator.name
        if not isinstance(given, str) or not given.strip() or given in _PREFIXES:
            raise PluginError(
                f"plugin {name!r}: {hook} gave an operator named {given!r}, which no condition can "
                f"have: '&', '|' and '!' join conditions"
            ).coded("hook_result")
        for part, arguments in _FUNCTIONS_OF_OPERATOR.items():
            value: object = getattr(operator, part)
            if not is_plain(value, len(arguments)):
                expected = f"a plain function {part}({', '.join(arguments)})"
                raise _wrong(name, hook, value, f"{expected} of the operator {given!r}")
        negated: object = operator.negated
        if negated is not None and not isinstance(negated, str):
            raise _wrong(
                name, hook, negated, f"a name or None as negated of the operator {given!r}"
            )
        yield named_operator(name, operator)


def checked_services(name: str, result: object) -> Iterator[tuple[str, object]]:
    """Yield the services that ``register_services`` returned.

    Raises:
        PluginError: One is None.
    """
    hook = "register_services"
    for key, service in checked_named(name, hook, result, "objects"):
        if service is None:
            raise _wrong(
                name, hook, service, f"an object for {key!r}; leave out one that is not there"
            )
        yield key, service


def checked_listeners(name: str, result: object) -> Iterator[object]:
    """Yield the listeners that ``register_listeners`` returned.

    Raises:
        PluginError: One is none of the driver's.
    """
    hook = "register_listeners"
    for listener in checked_items(name, hook, result, "event listeners"):
        if not is_listener(listener):
            raise _wrong(name, hook, listener, "objects of the listeners of pymongo.monitoring")
        yield listener


def checked_commands(name: str, result: object) -> Iterator[tuple[str, Callable[..., object]]]:
    """Yield the commands that ``register_commands`` returned.

    Raises:
        PluginError: One is no function.
    """
    hook = "register_commands"
    for key, function in checked_named(name, hook, result, "functions"):
        if not callable(function) or not _has_named_parameters(function):
            raise _wrong(name, hook, function, f"a function without *args and **kwargs for {key!r}")
        if key.startswith("-") or any(map(str.isspace, key)):
            raise PluginError(
                f"plugin {name!r}: {hook} gave a command named {key!r}, which nobody can type: a name "
                f"begins with no '-' and has no space"
            ).coded("hook_result")
        yield key, function


def checked_findings(name: str, result: object) -> Iterator[Finding]:
    """Yield the findings of ``diagnose``.

    Raises:
        PluginError: It returned anything but findings.
    """
    for finding in checked_items(name, "diagnose", result, "earnorm.plugin.Finding"):
        if not isinstance(finding, Finding):
            raise _wrong(name, "diagnose", finding, "objects of earnorm.plugin.Finding")
        yield finding


def _has_named_parameters(function: Callable[..., Any]) -> bool:
    """Return whether each parameter of a function can become an argument or option of a command."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # a function of C says nothing of its arguments
        return False
    return not any(p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in parameters)


def checked_health(name: str, result: object) -> Mapping[str, object]:
    """Return a plugin's part of the health report.

    Raises:
        PluginError: It is no mapping with one of the three statuses.
    """
    expected = "a mapping with a status: {'status': 'ok'}, 'degraded' or 'failed'"
    if not isinstance(result, Mapping):
        raise _wrong(name, "health", result, expected)
    status: object = result.get("status")
    if status not in STATUSES:
        raise _wrong(name, "health", {"status": status}, expected)
    return result


def _wrong(name: str, hook: str, given: object, expected: str) -> PluginError:
    shown = given.__qualname__ if isinstance(given, type) else f"a {type(given).__name__}"
    shown = "None" if given is None else shown
    return PluginError(
        f"plugin {name!r}: its hook {signature(hook)} gave {shown}; it has to give {expected}"
    ).coded("hook_result")
