"""The law of a record's state: whatever is done to records, memory and database are what the reference says."""

from __future__ import annotations

import copy
import os
import pickle
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from earnorm import (
    Command,
    EarnORMError,
    Embedded,
    EmbeddedModel,
    Inc,
    Int,
    Json,
    List,
    Many2many,
    Many2one,
    One2many,
    Push,
    RecordSet,
    String,
    depends,
    mixins,
    models,
    transaction,
)

from .laws import World, world
from .record_reference import Kind, Part, Record, Refused, Store, stored

CASES = int(os.environ.get("EARNORM_FUZZ_EXAMPLES", "300"))


class Piece(EmbeddedModel):
    sku = String(db_name="s")
    qty = Int(default=0)


class Owner(models.BaseModel):
    _name = "machine.owner"
    name = String()
    task_ids = One2many("machine.task", "owner_id")


class Label(models.BaseModel):
    _name = "machine.label"
    _id = String()
    name = String()
    task_ids = Many2many("machine.task", inverse="label_ids")


class Task(mixins.SoftDelete, models.BaseModel):
    _name = "machine.task"
    _discriminator = "kind"
    title = String(db_name="t")
    number = Int(default=0)
    nums = List(Int())
    meta = Json()
    main = Embedded(Piece)
    parts = List(Embedded(Piece), default=list)
    owner_id = Many2one(Owner)
    label_ids = Many2many(Label)
    full = String(default="- -")
    first = String(compute="_first", inverse="_set_first")
    last = String(compute="_last", inverse="_set_last")
    size = Int(compute="_size", store=True)

    @depends("full")
    def _first(self) -> str:
        return (self.full or "- -").split(" ")[0]

    @depends("full")
    def _last(self) -> str:
        return (self.full or "- -").split(" ")[1]

    def _set_first(self, value: str) -> None:
        self.full = f"{value} {(self.full or '- -').split(' ')[1]}"

    def _set_last(self, value: str) -> None:
        self.full = f"{(self.full or '- -').split(' ')[0]} {value}"

    @depends("number", "parts.qty")
    def _size(self) -> int:
        return (self.number or 0) + sum(part.qty or 0 for part in self.parts or ())


class Bug(Task):
    _name = "machine.bug"
    severity = Int()


class Note(models.BaseModel):
    _name = "machine.note"
    _versioned = True
    text = String(db_name="x")
    nums = List(Int(), default=list)
    main = Embedded(Piece)
    parts = List(Embedded(Piece))
    label_ids = Many2many(Label)


def size(document: Mapping[str, Any]) -> dict[str, Any]:
    parts = document.get("parts") or ()
    return {"size": (document.get("number") or 0) + sum(part.get("qty") or 0 for part in parts)}


def keys(text: str) -> dict[str, str]:
    return {name: key or name for name, _, key in (each.partition("=") for each in text.split())}


TASK = Kind(
    "machine.task",
    keys("title=t number nums meta main parts owner_id label_ids full active"),
    {"number": 0, "parts": [], "full": "- -", "active": True},
    embedded=frozenset({"main"}),
    lists=frozenset({"parts"}),
    constants={"kind": "machine.task"},
    computed=size,
)
BUG = Kind(
    TASK.name,
    {**TASK.keys, "severity": "severity"},
    TASK.defaults,
    TASK.embedded,
    TASK.lists,
    {"kind": "machine.bug"},
    computed=size,
)
NOTE = Kind(
    "machine.note",
    keys("text=x nums main parts label_ids"),
    {"nums": []},
    embedded=frozenset({"main"}),
    lists=frozenset({"parts"}),
    versioned=True,
)
MODELS: Mapping[str, tuple[type[models.BaseModel], Kind]] = {
    "task": (Task, TASK),
    "bug": (Bug, BUG),
    "note": (Note, NOTE),
}


small = st.integers(0, 3)
text = st.sampled_from(["a", "b"])
part = st.builds(Part, st.fixed_dictionaries({}, optional={"sku": text, "qty": small}))
part = part.map(lambda p: Part({"qty": 0, **p.values}))
meta = st.one_of(small, st.fixed_dictionaries({"k": st.lists(small, max_size=2)}))
labels = st.lists(st.sampled_from(["x", "y", "z"]), unique=True, max_size=3)
OPTIONAL: Mapping[str, st.SearchStrategy[Any]] = {
    "title": text | st.none(),
    "text": text | st.none(),
    "number": small,
    "nums": st.none() | st.lists(small, max_size=2),
    "meta": st.none() | meta,
    "main": st.none() | part,
    "parts": st.lists(part, max_size=2),
    "severity": small | st.none(),
    "label_ids": labels,
    "full": st.sampled_from(["a b", "c d"]),
    "owner_id": st.none() | st.sampled_from([0, 1]),
}


def values(kind: Kind) -> st.SearchStrategy[dict[str, Any]]:
    optional = {name: OPTIONAL[name] for name in kind.keys if name in OPTIONAL}
    return st.fixed_dictionaries({}, optional=optional)


kinds = st.sampled_from([*MODELS])
new = kinds.flatmap(lambda k: st.tuples(st.just(k), values(MODELS[k][1])))
which = st.integers(0, 5)


def refuses(ref: Record) -> bool:
    """Return whether a save of this record alone is refused."""
    trial = ref.twin()
    trial.store = copy.deepcopy(ref.store)
    try:
        trial.save()
    except Refused:
        return True
    return False


def cannot_write(ref: Record) -> bool:
    """Return whether a write to this record is refused."""
    try:
        ref.may_write()
    except Refused:
        return True
    return False


class Pair:
    """A record and its reference; ``watched`` if each step looks at its values."""

    def __init__(self, real: Any, ref: Record, watched: bool = True) -> None:
        self.real, self.ref, self.watched = real, ref, watched
        self.hash: int | None = None


class Machine(RuleBasedStateMachine):
    """Steps for records of all models; each is done to the library's records and the reference's."""

    world: World
    look: tuple[Any]

    def __init__(self) -> None:
        super().__init__()
        self.store = Store()
        self.pairs: list[Pair] = []
        self.held: list[tuple[Any, Any]] = []
        self.block: Any = None
        self.before: dict[str, Any] = {}
        self.restoring: dict[int, Any] = {}
        self.seen: list[Pair] = []

    def run(self, step: Any) -> Any:
        return self.world.result(step)

    def inside(self, call: Any) -> Any:
        """Call something where the transaction is running."""

        async def run() -> Any:
            return call()

        return self.run(run())

    def both(self, real: Any, reference: Any) -> bool:
        """Do a step to both; both must refuse it with the same error, or neither."""
        refused = happened = None
        answer = expected = None
        try:
            expected = reference()
        except Refused as error:
            refused = str(error)
        try:
            answer = self.run(real())
        except EarnORMError as error:
            happened = type(error).__name__
        assert happened == refused
        if refused is None and isinstance(expected, int):
            assert answer == expected
        return refused is None

    # -- the values of both ------------------------------------------------------------------------

    def given(self, value: Any) -> Any:
        """A value of the reference as it is handed to the library."""
        if isinstance(value, Part):
            return Piece(**value.values)
        if isinstance(value, list):
            return [self.given(item) for item in value]
        return {k: self.given(v) for k, v in value.items()} if isinstance(value, dict) else value

    def own(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Drawn values for the reference: numbers of owners become their ids."""
        own = copy.deepcopy(dict(given))
        if own.get("owner_id") is not None:
            own["owner_id"] = self.owners[own["owner_id"]].pk
        return own

    def handed(self, own: Mapping[str, Any]) -> dict[str, Any]:
        return {name: self.given(value) for name, value in own.items()}

    def pair(self, number: int) -> Pair:
        return self.pairs[number % len(self.pairs)]

    def touch(self, *pairs: Pair) -> None:
        if self.block is not None:
            for pair in pairs:
                self.restoring.setdefault(id(pair.ref), pair.ref.remember())

    # -- the beginning -----------------------------------------------------------------------------

    @initialize()
    def begin_anew(self) -> None:
        async def prepare() -> None:
            for name in ("machine_task", "machine_note", "machine_owner", "machine_label"):
                await self.look[0][name].delete_many({})
            self.owners = list(await Owner.create([{"name": "o"}, {"name": "p"}]))
            self.labels = list(await Label.create([{"_id": i, "name": i} for i in "xyz"]))

        self.run(prepare())

    # -- steps -------------------------------------------------------------------------------------

    @rule(new=new, watched=st.booleans())
    def construct(self, new: Any, watched: bool) -> None:
        model, kind = MODELS[new[0]]
        own = self.own(new[1])
        self.pairs.append(Pair(model(**self.handed(own)), Record(self.store, kind, own), watched))

    @rule(new=new, watched=st.booleans())
    def create(self, new: Any, watched: bool) -> None:
        model, kind = MODELS[new[0]]
        own = self.own(new[1])
        real = self.run(model.create(self.handed(own)))
        pair = Pair(real, Record(self.store, kind, own), watched)
        self.touch(pair)
        pair.ref.pk = real.pk
        pair.ref.insert()
        self.pairs.append(pair)

    @precondition(lambda self: self.pairs)
    @rule(number=which, watched=st.booleans())
    def load(self, number: int, watched: bool) -> None:
        of = self.pair(number)
        if of.ref.pk is None or of.ref.pk not in self.store.of(of.ref.kind):
            return
        real = self.run(type(of.real).get(of.ref.pk))
        pair = Pair(real, Record.loaded(self.store, of.ref.kind, of.ref.pk), watched)
        self.pairs.append(pair)
        if self.block is not None:
            self.seen.append(pair)

    @precondition(lambda self: self.pairs)
    @rule(number=which, data=st.data())
    def assign(self, number: int, data: Any) -> None:
        pair = self.pair(number)
        name = data.draw(st.sampled_from([n for n in pair.ref.kind.keys if n in OPTIONAL]))
        own = self.own({name: data.draw(OPTIONAL[name])})
        self.touch(pair)
        self.inside(lambda: setattr(pair.real, name, self.handed(own)[name]))
        pair.ref.assign(name, own[name])

    @precondition(lambda self: self.pairs)
    @rule(number=which, first=text, last=text)
    def assign_inverses(self, number: int, first: str, last: str) -> None:
        pair = self.pair(number)
        if "full" in pair.ref.kind.keys:
            self.touch(pair)
            self.inside(lambda: setattr(pair.real, "first", first))
            self.inside(lambda: setattr(pair.real, "last", last))
            pair.ref.assign("full", f"{first} {last}")

    @precondition(lambda self: self.pairs)
    @rule(number=which, name=st.sampled_from(["nums", "meta", "main", "parts"]))
    def hold(self, number: int, name: str) -> None:
        """Hold a value, to change it in place later."""
        pair = self.pair(number)
        value = pair.ref.memory.get(name) if name in pair.ref.kind.keys else None
        if isinstance(value, list | dict | Part):
            self.held.append((getattr(pair.real, name), value))
        if name == "parts" and value:
            self.held.append((pair.real.parts[0], value[0]))
        if isinstance(value, dict):
            self.held.append((pair.real.meta["k"], value["k"]))

    @precondition(lambda self: self.held)
    @rule(number=which, way=st.sampled_from(["add", "first", "drop"]), value=small, item=part)
    def poke(self, number: int, way: str, value: int, item: Part) -> None:
        """Change a held value in place."""
        real, ref = self.held[number % len(self.held)]
        if isinstance(ref, Part):
            if ref.values.get("qty") == value:
                return  # an assignment counts as a change, also of the same value
            real.qty = ref.values["qty"] = value
        elif isinstance(ref, dict):
            real["k"], ref["k"] = [value], [value]
        elif way == "drop":
            del real[:1], ref[:1]
        else:
            own: Any = value
            if (ref and isinstance(ref[0], Part)) or (real and isinstance(real[0], Piece)):
                own = copy.deepcopy(item)
            elif not ref:
                return  # an empty list does not say what it is of
            place = len(ref) if way == "add" else 0
            real.insert(place, self.given(own))
            ref.insert(place, own)

    @precondition(lambda self: self.pairs)
    @rule(number=which)
    def save(self, number: int) -> None:
        pair = self.pair(number)
        self.save_all([pair], lambda: pair.real.save())

    @precondition(lambda self: self.pairs)
    @rule(numbers=st.lists(which, min_size=1, max_size=4), family=st.sampled_from([Task, Note]))
    def save_set(self, numbers: list[int], family: Any) -> None:
        """Save several at once, some of them more than once."""
        pairs = [p for n in numbers if isinstance((p := self.pair(n)).real, family)]
        # Two copies of one record are another law's.
        ids = {id(p.ref): p.ref.pk for p in pairs if p.ref.pk is not None}
        if len(set(ids.values())) < len(ids):
            return
        if pairs and not any(pair.ref.is_changed and refuses(pair.ref) for pair in pairs):
            records = RecordSet(family, [pair.real for pair in pairs])
            self.save_all(list(dict.fromkeys(pairs)), lambda: records.save())

    def save_all(self, pairs: list[Pair], real: Any) -> None:
        changed = [pair for pair in pairs if pair.ref.is_changed]
        self.touch(*changed)
        new = [pair for pair in changed if not pair.ref.is_stored]

        def reference() -> None:
            for pair in changed:
                if pair in new and pair.ref.pk is None:
                    pair.ref.pk = pair  # a place, until the library has drawn one
                pair.ref.save()

        self.both(real, reference)
        for pair in new:
            self.placed(pair)

    def placed(self, pair: Pair) -> None:
        if pair.ref.pk is pair:
            documents = self.store.of(pair.ref.kind)
            pair.ref.pk = pair.real.pk
            if pair in documents:
                documents[pair.ref.pk] = {**documents.pop(pair), "_id": pair.ref.pk}

    @precondition(lambda self: self.pairs)
    @rule(number=which, data=st.data())
    def write(self, number: int, data: Any) -> None:
        pair = self.pair(number)
        own = self.own(data.draw(values(pair.ref.kind)))
        if own:
            self.touch(pair)
            self.both(lambda: pair.real.write(self.handed(own)), lambda: pair.ref.write(own))

    @precondition(lambda self: self.pairs)
    @rule(number=which, value=small)
    def let_the_server_change(self, number: int, value: int) -> None:
        pair = self.pair(number)
        document = self.store.of(pair.ref.kind).get(pair.ref.pk, {})
        self.touch(pair)
        if "number" in pair.ref.kind.keys and document.get("number", 0) is not None:

            def add(d: dict[str, Any], key: str) -> None:
                d[key] = d.get(key, 0) + value

            self.both(
                lambda: pair.real.write({"number": Inc(value)}),
                lambda: pair.ref.change("number", add),
            )
        elif "number" not in pair.ref.kind.keys and document.get("nums", 0) is not None:

            def push(d: dict[str, Any], key: str) -> None:
                d[key] = [*d.get(key, []), value]

            self.both(
                lambda: pair.real.write({"nums": Push(value)}),
                lambda: pair.ref.change("nums", push),
            )

    @precondition(lambda self: self.pairs)
    @rule(
        number=which,
        commands=st.lists(st.tuples(st.sampled_from(["link", "unlink"]), labels), max_size=4),
    )
    def command(self, number: int, commands: Any) -> None:
        pair = self.pair(number)
        given = [
            getattr(Command, c)(self.labels["xyz".index(i)]) for c, ids in commands for i in ids
        ]
        if not given or "label_ids" in pair.ref.pending():
            return
        if self.block is not None and cannot_write(pair.ref):
            return  # the commands are a block of their own, whose failure ends the transaction
        self.touch(pair)

        def change(links: list[Any] | None) -> list[Any] | None:
            # A link that is taken away and made again in one list of commands keeps its place.
            added: list[str] = []
            removed: set[str] = set()
            for command, ids in commands:
                for pk in ids:
                    if command == "unlink":
                        added = [link for link in added if link != pk]
                        removed.add(pk)
                    elif pk not in added:
                        added.append(pk)
                        removed.discard(pk)
            kept = [link for link in links or () if link not in removed]
            changed = kept + [link for link in added if link not in kept]
            return changed if changed or links is not None else None

        def reference() -> None:
            ref = pair.ref
            ref.may_write()
            memory = change(ref.memory.get("label_ids"))

            def apply(document: dict[str, Any]) -> None:
                if (links := change(document.get("label_ids"))) is not None:
                    document["label_ids"] = links

            self.store.change(ref.kind, ref.pk, apply)
            if memory is not None:
                ref.memory["label_ids"] = memory
            ref.settle(["label_ids"])

        self.both(lambda: pair.real.write({"label_ids": given}), reference)

    @precondition(lambda self: self.pairs)
    @rule(number=which)
    def make_a_copy(self, number: int) -> None:
        pair = self.pair(number)
        if pair.ref.is_stale or not pair.ref.is_stored:
            return
        real = self.run(pair.real.copy())
        ref = Record(self.store, pair.ref.kind, pair.ref.memory)
        if "active" in ref.kind.keys:
            ref.memory["active"] = True
        made = Pair(real, ref)
        self.touch(made)
        ref.pk = real.pk
        ref.insert()
        self.pairs.append(made)

    @precondition(lambda self: self.pairs)
    @rule(number=which)
    def refresh(self, number: int) -> None:
        pair = self.pair(number)
        if pair.ref.is_stored:
            if pair not in self.seen:  # what was first seen in the transaction becomes stale
                self.touch(pair)
            self.both(lambda: pair.real.refresh(), lambda: pair.ref.load(pair.ref.pk))

    @precondition(lambda self: self.pairs)
    @rule(number=which, watched=st.booleans())
    def send_by_pickle(self, number: int, watched: bool) -> None:
        pair = self.pair(number)
        if not pair.ref.is_stale:
            twin = pair.ref.twin()
            if not twin.is_stored:
                twin.pk = None
            real = self.inside(lambda: pickle.loads(pickle.dumps(pair.real)))
            sent = Pair(real, twin, watched)
            self.pairs.append(sent)
            if self.block is not None and twin.is_stored:
                self.seen.append(sent)

    @precondition(lambda self: self.pairs)
    @rule(number=which)
    def archive(self, number: int) -> None:
        pair = self.pair(number)
        if "active" in pair.ref.kind.keys:
            self.touch(pair)
            self.both(lambda: pair.real.archive(), lambda: pair.ref.write({"active": False}))

    @precondition(lambda self: self.pairs)
    @rule(number=which)
    def delete(self, number: int) -> None:
        pair = self.pair(number)
        if pair.ref.is_stored:
            self.both(lambda: pair.real.unlink(), lambda: pair.ref.delete())

    @precondition(lambda self: self.pairs and self.block is None)
    @rule(number=which, value=small, way=st.sampled_from(["key", "qty", "none", "items"]))
    def another_program(self, number: int, value: int, way: str) -> None:
        """Another program, which knows more keys, writes to the document."""
        pair = self.pair(number)
        document = self.store.of(pair.ref.kind).get(pair.ref.pk)
        if document is None:
            return
        change: dict[str, Any] = {}
        if way == "none":
            change = {"main": None}
        elif way == "items" and document.get("parts"):
            change = {"parts.0.zip": value}
            document["parts"][0]["zip"] = value
        elif isinstance(document.get("main"), dict):
            key = "zip" if way == "key" else "qty"
            change = {f"main.{key}": value}
            document["main"][key] = value
        if way == "none":
            document["main"] = None
        if change:
            name = pair.ref.kind.name.replace(".", "_")
            self.run(self.look[0][name].update_one({"_id": pair.ref.pk}, {"$set": change}))

    # -- transactions ------------------------------------------------------------------------------

    @precondition(lambda self: self.block is None)
    @rule()
    def begin(self) -> None:
        self.block = transaction()
        self.run(self.block.__aenter__())
        self.before = copy.deepcopy(self.store.documents)
        self.restoring, self.seen = {}, []

    @precondition(lambda self: self.block is not None)
    @rule()
    def commit(self) -> None:
        self.run(self.block.__aexit__(None, None, None))
        self.block = None

    @precondition(lambda self: self.block is not None)
    @rule()
    def roll_back(self) -> None:
        error = RuntimeError()
        self.run(self.block.__aexit__(RuntimeError, error, None))
        self.block = None
        self.store.documents.clear()
        self.store.documents.update(self.before)
        for restore in self.restoring.values():
            restore()
        for pair in self.seen:
            pair.ref.is_stale = True

    def teardown(self) -> None:
        if self.block is not None:
            self.commit()
            self.database_is_right()
        for pair in self.pairs:
            pair.watched = True
        self.memory_is_right()

    # -- the law -----------------------------------------------------------------------------------

    @invariant()
    def memory_is_right(self) -> None:
        for pair in self.pairs:
            real, ref = pair.real, pair.ref
            assert real.is_stored == ref.is_stored
            assert real.pk == (ref.pk if ref.is_stored else None)
            assert real.is_changed == ref.is_changed
            assert real.is_stale == ref.is_stale
            for name in ref.kind.keys if pair.watched else ():
                expected = stored(ref.memory.get(name))
                if name == "label_ids":
                    expected = expected or []
                assert (name, self.shown(real, name)) == (name, expected)

    @staticmethod
    def shown(real: Any, name: str) -> Any:
        value = getattr(real, name)
        if name == "owner_id":
            return value and value.pk
        if name == "label_ids":
            return value.ids
        if isinstance(value, Piece):
            return value._stored()
        if isinstance(value, list):
            return [v._stored() if isinstance(v, Piece) else v for v in value]
        return value

    @invariant()
    def database_is_right(self) -> None:
        if self.block is not None:
            return
        for kind in (TASK, NOTE):

            async def look(name: str = kind.name.replace(".", "_")) -> Any:
                return {d["_id"]: d async for d in self.look[0][name].find()}

            there, expected = self.run(look()), self.store.of(kind)
            assert there.keys() == expected.keys()
            for pk, document in expected.items():
                there[pk].pop("_lock", None)  # what a recompute in a transaction takes
                assert sorted(there[pk].items()) == sorted(document.items())


@pytest.fixture(scope="module")
def here() -> Iterator[World]:
    with world() as started:
        yield started


@pytest.mark.fuzz
def test_memory_and_database_are_what_the_reference_says(here: World) -> None:
    Machine.world = here
    Machine.look = (here.app.dangerous_raw("the machine looks itself"),)
    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=CASES,
            stateful_step_count=20,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
