"""Filling in: where the hole is, what is shown of its surroundings, what is kept of the answer."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coderv2_local.fim import Target, fill, fit, hole_at, parse_target, read_source, replaced_range
from coderv2_local.fim_stops import Hole
from coderv2_local.sampling import SamplingOptions
from quant.errors import InputError

SOURCE = "def add(a, b):\n    \n    return c\n"


@pytest.mark.parametrize(
    ("typed", "target"),
    [
        ("a.py:3", Target(Path("a.py"), 3)),
        ("dir/a.py:3:7", Target(Path("dir/a.py"), 3, 7)),
        ("a.py:2-5", Target(Path("a.py"), 2, None, 5)),
        ("C:\\a.py:12", Target(Path("C:\\a.py"), 12)),
        ("odd:1:name.py:4", Target(Path("odd:1:name.py"), 4)),
    ],
)
def test_a_place_is_read_from_the_right(typed, target):
    assert parse_target(typed) == target


@pytest.mark.parametrize("typed", ["a.py", "a.py:", "a.py:x", ":3", "a.py:5-2", ""])
def test_what_names_no_place_is_refused(typed):
    with pytest.raises(InputError):
        parse_target(typed)


@pytest.mark.parametrize(
    ("place", "prefix", "suffix"),
    [
        ("f:2", "def add(a, b):\n    ", "\n    return c\n"),
        ("f:3:12", "def add(a, b):\n    \n    return ", "c\n"),
        ("f:2-3", "def add(a, b):\n", "\n"),
        ("f:1-1", "", "\n    \n    return c\n"),
        ("f:4", SOURCE, ""),
    ],
)
def test_the_hole_is_where_it_was_asked_for(place, prefix, suffix):
    assert hole_at(SOURCE, parse_target(place)) == Hole(prefix, suffix)


@given(st.text("ab\n\r", max_size=40), st.integers(1, 9), st.integers(1, 9))
def test_prefix_and_suffix_are_the_file(text, line, column):
    try:
        hole = hole_at(text, Target(Path("f"), line, column))
    except InputError:
        return
    assert hole.prefix + hole.suffix == text


def test_dos_line_ends_stay_behind_the_hole():
    assert hole_at("a\r\nb\r\n", Target(Path("f"), 1)) == Hole("a", "\r\nb\r\n")


@pytest.mark.parametrize("place", ["f:0", "f:5", "f:1:99", "f:2:0", "f:2-9"])
def test_places_outside_the_file_are_refused(place):
    with pytest.raises(InputError, match="there is no"):
        hole_at(SOURCE, parse_target(place))


def test_unreadable_files_are_refused(tmp_path):
    (tmp_path / "latin.py").write_bytes(b"x = '\xe9'\n")
    for name, words in (("missing.py", "no such file"), ("latin.py", "not UTF-8"), (".", "directory")):
        with pytest.raises(InputError, match=words):
            read_source(tmp_path / name)


def test_the_surroundings_shown_are_whole_lines_near_the_hole(tiny):
    prefix = "".join(f"line_{i} = {i}\n" for i in range(2000))
    hole = Hole(prefix, prefix)
    seen = fit(hole, tiny, 64)
    assert prefix.endswith(seen.prefix)
    assert prefix.startswith(seen.suffix)
    assert seen.prefix.startswith("line_")
    assert seen.suffix.endswith("\n")
    assert 100 < tiny.count(seen.prefix) + tiny.count(seen.suffix) <= tiny.engine.n_ctx - 64


def test_one_endless_line_is_shown_in_part(tiny):
    line = "x = [" + "1, " * 5000
    seen = fit(Hole(line, "]" * 5000), tiny, 64)
    assert line.endswith(seen.prefix)
    assert len(seen.prefix) > 200
    assert len(seen.suffix) > 50


def test_room_for_a_long_middle_does_not_blind_the_model(tiny):
    assert fit(Hole("a = 1\n" * 500, ""), tiny, 100_000).prefix.count("a = 1") > 30


def test_the_replaced_range_is_counted_from_1():
    for place, start, end in (("f:2", (2, 5), (2, 5)), ("f:2-3", (2, 1), (3, 13)), ("f:1:4", (1, 4), (1, 4))):
        assert replaced_range(SOURCE, hole_at(SOURCE, parse_target(place))) == (start, end)


def test_the_model_fills_a_line(tiny):
    hole = hole_at("def add(a, b):\n    c = \n    return c\n", parse_target("f:2"))
    middle = fill(hole, tiny, SamplingOptions(), 32).text
    assert middle.strip()
    compile(hole.prefix + middle + hole.suffix, "f", "exec")
