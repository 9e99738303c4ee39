"""Bytes → text that is safe to show, however the bytes are cut."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coderv2_local.stream import decode_utf8, printable, until


def cut(data, places):
    """`data` cut at `places` (any numbers)."""
    ends = sorted({p % (len(data) + 1) for p in places} | {len(data)})
    return [data[a:b] for a, b in zip([0, *ends], ends, strict=False)]


@given(st.text(), st.lists(st.integers(0, 10_000)))
def test_characters_split_over_tokens_come_out_whole(text, places):
    data = text.encode("utf-8", "surrogatepass") if text.isascii() else text.encode("utf-8", "replace")
    assert "".join(decode_utf8(cut(data, places))) == data.decode("utf-8")


@given(st.binary(), st.lists(st.integers(0, 10_000)))
def test_impossible_bytes_become_the_replacement_character(data, places):
    assert "".join(decode_utf8(cut(data, places))) == data.decode("utf-8", "replace")


@settings(max_examples=500)
@given(st.text("ab\n"), st.lists(st.integers(0, 100)), st.lists(st.text("ab\n", max_size=4), max_size=3))
def test_a_stop_string_ends_the_stream_wherever_it_is_cut(text, places, stops):
    ends = [text.find(stop) for stop in stops if stop and stop in text]
    expected = text[: min(ends)] if ends else text
    assert "".join(until(cut(text, places), stops)) == expected


def test_a_longer_stop_that_begins_earlier_counts_wherever_the_text_is_cut():
    for chunks in (["a\n\naba"], ["a\n\na", "ba"], list("a\n\naba")):
        assert "".join(until(chunks, ["\na", "\n\nab"])) == "a"


def test_text_is_not_held_back_once_it_cannot_begin_a_stop():
    chunks = until(iter(["ab", "c", "xyz"]), ["abcd"])
    assert next(chunks) == "abcxyz"


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        ("\x1b[31mred\x1b[0m", "[31mred[0m"),
        ("a\rb\x08c\x07", "abc"),
        ("tab\tand\nline", "tab\tand\nline"),
        ("\x9b31m", "31m"),
        ("x = 'a\u202e'", "x = 'a'"),
        ("naïve 漢字 🙂", "naïve 漢字 🙂"),
    ],
)
def test_nothing_that_steers_a_terminal_is_shown(raw, shown):
    assert printable(raw) == shown
