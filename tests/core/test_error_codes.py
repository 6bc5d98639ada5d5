"""Every error has a stable code and an HTTP status, and docs/errors.md has a row for each."""

from __future__ import annotations

import ast
import copy
import functools
import importlib
import importlib.util
import pickle
import re
from pathlib import Path
from typing import Any

import pytest

from earnorm import exceptions

ROOT = Path(__file__).parents[2]
ROW = re.compile(r"^\| `(\w+)` \| `(\w+)` \| (\d{3}) \| ", re.MULTILINE)
ERRORS = {
    name: error
    for name, error in vars(exceptions).items()
    if isinstance(error, type) and issubclass(error, exceptions.EarnORMError)
}
ROWS = {
    code: (error, int(status))
    for code, error, status in ROW.findall((ROOT / "docs/errors.md").read_text())
}
PLACES = (
    *("kernel/plugins/start_order", "kernel/plugins/built_in", "kernel/plugins/project"),
    *(
        "kernel/contract/attribute_values",
        "kernel/contract/attributes",
        "kernel/document_steps",
        "kernel/transactions/durable",
        "kernel/plugins/loading",
    ),
    *("kernel/operations", "kernel/serving/reading", "kernel/steps", "kernel/value_steps"),
    *("features/computed/plugin", "model/declaring"),
)
"""The modules in which each of these errors has a narrower code."""
BROAD = {"ConfigurationError", "NotSupported", "PluginError"}
CODED = re.compile(r"""\.coded\(\s*["'](\w+)["']""")
OF_PLUGINS = re.compile(r"""^    code(?:: str)? = ["'](\w+)["']""", re.MULTILINE)
TREE = re.compile(
    r"^([│ ]*[├└]── )(\w+)(?: \((?:also )?an? (\w+)\))?(?: .*?(?:\(([a-z_.]+)\))?)?$", re.MULTILINE
)


def test_each_class_has_a_code_of_its_own_and_a_row() -> None:
    concrete = {name: error for name, error in ERRORS.items() if name != "EarnORMError"}
    codes = {error.code: name for name, error in concrete.items()}
    assert len(codes) == len(concrete)
    for code, name in codes.items():
        assert ROWS[code] == (name, ERRORS[name].status)


def test_each_narrower_code_has_a_row_and_no_row_is_left_over() -> None:
    narrower = {
        code
        for file in ROOT.glob("earnorm-*/src/**/*.py")
        for code in CODED.findall(file.read_text())
    }
    of_plugins = {
        code
        for file in ROOT.glob("earnorm-*/src/earnorm_*/**/*.py")
        for code in OF_PLUGINS.findall(file.read_text())
    }
    assert {error.code for error in ERRORS.values()} | narrower | of_plugins == {"error", *ROWS}
    for code in narrower:
        name, status = ROWS[code]
        assert ERRORS[name].status == status


def test_a_narrower_code_stays_with_the_error() -> None:
    error = exceptions.PluginError("x").coded("circular_steps")
    assert (
        error.code
        == copy.copy(error).code
        == pickle.loads(pickle.dumps(error)).code
        == "circular_steps"
    )
    assert exceptions.PluginError("x").code == "plugin"


def test_what_plugins_do_wrong_has_a_narrower_code() -> None:
    broad: list[str] = []
    for place in PLACES:
        source = (ROOT / f"earnorm-core/src/earnorm/{place}.py").read_text()
        tree = ast.parse(source)
        coded = {
            id(node.value)
            for node in ast.walk(tree)
            if isinstance(node, ast.Attribute) and node.attr == "coded"
        }
        broad += [
            f"{place}:{node.lineno}"
            for node in ast.walk(tree)
            if isinstance(node, ast.Call)
            and isinstance(node.func, ast.Name)
            and node.func.id in BROAD
            and id(node) not in coded
        ]
    assert not broad


CLASS = re.compile(r"^class (\w+)\(([\w, .]+)\)", re.MULTILINE)


def classes_of_errors() -> list[type[exceptions.EarnORMError]]:
    """Every class of the whole library, also those of other modules and of the installed plugins."""
    classes = dict(ERRORS)
    declared = [
        (file, name, {base.strip().rpartition(".")[2] for base in bases.split(",")})
        for package in sorted(ROOT.glob("earnorm-*/src/*"))
        if importlib.util.find_spec(package.name) is not None
        for file in sorted(package.glob("**/*.py"))
        for name, bases in CLASS.findall(file.read_text())
    ]
    while True:
        new = [
            (file, name)
            for file, name, bases in declared
            if name not in classes and bases & {*classes}
        ]
        if not new:
            return list(classes.values())
        for file, name in new:
            path = file.relative_to(next(p for p in file.parents if p.name == "src"))
            module = importlib.import_module(".".join(path.with_suffix("").parts))
            classes[name] = getattr(module, name)


def tree_of(text: str) -> dict[str, tuple[str, str, str]]:
    """The parent, the built-in base and the package of each class in a drawn tree, by its name."""
    branch = ["EarnORMError"]
    drawn: dict[str, tuple[str, str, str]] = {}
    for indent, name, built_in, package in TREE.findall(text):
        level = len(indent) // 4
        assert name not in drawn
        drawn[name] = (branch[level - 1], built_in, package)
        branch[level:] = [name]
    return drawn


def public_errors() -> dict[str, type[exceptions.EarnORMError]]:
    """The classes that programs can name; another one is caught by the name of its base."""
    public: dict[str, type[exceptions.EarnORMError]] = {}
    for cls in classes_of_errors():
        package = cls.__module__.partition(".")[0]
        places = (package, cls.__module__ if ".integrations." in cls.__module__ else package)
        if any(hasattr(importlib.import_module(place), cls.__name__) for place in places):
            public[cls.__name__] = cls
    del public["EarnORMError"]
    return public


def test_the_tree_of_the_page_is_that_of_the_classes() -> None:
    drawn = tree_of((ROOT / "docs/errors.md").read_text())
    public = public_errors()
    installed = {
        name
        for name, (*_, package) in drawn.items()
        if not package or importlib.util.find_spec(package.partition(".")[0]) is not None
    }
    assert installed == public.keys()
    for name, cls in public.items():
        parent, built_in, package = drawn[name]
        bases = {base.__name__ for base in cls.__bases__}
        own = {base for base in bases if base in {*public, "EarnORMError"}}
        assert parent in own and {*filter(None, [built_in])} == bases - own, name
        face = importlib.import_module(package or "earnorm")
        assert getattr(face, name) is cls


def test_the_tree_of_the_module_is_that_of_the_page() -> None:
    drawn = tree_of((ROOT / "docs/errors.md").read_text())
    of_core = {name: drawn for name, drawn in drawn.items() if not drawn[2]}
    assert tree_of(exceptions.__doc__ or "") == of_core


DETAILS: list[exceptions.ErrorDetail] = [
    {"loc": (3, "name"), "msg": "in words", "type": "missing"},
    {"loc": (), "msg": "more words", "type": "type"},
]
ARGUMENTS: dict[str, tuple[tuple[object, ...], dict[str, object]]] = {
    "ValidationError": (("thing", DETAILS), {}),
    "ParameterRefused": ((DETAILS,), {}),
    "DomainError": (("in words",), {"loc": (0, "age")}),
    "DuplicateKey": (("thing", ["email", "name"]), {}),
    "UnreadableDocument": (("thing", DETAILS), {"ids": [5]}),
    "BatchRefused": (("thing", DETAILS), {"written": range(3)}),
    "BatchDuplicateKey": (("thing", DETAILS), {"fields": ["email"], "written": [0]}),
    "TransactionError": (("in words",), {"transient": True}),
}
COPIES = {
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    **{
        f"pickle {protocol}": functools.partial(
            lambda protocol, error: pickle.loads(pickle.dumps(error, protocol)), protocol
        )
        for protocol in range(pickle.HIGHEST_PROTOCOL + 1)
    },
}


@pytest.mark.parametrize("way", COPIES)
@pytest.mark.parametrize("cls", classes_of_errors(), ids=lambda cls: str(cls.__name__))
def test_a_copy_of_an_error_says_the_same(cls: type[exceptions.EarnORMError], way: str) -> None:
    arguments, keywords = ARGUMENTS.get(cls.__name__, (("in words",), {}))
    error: Any = cls(*arguments, **keywords).coded("narrower")
    error.add_note("a note")
    again: Any = COPIES[way](error)
    assert type(again) is cls
    assert (str(again), again.args, repr(again)) == (str(error), error.args, repr(error))
    assert vars(again) == vars(error) and again.code == "narrower" and again.status == error.status
    if isinstance(error, exceptions.ValidationError):
        assert again.errors() == error.errors()


def test_the_classes_with_arguments_of_their_own_are_in_the_table() -> None:
    own = {cls.__name__ for cls in classes_of_errors() if "__init__" in vars(cls)}
    assert own == set(ARGUMENTS)


@pytest.mark.parametrize("way", COPIES)
def test_a_subclass_of_a_program_is_copied_with_its_attributes(way: str) -> None:
    again = COPIES[way](OverLimit(limit=3, used=4))
    assert (again.limit, again.used, str(again)) == (3, 4, "4 of 3")


class OverLimit(exceptions.ValidationError):
    """An error of a program, with a constructor that takes something else."""

    def __init__(self, *, limit: int, used: int) -> None:
        self.limit, self.used = limit, used
        super().__init__("limit", [{"loc": (), "msg": "too much", "type": "limit"}])

    def _render(self) -> str:
        return f"{self.used} of {self.limit}"
