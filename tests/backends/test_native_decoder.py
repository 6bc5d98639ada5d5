"""The compiled decoder makes the same documents as the driver, and takes nothing that the driver refuses."""

from __future__ import annotations

import contextlib
import gc
import os
import random
import sys
import tracemalloc
from collections.abc import Iterator
from typing import Any

import bson
import pytest
from bson import Int64, ObjectId
from bson.errors import InvalidBSON

from earnorm.backends.base import Document, KeyTree
from earnorm.backends.bson_form import from_bson, to_bson
from earnorm.backends.native import probe, replies
from earnorm.backends.native.interface import Decoder
from earnorm.backends.native.probe import same
from tests.backends.bson_cases import TREE, Cases, declared, elements, framed, without_others
from tests.backends.compiled import compiled

MANY = "EARNORM_FUZZ_EXAMPLES" in os.environ
CASES = 5 * int(os.environ.get("EARNORM_FUZZ_EXAMPLES", "400"))
SEED = random.randrange(2**32) if MANY else 7


@pytest.fixture(scope="module")
def decoder() -> Iterator[Decoder]:
    with compiled() as module:
        yield module


class Keys:
    """The declared keys of a test's documents."""

    def __init__(self, tree: KeyTree | None = TREE) -> None:
        self.tree = tree
        self.noted = 0

    def only(self, documents: list[Document]) -> list[Document]:
        assert self.tree is not None
        return [{k: v for k, v in one.items() if k in self.tree} for one in documents]

    def note_others(self) -> None:
        self.noted += 1


def reply_of(*documents: bytes, batch: str = "firstBatch") -> bytes:
    """Return the bytes of a server's reply with these documents."""
    items = b"".join(b"\x03%d\0" % n + document for n, document in enumerate(documents))
    array = b"\x04" + batch.encode() + b"\0" + framed(items)
    cursor = framed(array + to_bson({"id": Int64(5), "ns": "a.b"})[4:-1])
    return framed(b"\x03cursor\0" + cursor + to_bson({"ok": 1.0})[4:-1])


def through_hook(data: bytes, keys: Keys) -> Any:
    options = replies.options_for(keys)
    assert options is not None
    [reply] = bson.decode_all(memoryview(data), options)
    return reply


def outcome(decode: Any, data: bytes) -> tuple[Any, str]:
    """Return what a decoder makes of bytes, or the error."""
    try:
        return decode(data), ""
    except InvalidBSON as error:
        return None, f"{type(error).__name__}: {error}"


@pytest.mark.fuzz
def test_whole_documents_are_decoded_as_the_driver_decodes_them(decoder: Decoder) -> None:
    cases, plan = Cases(SEED), replies.plan_of(TREE)
    assert plan is not None
    taken = 0
    for number in range(CASES):
        data = cases.encoded()
        wanted = declared(from_bson(data))
        try:
            decoded = decoder.decode(plan, data)
        except InvalidBSON:  # the driver decodes the reply; this must stay rare
            continue
        taken += 1
        assert same(decoded, wanted), (SEED, number, data)
        plan.take_others()
    assert taken > 0.99 * CASES


@pytest.mark.fuzz
def test_a_reply_has_the_driver_s_values_and_its_errors(decoder: Decoder) -> None:
    """The documents lie in a reply, each damaged in its own way; what is refused, the driver refuses in these words."""
    cases, keys = Cases(SEED + 1), Keys()
    refused = accepted = lenient = 0
    for number in range(CASES):
        damaged = cases.damaged(cases.encoded())
        data = (
            reply_of(cases.encoded(), damaged) if number % 3 else cases.damaged(reply_of(damaged))
        )
        decoded, error = outcome(lambda data: through_hook(data, keys), data)
        wanted, refusal = outcome(lambda data: bson.decode_all(data, replies.CODEC)[0], data)
        where = (SEED, number, data)
        if error:
            assert refusal, where  # never a refusal of what it takes
            refused += 1
            continue
        if refusal:
            # The damage lies under undeclared keys, which are not looked at.
            lenient += 1
            sound = [from_bson(without_others(document)) for document in batch_of(data)]
            assert same(batch(decoded), sound), where
            continue
        accepted += 1
        documents = batch(wanted)
        if documents is not None and all(isinstance(one, dict) for one in documents):
            assert same(batch(decoded), [declared(one) for one in documents]), where
    assert refused > CASES / 20 and accepted > CASES / 20 and lenient < CASES / 10


def batch(reply: Any) -> list[Any] | None:
    cursor = reply.get("cursor") if isinstance(reply, dict) else None
    if not isinstance(cursor, dict):
        return None
    found = cursor.get("firstBatch", cursor.get("nextBatch"))
    return found if isinstance(found, list) else None


def batch_of(data: bytes) -> Iterator[bytes]:
    """Yield the bytes of the documents of a reply that was taken."""
    [cursor] = [element for key, element in elements(data) if key == b"cursor"]
    [array] = [e for key, e in elements(cursor[8:]) if key in (b"firstBatch", b"nextBatch")]
    for _, element in elements(array[array.index(0) + 1 :]):
        yield element[element.index(0) + 1 :]


def test_an_error_is_the_driver_s_own(decoder: Decoder) -> None:
    cases, keys = Cases(3), Keys()
    seen = set()
    for _ in range(500):
        data = reply_of(cases.damaged(cases.encoded(others=False)))
        _, error = outcome(lambda data: through_hook(data, keys), data)
        _, refusal = outcome(from_bson, data)
        assert error in ("", refusal)  # an undeclared key's value is not looked at
        seen.add(error)
    assert len(seen) > 5


def test_a_layout_is_learned_and_values_never_come_from_the_template(decoder: Decoder) -> None:
    plan = decoder.Plan([("a", None), ("b", None), ("c", None)])
    layouts: list[Document] = [{"a": 1, "b": 2, "c": 3}, {"c": 1, "a": 2}, {"b": 1}, {}]
    for document in [one for one in layouts for _ in range(4)] + layouts * 3:
        decoded = decoder.decode(plan, to_bson(document))
        assert same(decoded, document)
        decoded["a"] = decoded["more"] = object()  # it is nobody else's


def test_a_key_that_comes_twice_has_its_first_place_and_its_last_value(decoder: Decoder) -> None:
    inner = decoder.Plan([("x", None)])
    plan = decoder.Plan([("a", None), ("b", inner)])
    twice = to_bson({"x": 1})[4:-1] + to_bson({"y": 2, "x": 3})[4:-1]
    data = framed(
        to_bson({"a": [1], "b": 0})[4:-1] + to_bson({"a": "z"})[4:-1] + b"\x03b\0" + framed(twice)
    )
    assert same(decoder.decode(plan, data), {"a": "z", "b": {"x": 3, "y": 2}})


def test_very_deep_values_are_the_driver_s(decoder: Decoder) -> None:
    plan = replies.plan_of({"a": None})
    assert plan is not None
    deep: Any = 1
    for number in range(90):
        deep = {"d": deep} if number % 2 else [deep]
    data = to_bson({"a": deep})
    assert same(decoder.decode(plan, data), from_bson(data))


def test_plans_refuse_what_no_plan_can_do(decoder: Decoder) -> None:
    for fields in ([("$a", None)], [("a\0b", None)], [(f"k{n}", None) for n in range(129)]):
        with pytest.raises(ValueError):
            decoder.Plan(fields)
    for wrong in ([("a", 1)], [("a",)], [(1, None)], ["ab"]):
        with pytest.raises(TypeError):
            decoder.Plan(wrong)  # type: ignore[arg-type] # what is tested
    for arguments in ((), (1, b""), (decoder.Plan([]),), (decoder.Plan([]), "text")):
        with pytest.raises(TypeError):
            decoder.reply(*arguments)  # type: ignore[arg-type] # what is tested
    assert replies.plan_of({f"k{n}": None for n in range(128)}) is not None
    assert replies.plan_of({f"k{n}": None for n in range(129)}) is None
    assert replies.options_for(Keys(None)) is None


def test_other_replies_are_the_driver_s(decoder: Decoder) -> None:
    keys = Keys()
    for reply in (
        {"ok": 0.0, "errmsg": "no", "code": 2},
        {"ok": 1.0, "cursor": {"id": Int64(0)}},
        {"cursor": 1},
        {"cursor": {"firstBatch": 5}},
        {"cursor": {"firstBatch": []}, "x": {"cursor": {"firstBatch": [{"stray": 1}]}}},
    ):
        data = to_bson(reply)
        assert same(through_hook(data, keys), from_bson(data))
    assert keys.noted == 0


def test_the_last_cursor_counts_when_damage_makes_two(decoder: Decoder) -> None:
    one, two = reply_of(to_bson({"name": "a"})), reply_of(to_bson({"name": "b"}))
    data = framed(one[4:-1] + two[4:-1])
    assert same(through_hook(data, Keys()), from_bson(data))


def test_undeclared_keys_are_left_out_and_noted_also_where_the_driver_decodes(
    decoder: Decoder,
) -> None:
    keys = Keys()
    stray = to_bson({"name": "a", "save": 1, "address": {"kept": 1}})
    assert batch(through_hook(reply_of(stray), keys)) == [{"name": "a", "address": {"kept": 1}}]
    assert keys.noted == 1
    reference = to_bson({"name": "a", "$x": 1})  # the decoder leaves such a document to the driver
    assert batch(through_hook(reply_of(stray, reference), keys)) == [
        {"name": "a", "address": {"kept": 1}},
        {"name": "a"},
    ]


def test_the_probe_finds_nothing(decoder: Decoder) -> None:
    assert probe.difference() is None


def test_no_reference_is_kept_or_lost(decoder: Decoder) -> None:
    """After many documents, decoded and refused, there are as many blocks of memory and references as before."""
    documents = 250_000 if MANY else 20_000
    cases, keys = Cases(11), Keys()
    options = replies.options_for(keys)
    pieces = [reply_of(*(cases.encoded() for _ in range(20))) for _ in range(10)]
    pieces += [cases.damaged(piece) for piece in pieces]
    watched = (None, True, False, ObjectId, Int64, bson.Decimal128, from_bson, InvalidBSON, *TREE)

    def turn() -> None:
        for piece in pieces:
            with contextlib.suppress(InvalidBSON):
                bson.decode_all(piece, options)

    def state() -> tuple[int, int, list[int]]:
        gc.collect()
        blocks = sys.getallocatedblocks()
        return blocks, tracemalloc.get_traced_memory()[0], [sys.getrefcount(one) for one in watched]

    for _ in range(5):  # the kept texts and the layouts settle
        turn()
    tracemalloc.start()
    try:
        turn()
        blocks, memory, counts = state()
        for _ in range(documents // (20 * len(pieces))):
            turn()
        blocks_after, memory_after, counts_after = state()
    finally:
        tracemalloc.stop()
    assert blocks_after - blocks < 200 and memory_after - memory < 50_000
    # None is in the interpreter's own books, so it moves by some.
    assert all(abs(after - before) < 20 for before, after in zip(counts, counts_after, strict=True))
