"""The law of a record's state: whatever is done to records, memory and database are what the reference says."""

from __future__ import annotations

import contextlib
import copy
import os
from collections.abc import Iterable, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import invariant, precondition, rule, run_state_machine_as_test

from earnorm import Command, FieldNotLoaded, transaction

from .laws import World, world
from .record_kinds import KINDS, LABEL, MEMBER, PERSON, SEAT, TASK, stored
from .record_machine import Pair, Steps, refused
from .record_models import Label, Member, Piece, Task, commands, labels, small, values, which
from .record_reference import Record

CASES = int(os.environ.get("EARNORM_FUZZ_EXAMPLES", "300"))


class Machine(Steps):
    """Adds steps that join records: parents, owners and sets of copies; and transactions."""

    # -- records that delegate ---------------------------------------------------------------------

    def person(self, number: int) -> Pair | None:
        """A stored person, if there is one."""
        people = [p for p in self.pairs if p.ref.kind is PERSON and p.ref.is_stored]
        return people[number % len(people)] if people else None

    @rule(number=which, drawn=values(MEMBER))
    def create_for_a_parent(self, number: int, drawn: Any) -> None:
        if (parent := self.person(number)) is None:
            return
        own, above = ({n: drawn[n] for n in drawn if n in k.keys} for k in (MEMBER, PERSON))
        trial = copy.deepcopy(parent.ref)
        if above and refused(lambda: trial.write(above)):
            return
        self.touch(parent)
        values_given = {**self.handed(drawn), MEMBER.link: parent.real}
        real = self.run(Member.create(values_given))
        if above:
            parent.ref.write(above)
        self.made(real, MEMBER, own, parent)

    @rule(number=which, drawn=values(MEMBER))
    def construct_for_a_parent(self, number: int, drawn: Any) -> None:
        if (parent := self.person(number)) is None:
            return
        own = {n: drawn[n] for n in drawn if n in MEMBER.keys}
        given = {**self.handed(own), MEMBER.link: parent.real}
        real = self.inside(lambda: Member(**given))
        pair = Pair(real, Record(self.store, MEMBER, {**own, MEMBER.link: parent.ref.pk}))
        pair.ref.parent = parent.ref
        self.pairs.append(pair)

    @precondition(lambda self: self.pairs)
    @rule(number=which, other=which)
    def change_the_parent(self, number: int, other: int) -> None:
        pair, parent = self.pair(number), self.person(other)
        if pair.ref.kind is MEMBER and parent is not None:
            self.touch(pair)
            self.inside(lambda: setattr(pair.real, MEMBER.link, parent.real))
            pair.ref.assign(MEMBER.link, parent.ref.pk)
            pair.ref.parent, pair.ref.given = parent.ref, {}

    @precondition(lambda self: self.pairs)
    @rule(number=which, watched=st.booleans())
    def load_the_parent(self, number: int, watched: bool) -> None:
        ref, real = self.pair(number).ref, self.pair(number).real
        if ref.kind is not MEMBER or ref.parent is not None or not ref.is_stored:
            return
        if MEMBER.link in ref.unread:
            return

        async def load() -> None:
            await getattr(real, MEMBER.link)

        def reference() -> None:
            ref.parent = Record.loaded(self.store, PERSON, ref.memory[MEMBER.link])
            ref.given = {}

        self.touch(self.pair(number))
        if self.both(load, reference):
            self.pairs.append(Pair(getattr(real, MEMBER.link), ref.parent, watched))
            if self.block is not None:
                self.loaded.append(self.pairs[-1])
        else:
            ref.lost = True
            names = PERSON.keys - ref.given.keys()
            assert {name: getattr(real, name) for name in names} == dict.fromkeys(names)

    # -- the other side of a link ------------------------------------------------------------------

    @precondition(lambda self: self.pairs)
    @rule(one=small, key=st.sampled_from(["owner_id", "label_ids", "seat_ids"]), drawn=commands)
    def command_the_other_side(self, one: int, key: str, drawn: Any) -> None:
        """Write commands to an owner's tasks, or to a label's; tasks or seats store the links."""
        owner = self.owners[one % 2] if key == "owner_id" else self.labels[one % 3]
        tasks = [p for p in self.pairs if isinstance(p.real, Task) and p.ref.is_stored]
        given: list[tuple[str, list[Any], dict[str, Any]]] = []
        for way, numbers, update in drawn:
            pks = [tasks[n % len(tasks)].ref.pk for n in numbers if tasks]
            given.append((way, list(dict.fromkeys(pks)), update))
        trial = copy.deepcopy(self.store)
        error = refused(lambda: trial.command(TASK, key, owner.pk, given))
        if self.block is not None and error:
            return  # the commands are a block of their own, whose failure ends the transaction
        real = [
            Command.set(Task.browse(pks))
            if way == "set"
            else Command.update(pk, values)
            if way == "update"
            else getattr(Command, way)(pk)
            for way, pks, values in given
            for pk in ([None] if way == "set" else Task.browse(pks))
        ]
        if real:
            self.both(
                lambda: owner.write({self.side(key): real}),
                lambda: copy.deepcopy(self.store).command(TASK, key, owner.pk, given),
            )
            if error is None:  # else it shows what it had loaded
                self.store.documents.update(trial.documents)
                self.look_at(owner, key)

    def look_at(self, owner: Any, key: str) -> None:
        """Compare the tasks that an owner shows with those that are stored."""

        async def load() -> dict[Any, Any]:
            return {task.pk: task.number for task in await getattr(owner, self.side(key))}

        pks = self.store.pointing(TASK, key, owner.pk)
        documents = self.store.of(TASK)
        assert self.run(load()) == {
            pk: documents[pk].get("number", 0) for pk in pks if pk in documents
        }

    @staticmethod
    def side(key: str) -> str:
        return "seated_ids" if key == "seat_ids" else "task_ids"

    @precondition(lambda self: self.pairs)
    @rule(
        number=which,
        drawn=st.lists(st.tuples(st.sampled_from(["link", "unlink", "set"]), labels), max_size=3),
    )
    def command_seats(self, number: int, drawn: Any) -> None:
        """Write commands to a task's labels, whose links are records of their own."""
        pair = self.pair(number)
        task = pair.ref.pk
        if not isinstance(pair.real, Task) or not drawn or not pair.ref.is_stored:
            return
        given = [(way, ids, {}) for way, ids in drawn]
        real = [
            command
            for way, ids in drawn
            for command in (
                [Command.set(Label.browse(ids))]
                if way == "set"
                else [getattr(Command, way)(label) for label in Label.browse(ids)]
            )
        ]
        if not real or pair.ref.is_stale or task not in self.store.of(TASK):
            return
        self.run(pair.real.write({"seat_ids": real}))
        self.store.command(LABEL, "seat_ids", task, given)

        async def load() -> list[Any]:
            return (await pair.real.seat_ids).ids

        assert sorted(self.run(load())) == sorted(self.store.pointing(LABEL, "seat_ids", task))

    # -- transactions ------------------------------------------------------------------------------

    @precondition(lambda self: self.block is None)
    @rule()
    def begin(self) -> None:
        self.block = transaction()
        self.run(self.block.__aenter__())
        self.before = copy.deepcopy(self.store.documents)
        self.restoring, self.seen, self.loaded = {}, [], []
        self.count = len(self.pairs)

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
        for pair in self.loaded:
            self.pairs.remove(pair)  # not loaded any more

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
            if pair.watched:
                for name in ref.kind.keys:
                    self.shows(real, ref, name)
                for name in ref.kind.above.keys if ref.kind.above is not None else ():
                    if ref.parent is not None:
                        self.shows(real, ref.parent, name)
                    elif name in ref.given:
                        assert (name, self.shown(real, name)) == (name, ref.given[name])
                    elif ref.lost:  # until the link is read again
                        with contextlib.suppress(FieldNotLoaded):
                            assert (name, getattr(real, name)) == (name, None)
                    else:
                        with pytest.raises(FieldNotLoaded):
                            getattr(real, name)

    def shows(self, real: Any, ref: Record, name: str) -> None:
        if name in ref.unread:
            with pytest.raises(FieldNotLoaded):
                getattr(real, name)
        else:
            assert (name, self.shown(real, name)) == (name, expected(ref, name))

    @staticmethod
    def shown(real: Any, name: str) -> Any:
        value = getattr(real, name)
        if name in ("owner_id", MEMBER.link):
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
        first, *others = [(kind.collection, {"$set": {"in": kind.collection}}) for kind in KINDS]
        unions = [{"$unionWith": {"coll": c, "pipeline": [tag]}} for c, tag in others]

        async def look() -> Any:
            found = await self.look[0][first[0]].aggregate([first[1], *unions])
            there = {(d.pop("in"), d["_id"]): d async for d in found}
            seats = self.look[0][SEAT.collection].find()
            ends = [{seat["task_id"], seat["label_id"]} async for seat in seats]
            assert sorted(map(in_order, ends)) == sorted(map(in_order, self.store.of(SEAT)))
            return there

        there = self.run(look())
        wanted = {(k.collection, pk): d for k in KINDS for pk, d in self.store.of(k).items()}
        assert there.keys() == wanted.keys(), there.keys() ^ wanted.keys()
        for place, document in wanted.items():
            there[place].pop("_lock", None)  # what a recompute in a transaction takes
            assert sorted(there[place].items()) == sorted(document.items())


def in_order(ends: Iterable[Any]) -> list[str]:
    return sorted(map(str, ends))


def expected(ref: Record, name: str) -> Any:
    """The value that a record shows."""
    if name == ref.kind.link and ref.parent is not None and not ref.parent.is_stored:
        return None  # the transaction that created it was rolled back
    value = stored(ref.memory.get(name))
    return (value or []) if name == "label_ids" else value


@pytest.fixture(scope="module")
def here() -> Iterator[World]:
    with world() as started:
        yield started


def test_a_delegated_value_of_a_gone_parent_reads_as_unset(here: World) -> None:
    """The machine found that its reference called such a value not loaded (of 4,000 cases, one)."""
    Machine.world, Machine.look = here, (here.app.dangerous_raw("the machine looks itself"),)
    machine = Machine()
    machine.begin_anew()
    machine.begin()
    machine.create(new=("member", {"level": 1}), watched=True)
    machine.delete(number=0)
    machine.send_by_pickle(number=1, watched=True)
    machine.load_the_parent(number=2, watched=True)
    assert machine.pairs[2].ref.lost
    machine.memory_is_right()
    machine.teardown()


class Drawn:
    """Data that gives one value."""

    def __init__(self, value: object) -> None:
        self._value = value

    def draw(self, strategy: object) -> object:
        return self._value


def test_the_parent_of_a_link_that_is_read_again_is_not_loaded(here: World) -> None:
    """The machine found that it was where the record had been searched (of 4,000 cases, one)."""
    Machine.world, Machine.look = here, (here.app.dangerous_raw("the machine looks itself"),)
    machine = Machine()
    machine.begin_anew()
    machine.create(new=("member", {"level": 1}), watched=True)
    machine.load(number=1, watched=True, data=Drawn(set()))
    machine.load_the_parent(number=2, watched=True)
    assert machine.pairs[2].ref.parent is not None
    machine.refresh_some(number=2, data=Drawn({"person_id"}))
    assert machine.pairs[2].ref.parent is None
    machine.memory_is_right()
    machine.teardown()


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


@pytest.mark.parametrize("link", [("link", [0], {}), ("set", [0], {})])
def test_a_contradiction_of_commands_is_refused_before_anything_is_looked_for(
    here: World, link: Any
) -> None:
    """The machine found that a record that is gone was told first (of 20,000 cases, one)."""
    Machine.world, Machine.look = here, (here.app.dangerous_raw("the machine looks itself"),)
    machine = Machine()
    machine.begin_anew()
    machine.create(new=("task", {}), watched=False)
    machine.delete(number=0)
    for key in ("owner_id", "label_ids", "seat_ids"):
        machine.command_the_other_side(one=0, key=key, drawn=[("delete", [0], {}), link])
    machine.teardown()
