"""The machine's steps for single records and sets: each is done to the library's records and the reference's."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Mapping
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from earnorm import Command, EarnORMError, Inc, Push, RecordSet

from .laws import World
from .record_kinds import KINDS, LABEL, SEAT, Kind, Part, lacking
from .record_models import (
    INSIDE,
    MODELS,
    OPTIONAL,
    Label,
    Member,
    Note,
    Owner,
    Person,
    Piece,
    Task,
    labels,
    new,
    part,
    small,
    text,
    values,
    which,
)
from .record_reference import Record, Refused, Store


def refused(step: Callable[[], object]) -> str | None:
    """Do a step to the reference; return the name of the error by which it is refused."""
    try:
        step()
    except Refused as error:
        return str(error)
    return None


def cannot_save(ref: Record) -> bool:
    """Return whether a save of this record alone is refused."""
    trial = ref.twin()
    trial.store = copy.deepcopy(ref.store)
    return refused(trial.save) is not None


FAMILIES = (Task, Note, Person, Member)


class Pair:
    """A record and its reference; ``watched`` if each step looks at its values."""

    def __init__(self, real: Any, ref: Record, watched: bool = True) -> None:
        self.real, self.ref, self.watched = real, ref, watched
        self.hash: int | None = None


class Steps(RuleBasedStateMachine):
    """Steps for records of all models."""

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
        happened = answer = None
        expected: list[Any] = []
        error = refused(lambda: expected.append(reference()))
        try:
            answer = self.run(real())
        except EarnORMError as raised:
            happened = type(raised).__name__
        assert happened == error, (happened, error)
        if expected and isinstance(expected[0], int):
            assert answer == expected[0]
        return error is None

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
        """Remember records that a step in a transaction changes, and those that they delegate to."""
        if self.block is not None:
            for ref in (ref for pair in pairs for ref in (pair.ref, pair.ref.parent)):
                if ref is not None and id(ref) not in self.restoring:
                    self.restoring[id(ref)] = ref.remember()

    def made(self, real: Any, kind: Kind, own: Mapping[str, Any], parent: Any = None) -> Pair:
        """The pair of a record that the library has created, and one of the parent created with it."""
        pair = Pair(real, Record(self.store, kind, {n: own[n] for n in own if n in kind.keys}))
        if kind.above is not None:
            above = {n: own[n] for n in own if n not in kind.keys}
            parent = parent or self.made(getattr(real, kind.link), kind.above, above)
            pair.ref.parent, pair.ref.memory[kind.link] = parent.ref, parent.ref.pk
        self.touch(pair)
        pair.ref.pk = real.pk
        pair.ref.insert()
        self.pairs.append(pair)
        return pair

    # -- the beginning -----------------------------------------------------------------------------

    @initialize()
    def begin_anew(self) -> None:
        async def prepare() -> None:
            for kind in (*KINDS, SEAT):
                await self.look[0][kind.collection].delete_many({})
            if not await Owner.count():
                await Owner.create([{"name": "o"}, {"name": "p"}])
                await Label.create([{"_id": i, "name": i} for i in "xyz"])
            self.owners = list(await Owner.search(order="_id"))
            self.labels = list(await Label.search(order="_id"))
            self.store.of(LABEL).update({label.pk: {"_id": label.pk} for label in self.labels})

        self.run(prepare())

    # -- steps -------------------------------------------------------------------------------------

    @rule(new=new, watched=st.booleans())
    def construct(self, new: Any, watched: bool) -> None:
        model, kind = MODELS[new[0]]
        if kind.above is None:
            own = self.own(new[1])
            ref = Record(self.store, kind, own)
            self.pairs.append(Pair(model(**self.handed(own)), ref, watched))

    @rule(new=new, watched=st.booleans())
    def create(self, new: Any, watched: bool) -> None:
        model, kind = MODELS[new[0]]
        own = self.own(new[1])
        self.made(self.run(model.create(self.handed(own))), kind, own).watched = watched

    @precondition(lambda self: self.pairs)
    @rule(number=which, watched=st.booleans(), data=st.data())
    def load(self, number: int, watched: bool, data: Any) -> None:
        """Load a record, or with ``only()`` some of its fields and of those inside them."""
        of = self.pair(number)
        kind, pk = of.ref.kind, of.ref.pk
        if pk is None or pk not in self.store.of(kind):
            return
        paths = [p for p in (*kind.keys, *INSIDE) if p.partition(".")[0] in kind.keys]
        only = data.draw(st.just(set()) | st.sets(st.sampled_from(paths), max_size=4))
        query = type(of.real).search([("_id", "=", pk)])
        query = query.with_archived() if "active" in kind.keys else query
        (real,) = self.run(query.only(*only) if only else query)
        pair = Pair(real, Record.loaded(self.store, kind, pk, only), watched)
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
        if "full" in pair.ref.kind.keys and "full" not in pair.ref.unread:
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
            ref.lacks.discard("qty")
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
    @rule(numbers=st.lists(which, min_size=1, max_size=4), family=st.sampled_from(FAMILIES))
    def save_set(self, numbers: list[int], family: Any) -> None:
        """Save several at once, some of them more than once, and the copies of the first."""
        pairs = [p for n in numbers if isinstance((p := self.pair(n)).real, family)]
        pairs += [p for p in self.pairs if pairs and p.ref.pk == pairs[0].ref.pk is not None]
        if any(pair.ref.is_changed and cannot_save(pair.ref) for pair in pairs):
            # Changes of an older and a newer copy are refused before anything is written.
            pk = pairs[0].ref.pk
            pairs = [p for p in pairs if p.ref.pk == pk is not None and not p.ref.is_stale]
            if len({pair.ref.revision for pair in pairs if pair.ref.pending()}) < 2:
                return
        if pairs:
            records = RecordSet(family, [pair.real for pair in pairs])
            self.save_all(list(dict.fromkeys(pairs)), lambda: records.save())

    def save_all(self, pairs: list[Pair], real: Any) -> None:
        self.touch(*pairs)
        new = [pair for pair in pairs if not pair.ref.is_stored]
        groups: dict[Any, list[Record]] = {}
        for pair in pairs:
            if pair in new and pair.ref.pk is None:
                pair.ref.pk = pair  # a place, until the library has drawn one
            groups.setdefault((pair.ref.kind.name, pair.ref.pk), []).append(pair.ref)

        def reference() -> None:
            trial = copy.deepcopy([*groups.values()], {id(self.store): copy.deepcopy(self.store)})
            for copies in [*trial, *groups.values()]:  # all are checked before one is written
                copies[0].save(copies)

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
        is_split = not own.keys() <= pair.ref.kind.keys.keys()
        trial = copy.deepcopy(pair.ref)
        if is_split and self.block is not None and refused(lambda: trial.write(own)):
            return  # the parts are a block of their own, whose failure ends the transaction
        if own and not (is_split and not pair.ref.is_stored):
            self.touch(pair)
            self.both(lambda: pair.real.write(self.handed(own)), lambda: pair.ref.write(own))

    @precondition(lambda self: self.pairs)
    @rule(number=which, value=small)
    def let_the_server_change(self, number: int, value: int) -> None:
        pair = self.pair(number)
        document = self.store.of(pair.ref.kind).get(pair.ref.pk, {})
        name = next(n for n in ("number", "level", "code", "nums") if n in pair.ref.kind.keys)
        if document.get(name, 0) is None:
            return
        self.touch(pair)

        def change(d: dict[str, Any], key: str) -> None:
            d[key] = [*d.get(key, []), value] if name == "nums" else d.get(key, 0) + value

        given = Push(value) if name == "nums" else Inc(value)
        self.both(lambda: pair.real.write({name: given}), lambda: pair.ref.change(name, change))

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
        if not given or "label_ids" not in pair.ref.kind.keys:
            return
        if "label_ids" in pair.ref.pending():
            return
        if self.block is not None and refused(pair.ref.may_write):
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
            memory = change(ref.memory.get("label_ids")) if "label_ids" not in ref.unread else None

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
        kind, own = pair.ref.kind, dict(pair.ref.memory)
        if any(map(lacking, own.values())) or pair.ref.pk not in self.store.of(kind):
            return
        for name in pair.ref.unread:  # it is read first
            read = Record.loaded(self.store, kind, pair.ref.pk).memory
            own |= {name: read[name]} if name in read else {}
        if kind.above is not None:
            link = own.pop(kind.link)
            if pair.ref.parent is None and link not in self.store.of(kind.above):
                return
            parent = pair.ref.parent or Record.loaded(self.store, kind.above, link)
            own |= parent.memory
        if "active" in kind.keys:
            own["active"] = True
        self.made(self.run(pair.real.copy()), kind, own)

    @precondition(lambda self: self.pairs)
    @rule(number=which)
    def refresh(self, number: int) -> None:
        pair = self.pair(number)
        if pair.ref.is_stored:
            if pair not in self.seen:  # what was first seen in the transaction becomes stale
                self.touch(pair)
            self.both(lambda: pair.real.refresh(), lambda: pair.ref.load(pair.ref.pk))

    @precondition(lambda self: self.pairs)
    @rule(number=which, data=st.data())
    def refresh_some(self, number: int, data: Any) -> None:
        pair = self.pair(number)
        names = data.draw(st.sets(st.sampled_from([*pair.ref.kind.keys]), min_size=1, max_size=2))
        if pair.ref.is_stored:
            self.touch(pair)
            self.both(lambda: pair.real.refresh(*names), lambda: pair.ref.load(pair.ref.pk, names))

    @precondition(lambda self: self.pairs)
    @rule(number=which, watched=st.booleans())
    def send_by_pickle(self, number: int, watched: bool) -> None:
        pair = self.pair(number)
        if not pair.ref.is_stale:
            twin = pair.ref.twin()
            if not twin.is_stored:
                twin.pk = None
            real = self.inside(lambda: pickle.loads(pickle.dumps(pair.real)))
            if not twin.is_stored and pair.ref.parent and not pair.ref.parent.is_stored:
                return  # both have a new id each, which the machine cannot know
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
            collection = self.look[0][pair.ref.kind.collection]
            self.run(collection.update_one({"_id": pair.ref.pk}, {"$set": change}))
