"""The tables of settings, class attributes and limits say what the code says."""

from __future__ import annotations

import inspect
import re
from ast import literal_eval
from typing import Any

import pytest

from earnorm import App, BaseModel, Domain, exceptions, untrusted
from earnorm.backends import errors, plain_operations, transacting
from earnorm.domain import ast, full_text, geo, like, long_lists, paths, regex, values
from earnorm.features.computed import levels, limits
from earnorm.features.computed.owed import chunks
from earnorm.features.grouping import inspection
from earnorm.features.paging import paging
from earnorm.features.upserts import upserts
from earnorm.features.watching import watching
from earnorm.fields import numeric, structured
from earnorm.kernel.contract.attribute_values import HOUSE_ATTRIBUTES
from earnorm.kernel.life import in_flight
from earnorm.kernel.transactions import queue, retries
from earnorm.model.misspelt import CORE_ATTRIBUTES
from earnorm.model.reading import resolution, streaming
from earnorm.model.validation import checking
from tests.docs.tables import rows

SETTINGS = inspect.signature(App.__init__).parameters
NOT_GIVEN = "(must be given)"


def setting(name: str) -> Any:
    return SETTINGS[name].default


def test_the_table_of_settings_has_each_keyword_of_an_app_with_its_default() -> None:
    told = {
        cells[0].strip("`"): cells[1].strip("`") for cells in rows("docs/apps.md", "## Settings")
    }
    keywords = [p for p in SETTINGS.values() if p.kind is not p.VAR_KEYWORD and p.name != "self"]
    assert told == {
        p.name: NOT_GIVEN if p.default is p.empty else repr(p.default) for p in keywords
    }


def test_the_table_of_class_attributes_has_each_with_its_default() -> None:
    told = {
        cells[0].strip("`"): cells[1].strip("`")
        for cells in rows("docs/models.md", "## Class attributes")
    }
    assert told.keys() == CORE_ATTRIBUTES.keys()
    made_from_names = {"_name", "_collection", "_kind"}
    assert all(getattr(BaseModel, name) == "" for name in made_from_names)
    # BaseModel itself is a base; a class that says nothing of it is none.
    of_a_model = {"_abstract": False}
    for name in told.keys() - made_from_names:
        assert literal_eval(told[name]) == of_a_model.get(name, getattr(BaseModel, name)), name


def test_the_table_of_plugins_attributes_has_each() -> None:
    told = [cells[0].strip("`") for cells in rows("docs/models.md", "## Class attributes", 1)]
    assert sorted(told) == sorted(HOUSE_ATTRIBUTES)


SIZES: dict[str, tuple[int, ...]] = {
    "characters of a path": (paths.MAX_LENGTH,),
    "names in a path": (paths.MAX_PARTS,),
    "levels of alternating": (ast.MAX_DEPTH,),
    "levels of lists and dicts in one value": (values.MAX_NESTING,),
    "bytes of one list": (long_lists.LARGEST,),
    "sub-queries of one condition": (resolution.MOST_QUESTIONS,),
    "characters of a pattern": (like.MAX_PATTERN,),
    "characters of a `regex`": (regex.MAX_REGEX, regex.MAX_REPEAT),
    "characters of a full-text search": (full_text.MAX_WORDS,),
    "corners of a `within`": (geo.MAX_POSITIONS,),
    "characters of a cursor": (paging.MAX_CURSOR,),
    "levels of a pipeline": (inspection.MAX_LEVELS,),
    "levels of the value of a `Json`": (structured._MAX_DEPTH,),
    "digits of a `Decimal`": (numeric._MAX_DIGITS,),
    "bytes of one document": (errors.MAX_DOCUMENT_BYTES,),
    "records of a stored recompute": (setting("recompute_limit"),),
    "times that one record is computed": (levels._MOST,),
    "problems that the text of an error lists": (exceptions.MOST_LINES,),
    "problems that the rules of one update": (checking._MOST_PROBLEMS,),
}
TIMES: dict[str, tuple[float, ...]] = {
    "`@transactional` without": (setting("retry_timeout"),),
    "`@transactional(retries=n)`": (retries.CONVENIENT_SECONDS,),
    "pause before a further try": (retries._FIRST_PAUSE, retries._LONGEST_PAUSE),
    "a commit of unknown outcome": (transacting.COMMIT_SECONDS,),
    "each try waits for its turn": (queue.LONGEST_WAIT,),
    "an abort of a transaction": (transacting.ABORT_SECONDS,),
    "a plain operation waits": (plain_operations.LONGEST_WAIT,),
    "`watch()` connects again": (watching._FIRST_PAUSE, watching._LONGEST_PAUSE),
    "tries of an upsert": (upserts._TRIES,),
    "a look for a server": (setting("server_timeout"),),
    "a stop waits for work": (in_flight.GRACE,),
    "a chunk of an owed recompute": (chunks.CHUNK, chunks._SECONDS),
    "two looks for recomputes": (setting("recompute_interval"),),
    "documents of one batch": (streaming.BATCH,),
}


@pytest.mark.parametrize(
    ("heading", "known"), [("## Sizes", SIZES), ("## Times and retries", TIMES)]
)
def test_each_limit_of_the_page_is_that_of_the_code(
    heading: str, known: dict[str, tuple[float, ...]]
) -> None:
    table = rows("docs/limits.md", heading)
    assert len(table) == len(known)
    for (what, told, _), (beginning, numbers) in zip(table, known.items(), strict=True):
        assert what.startswith(beginning)
        assert [float(text.replace(",", "")) for text in told.split(";")] == list(numbers), what


def test_each_public_limit_of_domains_is_on_the_page() -> None:
    told = {number for numbers in SIZES.values() for number in numbers}
    for module in (ast, full_text, geo, like, paths, regex, values, paging, inspection):
        own = {name: value for name, value in vars(module).items() if name.startswith("MAX_")}
        assert own, module
        assert {name for name, value in own.items() if value not in told} == set()
    assert setting("recompute_limit") == limits.LIMIT
    assert f"at most {limits.BATCH:,};" in next(
        cells[2] for cells in rows("docs/apps.md", "## Settings") if cells[0] == "`recompute_limit`"
    )


def defaults(function: Any) -> dict[str, Any]:
    parameters = inspect.signature(function).parameters.values()
    return {p.name: p.default for p in parameters if type(p.default) is int}


def test_the_bounds_for_clients_are_those_of_the_functions() -> None:
    told: dict[str, str] = {}
    for names, _, numbers in rows("docs/untrusted-input.md", "## Conditions"):
        if re.fullmatch(r"[\d,]+(, [\d,]+)+", numbers):
            told.update(zip(re.findall(r"`(\w+)`", names), numbers.split(", "), strict=True))
    assert told == {name: f"{value:,}" for name, value in defaults(Domain.untrusted).items()}
    functions = rows("docs/untrusted-input.md", "## Orders, fields, cursors, groups, pipelines")
    for call, _, bounds, _ in functions:
        found = re.match(r"`untrusted\.(\w+)\(", call)
        assert found is not None
        told = dict(re.findall(r"`(\w+)` ([\d,]+\d|\d)", bounds))
        wanted = defaults(getattr(untrusted, found[1]))
        assert told == {name: f"{value:,}" for name, value in wanted.items()}, found[1]
