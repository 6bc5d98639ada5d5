"""Patterns of like and ilike: what they match, that the server agrees, and that they stay linear."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pymongo.collection import Collection

from earnorm.domain.folding import fold, fold_mates
from earnorm.domain.like import MAX_PATTERN, LikePattern


def like(pattern: str) -> LikePattern:
    return LikePattern(pattern, anchored=False, ignore_case=False)


def whole(pattern: str, *, ignore_case: bool = False) -> LikePattern:
    return LikePattern(pattern, anchored=True, ignore_case=ignore_case)


@pytest.mark.parametrize(
    ("pattern", "yes", "no"),
    [
        ("jo", ["jo", "major", "jo\njo"], ["Jo", "j o", ""]),
        ("j_o", ["jao", "xj\noy", "j😀o"], ["jo", "jaao"]),
        ("j%o", ["jo", "j\nx\no", "ajxxob"], ["oj", "j"]),
        ("%", ["", "a"], []),
        ("_", ["a", "\n"], [""]),
        ("__", ["ab", "abc"], ["a"]),
        (r"\%", ["5%"], ["5"]),
        (r"\_", ["a_b"], ["ab"]),
        (r"\\", ["a\\b"], ["ab"]),
        (r"\a", ["a"], ["\\"]),
        ("a\\", ["a\\"], ["a"]),
        ("a.c", ["a.c"], ["abc"]),
        ("^a$", ["^a$"], ["a"]),
        ("[a]", ["[a]"], ["a"]),
        ("a\0b", ["a\0b"], ["ab"]),
        ("$ne", ["$ne"], ["ne"]),
    ],
)
def test_like_looks_anywhere(pattern: str, yes: list[str], no: list[str]) -> None:
    assert [text for text in [*yes, *no] if like(pattern).matches(text)] == yes


@pytest.mark.parametrize(
    ("pattern", "yes", "no"),
    [
        ("", [""], ["a"]),
        ("jo", ["jo"], ["jo\n", "joe", "Jo"]),
        ("jo%", ["jo", "joe", "jo\n"], ["major"]),
        ("%jo", ["jo", "banjo"], ["jo\n", "joe"]),
        ("a%a", ["aa", "aba"], ["a", "ab"]),
        ("ab%ba", ["abba", "abxba"], ["aba"]),
        ("%a%b%", ["ab", "xaxbx"], ["ba"]),
        ("a_%", ["ab", "abc"], ["a"]),
        ("_%_", ["ab", "abc"], ["a", ""]),
        ("%_a_%", ["bab", "xxaxx"], ["ba", "ab"]),
        ("%a_c", ["abc", "aabcaxc"], ["abcd"]),
    ],
)
def test_anchored_patterns_describe_the_whole_text(
    pattern: str, yes: list[str], no: list[str]
) -> None:
    assert [text for text in [*yes, *no] if whole(pattern).matches(text)] == yes


def simple_matches(pattern: str, text: str) -> bool:
    """The definition, by dynamic programming over both; slow and plain."""
    reached = {0}
    letters = iter(pattern)
    for letter in letters:
        if letter == "%":
            reached = set(range(min(reached), len(text) + 1)) if reached else set()
            continue
        wanted = next(letters, "\\") if letter == "\\" else None if letter == "_" else letter
        reached = {i + 1 for i in reached if i < len(text) and wanted in (None, text[i])}
    return len(text) in reached


short_patterns = st.text("ab%_\\", max_size=9)
short_texts = st.text("ab", max_size=12) | st.text("ab%_\\", max_size=8)


@settings(max_examples=1000, deadline=None)
@given(short_patterns, short_texts)
def test_memory_the_regex_and_the_definition_agree(pattern: str, text: str) -> None:
    expected = simple_matches(pattern, text)

    assert whole(pattern).matches(text) is expected
    assert bool(re.search(whole(pattern).regex(), text)) is expected
    assert like(pattern).matches(text) is simple_matches(f"%{escaped_end(pattern)}%", text)


def escaped_end(pattern: str) -> str:
    """A backslash at the very end stands for itself; before an added % it must be doubled."""
    backslashes = len(pattern) - len(pattern.rstrip("\\"))
    return pattern + "\\" * (backslashes % 2)


@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(short_patterns, min_size=5, max_size=5), st.lists(short_texts, max_size=20))
def test_the_server_agrees(
    collection: Collection[dict[str, Any]], patterns: list[str], texts: list[str]
) -> None:
    collection.delete_many({})
    collection.insert_many([{"text": text} for text in [*texts, "aab"]])
    for pattern in patterns:
        for parsed in (like(pattern), whole(pattern), whole(pattern, ignore_case=True)):
            found = collection.find({"text": {"$regex": parsed.regex()}})
            expected = [text for text in [*texts, "aab"] if parsed.matches(text)]
            assert [doc["text"] for doc in found] == expected


def test_every_letter_folds_alike_on_the_server(collection: Collection[dict[str, Any]]) -> None:
    letters = sorted(
        {
            variant
            for letter in map(chr, [*range(0xD800), *range(0xE000, 0x20000)])
            if letter.casefold() != letter or letter.upper() != letter or letter.lower() != letter
            for variant in (letter, *letter.upper(), *letter.lower(), *letter.casefold())
        }
    )
    assert len(letters) > 2500
    collection.delete_many({})
    collection.insert_many([{"_id": letter} for letter in letters])
    by_fold: dict[str, set[str]] = {}
    for letter in letters:
        by_fold.setdefault(fold(letter), set()).add(letter)

    for folded, expected in by_fold.items():
        regex = whole(min(expected), ignore_case=True).regex()
        assert {doc["_id"] for doc in collection.find({"_id": {"$regex": regex}})} == expected
        assert set(fold_mates(folded)) == expected


def test_no_letter_with_case_is_left_out_of_the_foldings() -> None:
    for number in [*range(0xD800), *range(0xE000, 0x110000)]:
        letter = chr(number)
        if fold(letter) != letter:
            assert letter in fold_mates(letter)


@pytest.mark.parametrize(
    ("pattern", "yes", "no"),
    [
        ("CAFÉ", ["café", "Café"], ["cafe", "CAFE"]),
        ("straße", ["STRA\u1e9eE", "Straße"], ["strasse"]),
        ("k", ["K", "\u212a"], []),
        ("s", ["S", "\u017f"], []),
        ("i", ["I"], ["\u0131", "\u0130"]),
        ("ΣΟΦΟΣ", ["σοφος", "σοφο\u03c2"], []),
        ("ПРИВЕТ", ["привет"], []),
        ("1_%", ["12", "1a"], ["1"]),
    ],
)
def test_ilike_folds_beyond_ascii_and_keeps_accents(
    pattern: str, yes: list[str], no: list[str]
) -> None:
    parsed = whole(pattern, ignore_case=True)

    assert [text for text in [*yes, *no] if parsed.matches(text)] == yes


@pytest.mark.parametrize(
    ("pattern", "regex"),
    [
        ("caf", r"\Acaf(?!.)"),
        ("caf%", r"\Acaf"),
        ("c.f%", r"\Ac\.f"),
        ("caf%x%", r"\Acaf(?s:(?>.*?x))"),
        ("ca_e%", r"\Aca(?s:.e)"),
    ],
)
def test_the_server_can_read_index_bounds_off_a_leading_text(pattern: str, regex: str) -> None:
    expected = regex.replace("(?!.)", "(?s:(?!.))")
    assert whole(pattern).regex() == expected


def test_a_pattern_that_means_one_text_says_so() -> None:
    assert whole("a.b").literal == "a.b"
    assert whole(r"100\%").literal == "100%"
    assert [p.literal for p in (whole("a%"), whole("a_"), like("a"))] == [None, None, None]
    assert whole("a", ignore_case=True).literal is None


@pytest.mark.parametrize(
    "filler", ["é", "\0", "%é", "_é", "%_", "a%", "[", "\U00010428", "ᾼΙ", "%a_b"]
)
def test_the_longest_patterns_compile_on_the_server(
    collection: Collection[dict[str, Any]], filler: str
) -> None:
    pattern = (filler * MAX_PATTERN)[:MAX_PATTERN]
    text = pattern.replace("%", "").replace("_", "x")
    collection.delete_many({})
    collection.insert_one({"text": text})
    for anchored in (True, False):
        for ignore_case in (True, False):
            parsed = LikePattern(pattern, anchored=anchored, ignore_case=ignore_case)
            assert parsed.matches(text)
            assert collection.count_documents({"text": {"$regex": parsed.regex()}}) == 1


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("a" * 1001, "at most 1,000 characters"),
        (5, "a text, not a int"),
        (None, "a text"),
        (re.compile("a"), "a text, not a Pattern"),
        ("\ud800", "surrogate"),
    ],
)
def test_what_is_no_pattern_is_refused(pattern: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LikePattern(pattern, anchored=False, ignore_case=False)


# Where a naive regular expression backtracks: many parts, almost matching everywhere.
HARD = [
    ("%a" * 20 + "%b", "a" * 100_000, False),
    ("%a" * 20 + "%b", "b" + "a" * 100_000, False),
    ("%a" * 20 + "%b", "a" * 100_000 + "b", True),
    ("%" + "a_" * 100 + "b%c", "a" * 100_000 + "c", False),
    ("%" + "a_" * 100 + "b%c", "a" * 100_000 + "bc", True),
    ("a%" * 50 + "a", "ab" * 50_000, False),
    ("a%" * 50 + "b", "ab" * 50_000, True),
    ("%" + "ab" * 50 + "c", "ab" * 50_000, False),
]


@pytest.mark.parametrize(("pattern", "text", "expected"), HARD)
def test_hard_patterns_are_answered_rightly_on_both_sides(
    collection: Collection[dict[str, Any]], pattern: str, text: str, expected: bool
) -> None:
    collection.delete_many({})
    collection.insert_one({"text": text})
    for ignore_case in (False, True):
        parsed = whole(pattern, ignore_case=ignore_case)
        regex = {"$regex": parsed.regex()}
        assert parsed.matches(text) is expected
        assert collection.count_documents({"text": regex}) == expected
        # The dangerous direction: a match limit that is hit lets the record through here.
        assert collection.count_documents({"text": {"$not": regex}}) == (not expected)


class Counted(str):
    """A text that counts the characters that were looked at."""

    steps = 0

    def __getitem__(self, index: Any) -> str:
        Counted.steps += 1
        return str.__getitem__(self, index)

    def startswith(self, prefix: Any, start: Any = 0, end: Any = None) -> bool:
        Counted.steps += len(prefix)
        return str.startswith(self, prefix, start, end)

    def find(self, part: str, start: Any = 0, end: Any = None) -> int:
        # CPython's find is linear (the two-way algorithm): what lies before the place, and the part.
        found = str.find(self, part, start, end)
        Counted.steps += (found if found >= 0 else len(self) if end is None else end) - start
        Counted.steps += len(part)
        return found


@pytest.mark.parametrize(("pattern", "text", "expected"), HARD)
@pytest.mark.parametrize("anchored", [True, False])
def test_matching_in_memory_is_linear_in_the_text(
    pattern: str, text: str, expected: bool, anchored: bool
) -> None:
    parsed = LikePattern(pattern, anchored=anchored, ignore_case=False)

    def steps(length: int) -> int:
        Counted.steps = 0
        parsed.matches(Counted((text * 2)[:length]))
        return Counted.steps

    # No character is looked at twice, beside those of the pattern's parts.
    assert steps(10_000) <= 10_000 + 2 * len(pattern)
    assert steps(80_000) <= 80_000 + 2 * len(pattern)
    assert steps(80_000) > 0
