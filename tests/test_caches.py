"""Every place that keeps something for as long as the process, with what bounds it. A new one is noticed here.

Two kinds of places are found by reading the sources: functions that remember their results, and collections of a module
or a class. What objects keep that live as long as an App is found by using one: see ``tests/plugins/test_bounded_with_plugins.py``.
"""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGES = sorted(ROOT.glob("earnorm-*/src/earnorm*"))

REMEMBERING = {
    "earnorm.backends.native.loading._look": "one decision",
    "earnorm.domain.folding._mates": "no argument",
    "earnorm.features.computed.existing._tree": "the paths of formulas, which class bodies declare; 1,024",
    "earnorm.features.computed.owed.documents.make_model": "no argument",
    "earnorm.features.sequences.counters.counter_model": "no argument",
    "earnorm.fields.numeric.at_most": "numbers of digits, 34 at the most",
    "earnorm.fields.temporal._durations": "no argument",
    "earnorm.kernel.life.lifecycle._load_validation": "no argument",
    "earnorm.kernel.plugins.project._parsed": "4 contents of project files",
    "earnorm.model.declaring._imported": "functions that features name",
    "earnorm.model.misspelt._near": "names that class bodies have; 256",
    "earnorm.model.writing.bounds._numeric": "three types, and decimal places, 34 at the most",
}
COLLECTIONS = {
    "earnorm.application._asked": "the arguments of the last init()",
    "earnorm.backends.in_memory.expressions.OPERATORS": "the operators of expressions",
    "earnorm.integrations.flask._all": "the Apps of Flask applications, weakly",
    "earnorm.integrations.lifetimes._lifetimes": "the lifetimes of servers, weakly",
    "earnorm.integrations.starlette._places": "the parts of a request",
    "earnorm.sync.background._of_parents": "loops of the process that this one was forked from",
    "earnorm.domain.ast._CONSTANTS": "True and False",
    "earnorm.features.bodies.pydantic_models._MODELS": "by class, weakly; each is Bounded",
    "earnorm.features.computed.recomputing._OWED": "running transactions, weakly; fields of the App",
    "earnorm.kernel.contract.handed_in._CHECKED": "classes of plugins, weakly",
    "earnorm.kernel.observing.denials._told": "errors that are being raised, weakly",
    "earnorm.kernel.observing.verdicts._of_errors": "errors that are being raised, weakly",
    "earnorm.kernel.plugins.manager._NO_HOOKS": "classes of plugins and features, weakly",
    "earnorm.features.grouping.probing._known": "the Apps, weakly",
    "earnorm.kernel.transactions.held_records.HOLDERS": "running transactions",
    "earnorm.model.writing.creating._BEING_STORED": "records of running calls",
    "earnorm.fields.refused.REFUSED": "living sets of names; the end of one takes it out",
    "earnorm.model.writing.turns._running": "records of running writes",
    "earnorm.fields.comodels.MODELS": "the models; forget() takes one out",
    "earnorm.kernel.observing.asking.OBSERVED": "Apps under assert_queries() and recording(), which take them out",
    "earnorm.kernel.catalog._owners": "by class, weakly",
    "earnorm.kernel.life.lifecycle._ALL": "the Apps, weakly",
    "earnorm.kernel.life.lifecycle._OF_PARENT": "connections of the process that this one was forked from",
    "earnorm.kernel.registry._brought": "by class, weakly",
    "earnorm.kernel.registry._earlier": "names that were defined several times; references are weak",
    "earnorm.kernel.registry._forgotten": "classes, weakly",
    "earnorm.kernel.registry._listeners": "the living Apps, weakly",
    "earnorm.model.declaring._attributes": "attributes that features name",
    "earnorm.model.declaring._options": "options that features name",
    "earnorm.model.writing.creating._MADE": "records, weakly",
    "earnorm.model.writing.in_doubt._IN_DOUBT": "records, weakly",
    "earnorm_security.secrets.hashing._turns": "event loops, weakly",
    "earnorm_cache.functions._DEPENDED": "names of models, which decorators of functions name",
    "earnorm_audit.plugin.exclude_fields": "a default of pydantic, which copies it",
}
READ_ONLY = re.compile(r"\b(Mapping|Sequence|Iterable)\b")
"""The type of a constant, which a type checker lets nobody fill."""
MAKERS = {
    *("dict", "list", "set", "defaultdict", "OrderedDict", "Counter", "deque", "Bounded"),
    *("WeakKeyDictionary", "WeakValueDictionary", "WeakSet"),
}


def test_functions_that_remember_are_listed_with_what_bounds_them() -> None:
    assert sorted(remembering()) == sorted(REMEMBERING)


def test_collections_of_modules_are_listed_with_what_bounds_them() -> None:
    assert sorted(collections()) == sorted(COLLECTIONS)


@functools.cache
def modules() -> tuple[tuple[str, ast.Module], ...]:
    """Return the modules of the packages, each with its parsed source."""
    return tuple(_modules())


def _modules() -> Iterator[tuple[str, ast.Module]]:
    for package in PACKAGES:
        for file in sorted(package.rglob("*.py")):
            if "testing" in file.parts:
                continue
            parts = file.relative_to(package.parent).with_suffix("").parts
            yield ".".join(parts).removesuffix(".__init__"), ast.parse(file.read_text())


def remembering() -> Iterator[str]:
    """Yield functions under a decorator that remembers, and names that one is called for."""
    for module, tree in modules():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                if any(name_in(d) in ("cache", "lru_cache") for d in node.decorator_list):
                    yield f"{module}.{node.name}"
            elif (
                isinstance(node, ast.Assign)
                and isinstance(node.value, ast.Call)
                and name_in(node.value.func) in ("cache", "lru_cache")
            ):
                yield f"{module}.{ast.unparse(node.targets[0])}"


def collections() -> Iterator[str]:
    """Yield names of modules and classes whose value is an empty collection, or a weak one."""
    for module, tree in modules():
        bodies = [tree.body, *(n.body for n in ast.walk(tree) if isinstance(n, ast.ClassDef))]
        for statement in (statement for body in bodies for statement in body):
            if not isinstance(statement, ast.Assign | ast.AnnAssign):
                continue
            value = statement.value
            is_empty = isinstance(value, ast.Dict | ast.List | ast.Set) and not (
                value.keys if isinstance(value, ast.Dict) else value.elts
            )
            is_made = isinstance(value, ast.Call) and name_in(value.func) in MAKERS
            if isinstance(statement, ast.AnnAssign) and READ_ONLY.search(
                ast.unparse(statement.annotation)
            ):
                continue
            if is_empty or is_made:
                targets = (
                    statement.targets if isinstance(statement, ast.Assign) else [statement.target]
                )
                yield f"{module}.{ast.unparse(targets[0])}"


def name_in(node: ast.expr) -> str:
    """Return the last name of ``functools.cache``, ``lru_cache(maxsize=1)`` or ``dict[str, int]``."""
    if isinstance(node, ast.Call):
        return name_in(node.func)
    if isinstance(node, ast.Subscript):
        return name_in(node.value)
    return node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")
