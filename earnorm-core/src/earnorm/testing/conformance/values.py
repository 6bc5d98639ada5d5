"""Checks of the operators and the field types that a plugin brings: the database and Python agree."""

from __future__ import annotations

import datetime
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final

import bson
import pydantic

from earnorm.application import App
from earnorm.domain import Operator
from earnorm.exceptions import (
    ConfigurationError,
    DomainError,
    DuplicateKey,
    EarnORMError,
    ValidationError,
)
from earnorm.fields import Boolean, DateTime, Field, Float, Int, List, String
from earnorm.kernel.registry import forget
from earnorm.models import BaseModel
from earnorm.plugin import ModelView
from earnorm.testing.conformance.checks import Broken, Check, NotApplicable, check
from earnorm.testing.conformance.subject import MEMORY, Subject
from earnorm.testing.samples import Samples

_GROUP: Final = "values"
_TIME: Final = datetime.datetime(2024, 2, 29, 12, 30)
_OPERANDS: Final[Sequence[object]] = (
    *("", "a", "An", "Ann", "ann", "n%", "."),
    *(-1, 0, 1, 2, 3, 2.5, True, False, None, _TIME),
    *(["Ann", "b"], [1, 2], [], {"a": 1}),
)
_DOCUMENTS: Final[Sequence[Mapping[str, Any]]] = (
    {},
    {"text": None, "number": None, "amount": None, "flag": None, "at": None, "words": None},
    {"text": "", "number": 0, "amount": 0.0, "flag": False, "words": []},
    {"text": "Ann", "number": 1, "amount": 2.5, "flag": True, "at": _TIME, "words": ["Ann"]},
    {"text": "ann", "number": -1, "amount": -1.0, "words": ["ann", "b"]},
    {"text": "Joann.", "number": 2, "amount": 3.0, "words": ["a", "a", ""]},
    {"text": "b", "number": 12, "amount": 1e6, "at": _TIME + datetime.timedelta(days=400)},
    {"text": "A\nnn", "number": -12, "amount": 0.5, "words": ["Joann."]},
)
_VALUES: Final[Sequence[object]] = (
    *("Ab c", "abc", "#A1b2C3", "ann@example.com", "https://example.com/a", "+4915112345678"),
    *(1, 50, -5, 2.5, True, Decimal("2.50"), b"ab", uuid.UUID(int=5)),
    *(_TIME, _TIME.date(), datetime.timedelta(seconds=90), ["a", "b"], [1, 2], {"a": 1}),
)
_MOST: Final = 4
"""The most values with which a field type is tried."""


# -- operators ------------------------------------------------------------------------------------


@check(
    _GROUP,
    "operators",
    requirement="Each operator of the plugin means the same on the server and in memory, negated too, and "
    "refuses a value that it does not take with ValueError.",
    mend="Let to_mongo and matches say the same of missing values, None, lists and other types, and let "
    "prepare refuse what one of them cannot take. operands= gives values that fit.",
    section="An operator of your own",
    page="domains.md",
    needs_server=True,
)
async def operators(subject: Subject) -> None:
    """Search with each operator, and match the same documents in memory."""
    own = (await subject.offer()).operators
    if not own:
        raise NotApplicable("it brings no operators")
    with _model("conformance.document", _document_fields()) as model:
        async with subject.app(uri=subject.server) as app:
            records = await model.create([dict(document) for document in _DOCUMENTS])
            stored = [_stored(record) for record in records]
            for operator in own:
                await _agree(subject, app, model, operator, stored)


def _document_fields() -> dict[str, Field[Any, Any]]:
    return {
        "text": String(),
        "number": Int(),
        "amount": Float(),
        "flag": Boolean(),
        "at": DateTime(),
        "words": List(String()),
    }


def _stored(record: BaseModel) -> dict[str, Any]:
    """Return a record as the database keeps it: a field that was not given has no key."""
    fields = ModelView(type(record)).fields
    values = record.to_dict()
    document: dict[str, Any] = {"_id": record.pk}
    for name, field in fields.items():
        if name != "_id" and values.get(name) is not None:
            document[name] = field.encode(values[name])
    return document


async def _agree(
    subject: Subject,
    app: App,
    model: type[BaseModel],
    operator: Operator,
    stored: Sequence[Mapping[str, Any]],
) -> None:
    if operator.relational:
        return
    name = operator.name
    tried = 0
    paths = ["*"] if operator.pathless else list(_document_fields())
    for path in paths:
        for operand in subject.operands.get(name, _OPERANDS):
            condition: Any = (path, name, operand)
            try:
                app.check(model, [condition])
            except DomainError:
                continue  # a value that it does not take
            except Exception as error:
                raise Broken(
                    f"the operator {name!r} raises {type(error).__name__} for a {type(operand).__name__}, "
                    f"not ValueError"
                ) from error
            tried += 1
            for domain in ([condition], ["!", condition])[: 1 + operator.negatable]:
                await _compare(app, model, domain, stored, f"{domain!r}")
    if not tried:
        raise Broken(
            f"the operator {name!r} takes none of the suite's values: give some, "
            f"operands={{{name!r}: [...]}}"
        )


async def _compare(
    app: App, model: type[BaseModel], domain: Any, stored: Sequence[Mapping[str, Any]], what: str
) -> None:
    try:
        on_server = {record.pk for record in await model.search(domain)}
    except Exception as error:
        raise Broken(f"the server refuses {what}: {type(error).__name__}: {error}") from error
    try:
        matches = app.matcher(model, domain)
        in_memory = {document["_id"] for document in stored if matches(document)}
    except Exception as error:
        raise Broken(f"{what} raises {type(error).__name__} in memory: {error}") from error
    if on_server != in_memory:
        path = domain[-1][0]
        wrong = next(d for d in stored if d["_id"] in on_server ^ in_memory)
        only = "the server" if wrong["_id"] in on_server else "memory"
        shown = repr(wrong[path]) if path in wrong else "no value"
        raise Broken(f"{what} is true for {path} = {shown} only for {only}")


# -- field types ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Holder:
    """A model with one field of a plugin's type, and values that the type takes."""

    kind: str
    model: type[BaseModel]
    field: str
    values: Sequence[Any]


@check(
    _GROUP,
    "fields",
    requirement="A value of each field type is read as it was written, is BSON in its stored form, and is "
    "found by a search for it.",
    mend="decode(encode(value)) is the value; encode() of a stored form and decode() of a value change "
    "nothing; operand() gives the stored form. values= gives values that fit.",
    section="A field class of your own",
    page="fields.md",
    needs_server=True,
)
async def fields(subject: Subject) -> None:
    """Write and read values of each field type, in memory and on the server."""
    kinds = await _own_kinds(subject)
    for uri in [MEMORY] if subject.without_server else [MEMORY, subject.server]:
        async with subject.app(uri=uri) as app:
            with _holders(subject, kinds) as holders:
                for holder in holders:
                    for value in holder.values:
                        await _round_trip(app, holder, value)


async def _round_trip(app: App, holder: Holder, value: Any) -> None:
    kind, model, name = holder.kind, holder.model, holder.field
    field = ModelView(model).fields[name]
    what = f"a {kind} that is {value!r}"
    try:
        record = await model.create({name: value})
        held = getattr(record, name)
        stored = field.encode(held)
        if bson.decode(bson.encode({"v": stored}))["v"] != stored:
            raise Broken(f"{what} is stored as something that BSON changes")
        if field.encode(stored) != stored:
            raise Broken(f"encode() changes the stored form of {what}")
        if field.decode(held) != held:
            raise Broken(f"decode() changes {what}, which is decoded already")
        read = getattr(await model.get(record.id), name)
        if read != held or type(read) is not type(held):
            raise Broken(
                f"{what} is {held!r} in the record that wrote it and {read!r} when it is read"
            )
        if isinstance(held, Mapping | list | set):
            return
        domain: Any = [(name, "=", held)]
        if record.pk not in {found.pk for found in await model.search(domain)}:
            raise Broken(f"a search for {what} does not find its record")
        if not app.matcher(model, domain)({"_id": record.pk, field.db_name: stored}):
            raise Broken(f"a domain with {what} does not match its document in memory")
    except Broken:
        raise
    except Exception as error:
        raise Broken(f"{what} raises {type(error).__name__}: {error}") from error


@check(
    _GROUP,
    "unique_nulls",
    requirement="In a unique field of each type two records without a value do not collide, and two with the "
    "same value do.",
    mend="bson_schema() names the one BSON type of the stored form, or index_floor is the lowest stored "
    "value; without either every value counts.",
    section="A field class of your own",
    page="fields.md",
    after=("fields",),
    needs_server=True,
)
async def unique_nulls(subject: Subject) -> None:
    """Store records without a value, and with one twice."""
    kinds = await _own_kinds(subject)
    uri = MEMORY if subject.without_server else subject.server
    async with subject.app(uri=uri):
        with _holders(subject, kinds, unique=True) as holders:
            if not holders:
                raise NotApplicable("no field type of it can be unique")
            for holder in holders:
                await _unset_and_twice(holder)


async def _unset_and_twice(holder: Holder) -> None:
    kind, model, name = holder.kind, holder.model, holder.field
    value = holder.values[0]
    try:
        first = await model.create({})
        if getattr(first, name) is None:  # else a step fills it in, and no record is without
            await model.create([{}, {name: None}])
            record = await model.create({name: value})
            await record.write({name: None})
        await model.create({name: value})
    except EarnORMError as error:
        raise Broken(f"records without a value of {kind}(unique=True) collide: {error}") from error
    try:
        await model.create({name: value})
    except DuplicateKey:
        return
    raise Broken(f"two records have one value of {kind}(unique=True)")


@check(
    _GROUP,
    "schemas",
    requirement="Every value of a field type passes the schema of its stored form (bson_schema) on the server, "
    "and its JSON form is read back as the value.",
    mend="Let bson_schema() describe all that encode() gives, and json_type() read what to_json() writes.",
    section="A field class of your own",
    page="fields.md",
    after=("fields",),
    needs_server=True,
)
async def schemas(subject: Subject) -> None:
    """Store values in a collection that the server checks, and take them through JSON."""
    kinds = await _own_kinds(subject)
    async with subject.app(uri=subject.server):
        with _holders(subject, kinds, _validation="strict") as holders:
            for holder in holders:
                for value in holder.values:
                    await _through_schemas(holder, value)


async def _through_schemas(holder: Holder, value: Any) -> None:
    kind, model, name = holder.kind, holder.model, holder.field
    what = f"a {kind} that is {value!r}"
    try:
        record = await model.create({name: value})
    except ValidationError as error:
        raise Broken(f"the server refuses {what} by its bson_schema(): {error}") from error
    held = getattr(record, name)
    try:
        body = model.pydantic_model(include=[name])
        body.model_json_schema()
        again = body.model_validate_json(body.model_validate(record).model_dump_json())
    except (TypeError, ValueError, pydantic.errors.PydanticUserError) as error:
        raise Broken(f"{what} has no JSON form: {type(error).__name__}: {error}") from error
    if getattr(again, name) != held:
        raise Broken(f"{what} is {getattr(again, name)!r} after its way through JSON")


@contextmanager
def _holders(
    subject: Subject, kinds: Mapping[str, Callable[..., Field[Any, Any]]], **options: Any
) -> Iterator[list[Holder]]:
    """Make a model with one field for each field type of the plugin.

    Args:
        subject: The plugin.
        kinds: Its field types by name.
        **options: ``unique`` for the field, or class attributes of the model.
    """
    unique = options.pop("unique", False)
    holders: list[Holder] = []
    try:
        for number, (kind, make) in enumerate(kinds.items()):
            try:
                field = make(unique=True) if unique else make()
                model = _make(f"conformance.holder{number}", {"value": field}, **options)
            except (TypeError, EarnORMError) as error:
                if unique:
                    continue  # an array or the like, which refuses it
                raise Broken(
                    f"{kind}() cannot stand in a model without arguments: {error}; give a model with such "
                    f"a field in models=, and leave out fields, unique_nulls and schemas with skip="
                ) from error
            holders.append(Holder(kind, model, "value", _samples(subject, kind, model)))
        yield holders
    finally:
        for holder in holders:
            forget(holder.model)


async def _own_kinds(subject: Subject) -> Mapping[str, Callable[..., Field[Any, Any]]]:
    kinds = (await subject.offer()).kinds
    if not kinds:
        raise NotApplicable("it brings no field types (register_fields)")
    return kinds


def _samples(subject: Subject, kind: str, model: type[BaseModel]) -> Sequence[Any]:
    """Return values that a field type takes: the author's, else those of the suite that fit."""
    given = subject.values.get(kind)
    if given is not None:
        return given
    field = ModelView(model).fields["value"]
    adapter = pydantic.TypeAdapter[Any](field.value_annotation())
    taken: list[Any] = []
    for value in _VALUES:
        try:
            adapter.validate_python(value)
        except pydantic.ValidationError:
            continue
        taken.append(value)
    with suppress(ConfigurationError):  # no value is found from the declaration
        made = Samples()
        taken[_MOST - 2 :] = [made.value(field, number) for number in (1, 2)]
    if not taken:
        raise Broken(
            f"none of the suite's values is a {kind}: give two that are, values={{{kind!r}: [...]}}, or its "
            f"class a method sample(number)"
        )
    return taken[:_MOST]


@contextmanager
def _model(name: str, fields: Mapping[str, Field[Any, Any]]) -> Iterator[type[BaseModel]]:
    model = _make(name, fields)
    try:
        yield model
    finally:
        forget(model)


def _make(name: str, fields: Mapping[str, Field[Any, Any]], **attributes: Any) -> type[BaseModel]:
    body = {
        "_name": name,
        "__module__": __name__,
        "__qualname__": "_make.<locals>.Holder",
        **attributes,
        **fields,
    }
    return type("Holder", (BaseModel,), body)


CHECKS: Final[tuple[Check, ...]] = (operators, fields, unique_nulls, schemas)
