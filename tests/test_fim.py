"""Filling in: where the hole is, what is shown of its surroundings, what comes back."""

import signal
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from remote_servers import STREAM_HEAD, ScriptedServer, answer, events, models
from serve_process import serving

from coderv2_local import remote
from coderv2_local.backend import Capabilities, Generation
from coderv2_local.fim.context import Snippet
from coderv2_local.fim.fill import FillOptions, fill, prompt_texts
from coderv2_local.fim.hole import Hole
from coderv2_local.fim.source import read_source
from coderv2_local.fim.target import Target, hole_at, parse_target, replaced_range
from coderv2_local.fim.window import Budgets, counter, prefix_start, suffix_end, window
from coderv2_local.local_backend import LocalBackend
from coderv2_local.models import find_model
from coderv2_local.placement.load_wishes import NO_WISHES
from coderv2_local.sampling.sampler import SamplingOptions
from coderv2_local.serving.find_server import open_running
from quant.errors import CoderError, InputError

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


@pytest.mark.parametrize("typed", ["a.py", "a.py:", "a.py:x", ":3", "a.py:5-2", "", "a.py:" + "9" * 5000])
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
    assert hole_at(SOURCE, parse_target(place)) == Hole(prefix, suffix, "f")


@given(st.text("ab\n\r", max_size=40), st.integers(1, 9), st.integers(1, 9))
def test_prefix_and_suffix_are_the_file(text, line, column):
    try:
        hole = hole_at(text, Target(Path("f"), line, column))
    except InputError:
        return
    assert hole.prefix + hole.suffix == text


@given(st.text("ab\n\r", max_size=40), st.integers(1, 9), st.integers(0, 4))
def test_replaced_lines_are_whole_ones(text, first, more):
    try:
        hole = hole_at(text, Target(Path("f"), first, None, first + more))
    except InputError:
        return
    assert text.startswith(hole.prefix)
    assert text.endswith(hole.suffix)
    assert len(hole.prefix) + len(hole.suffix) <= len(text)
    assert not hole.prefix or hole.prefix[-1] == "\n"
    assert not hole.suffix or hole.suffix.startswith(("\n", "\r\n"))


def test_dos_line_ends_stay_behind_the_hole():
    assert hole_at("a\r\nb\r\n", Target(Path("f"), 1)) == Hole("a", "\r\nb\r\n", "f")
    assert hole_at("a\r\nb\r\n", Target(Path("f"), 1, None, 2)) == Hole("", "\r\n", "f")


def test_an_empty_file_has_one_place():
    assert hole_at("", parse_target("f:1")) == hole_at("", parse_target("f:1:1")) == Hole("", "", "f")
    with pytest.raises(InputError, match="there is no line 2"):
        hole_at("", parse_target("f:2"))


@pytest.mark.parametrize("place", ["f:0", "f:5", "f:1:99", "f:2:0", "f:2-9"])
def test_places_outside_the_file_are_refused(place):
    with pytest.raises(InputError, match="there is no"):
        hole_at(SOURCE, parse_target(place))


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"a = 1\r\nb = 2\r\n", "a = 1\r\nb = 2\r\n"),
        (b"\xef\xbb\xbfa = 1\n", "a = 1\n"),
        ("\ufeffa = 'ä'\n".encode("utf-16-le"), "a = 'ä'\n"),
        ("\ufeffa = 'ä'\n".encode("utf-16-be"), "a = 'ä'\n"),
        (b"", ""),
    ],
)
def test_sources_are_read_by_their_mark(tmp_path, data, text):
    (tmp_path / "a.py").write_bytes(data)
    assert read_source(tmp_path / "a.py").text == text


def test_unreadable_files_are_refused(tmp_path):
    (tmp_path / "latin.py").write_bytes(b"x = '\xe9'\n")
    (tmp_path / "binary").write_bytes(b"\x7fELF\x00\x01" * 99)
    (tmp_path / "wide.py").write_bytes("x = 1\n".encode("utf-16-le"))
    with open(tmp_path / "huge.py", "wb") as f:
        f.truncate(50_000_000)
    for name, words in (
        ("missing.py", "no such file"),
        ("latin.py", "not UTF-8"),
        ("binary", "binary"),
        ("wide.py", "binary"),
        ("huge.py", "larger than 10 MB"),
        (".", "not a file"),
    ):
        with pytest.raises(InputError, match=words):
            read_source(tmp_path / name)


def lines(n):
    return "".join(f"line_{i} = {i}\n" for i in range(n))


def test_the_surroundings_shown_are_whole_lines_near_the_hole(tiny):
    text = lines(2000)
    prefix, suffix = prompt_texts(Hole(text, text), tiny, FillOptions(max_tokens=64))
    assert text.endswith(prefix)
    assert text.startswith(suffix)
    assert prefix.startswith("line_")
    assert suffix.endswith("\n")
    assert 100 < tiny.count(prefix) + tiny.count(suffix) <= tiny.n_ctx - 64


def test_the_window_begins_at_places_that_move_in_steps(tiny):
    text, count = lines(600), counter(tiny)
    places = [i + 1 for i, c in enumerate(text) if c == "\n"][100:]
    starts = [prefix_start(text[:at], count, 256) for at in places]
    assert starts == sorted(starts)
    assert all(start == 0 or text[start - 1] == "\n" for start in starts)
    assert len(set(starts)) < len(places) / 8
    for at, start in zip(places, starts, strict=True):
        used = count(text[start:at])
        assert used <= 256
        assert start == 0 or used >= 256 / 4


def test_a_change_at_the_cursor_does_not_move_the_window(tiny):
    text, count = lines(300), counter(tiny)
    at = prefix_start(text, count, 256)
    assert prefix_start(text + "x = compute(", count, 256) == at


def test_one_endless_line_is_shown_in_part(tiny):
    line = "x = [" + "1, " * 5000
    seen = window(Hole(line, "]" * 5000), counter(tiny), Budgets(200, 50))
    assert line.endswith(seen.prefix)
    assert len(seen.prefix) > 100
    assert 10 < len(seen.suffix) < 5000


@given(st.text("ab \n(]€😀", max_size=300), st.integers(0, 40))
def test_windows_keep_their_budgets(tiny, text, budget):
    count = counter(tiny)
    start, end = prefix_start(text, count, budget), suffix_end(text, count, budget)
    assert 0 <= start <= len(text)
    assert 0 <= end <= len(text)
    assert count(text[start:]) <= budget + 2
    assert count(text[:end]) <= budget + 2


def test_room_for_a_long_middle_does_not_blind_the_model(tiny):
    prefix, _ = prompt_texts(Hole("a = 1\n" * 500, ""), tiny, FillOptions(max_tokens=100_000))
    assert prefix.count("a = 1") >= 30


class Uncounted:
    """A backend that knows neither its context nor its tokens, as some servers."""

    n_ctx = None

    def count(self, text):
        return None


def test_a_server_that_cannot_count_gets_a_cautious_window():
    prefix, suffix = prompt_texts(Hole(lines(5000), lines(5000)), Uncounted(), FillOptions())
    assert 1000 < len(prefix) < 4 * 4096
    assert 100 < len(suffix) < len(prefix)


@dataclass
class WithContext:
    """A backend as it would be with another context."""

    backend: LocalBackend
    n_ctx: int

    def count(self, text):
        return self.backend.count(text)


def test_other_files_come_first_under_their_paths(tiny):
    options = FillOptions(
        snippets=(Snippet("lib/io.py", "def read():\n"), Snippet("b.js", "let x\n")),
        asked_for_context=True,
        label="a.py",
    )
    prefix, _ = prompt_texts(Hole("x = 1\n", ""), tiny, options)
    assert prefix == "# lib/io.py\ndef read():\n\n// b.js\nlet x\n\n# a.py\nx = 1\n"
    unasked = FillOptions(snippets=options.snippets, label="a.py")
    assert prompt_texts(Hole("x = 1\n", ""), tiny, unasked)[0] == prefix
    # a small context has no room for files that nobody asked for
    assert prompt_texts(Hole("x = 1\n", ""), WithContext(tiny, 2047), unasked)[0] == "x = 1\n"
    assert prompt_texts(Hole("x = 1\n", ""), WithContext(tiny, 2047), options)[0] == prefix


def test_a_filling_tells_which_named_files_were_cut(tiny):
    snippets = (Snippet("a.py", lines(2000)), Snippet("b.py", lines(2000)), Snippet("c.py", "x = 1\n"))
    options = FillOptions(max_tokens=2, snippets=snippets, asked_for_context=True, label="d.py")
    cut = fill(Hole("x = 1\n", ""), tiny, None, options).cut
    assert [(c.label, c.of_lines) for c in cut] == [("a.py", 2000), ("b.py", 2000)]
    assert all(0 < c.lines < 2000 for c in cut)


def test_the_replaced_range_is_counted_from_1():
    for place, start, end in (("f:2", (2, 5), (2, 5)), ("f:2-3", (2, 1), (3, 13)), ("f:1:4", (1, 4), (1, 4))):
        assert replaced_range(SOURCE, hole_at(SOURCE, parse_target(place))) == (start, end)


def test_the_model_fills_a_line(tiny):
    hole = hole_at("def add(a, b):\n    c = \n    return c\n", parse_target("f:2"))
    filling = fill(hole, tiny, SamplingOptions(), FillOptions(max_tokens=32))
    assert filling.text.strip()
    compile(hole.prefix + filling.text + hole.suffix, "f", "exec")
    assert 0 < filling.suffix_tokens < filling.prompt_tokens
    assert filling.tokens <= 32


class Says:
    """A backend that answers what it is told to, and remembers what it was asked."""

    name, n_ctx, capabilities = "scripted", 4096, Capabilities(ids=True, infill=True)

    def __init__(self, *chunks):
        self.chunks, self.asked = chunks, ()

    def count(self, text):
        return len(text)

    def infill(self, prefix, suffix, options, max_tokens, on_progress=None):
        self.asked = (prefix, suffix)
        return Generation(iter(self.chunks), prompt_tokens=9, reason="end")


def test_a_text_with_dos_line_ends_is_shown_without_and_filled_with_them():
    backend = Says("b = 2\n", "    c", " = 3")
    filling = fill(Hole("def f():\r\n    a = 1\r\n    ", "\r\n    return a\r\n"), backend)
    assert filling.text == "b = 2\r\n    c = 3"
    assert backend.asked == ("def f():\n    a = 1\n    ", "\n    return a\n")


def test_a_rule_ends_the_generation():
    def endless():
        yield "b = 2\n"
        yield "    return a\n"
        raise AssertionError("it was read on")

    backend = Says()
    backend.chunks = endless()
    filling = fill(Hole("def f(a):\n    ", "\n    return a\n"), backend)
    assert (filling.text, filling.reason) == ("b = 2", "repeats what follows")


def test_special_tokens_in_a_text_are_text(tiny):
    hole = Hole("a = '<｜fim▁hole｜>'\nb = ", "\n'<｜fim▁end｜>'\n")
    ids = tiny.vocabulary.encode(hole.prefix) + tiny.vocabulary.encode(hole.suffix)
    assert not set(ids) & set(tiny.vocabulary.special_ids())
    assert fill(hole, tiny).prompt_tokens == len(ids) + 4


def test_the_next_call_evaluates_little_more_than_the_suffix(tiny):
    text = lines(40)
    places = [i + 1 for i, c in enumerate(text) if c == "\n"][20:24]
    fill(Hole(text[: places[0]], text[places[0] :]), tiny, None, FillOptions(max_tokens=8))
    for at in places[1:]:
        filling = fill(Hole(text[:at], text[at:]), tiny, None, FillOptions(max_tokens=8))
        assert filling.prompt_tokens - filling.reused_tokens <= filling.suffix_tokens + 64


def test_time_ends_a_filling(tiny):
    hole = Hole(lines(20), lines(5))
    began = time.perf_counter()
    filling = fill(hole, tiny, None, FillOptions(max_tokens=200, max_seconds=0.0))
    assert filling.reason == "time"
    assert filling.tokens <= 1
    assert time.perf_counter() - began < 5


@pytest.mark.parametrize("silent_at", ["/tokenize", "/infill", "in the middle"])
def test_time_ends_the_waiting_for_a_server_that_is_silent(silent_at):
    said = events({"content": "b = 2", "tokens": [1]})
    tokens = answer({"tokens": [1, 2, 3]})
    props = answer({"default_generation_settings": {"n_ctx": 4096}, "model_path": "m"})
    server = ScriptedServer(
        {
            "/v1/models": [models("llamacpp", "m")],
            "/props": [props],
            "/tokenize": [20.0] if silent_at == "/tokenize" else [tokens],
            "/infill": [20.0] if silent_at == "/infill" else [STREAM_HEAD, said, 20.0],
        }
    )
    with server.running() as running, remote.open(running.address, environment={}) as backend:
        began = time.perf_counter()
        filling = fill(Hole("a = 1\n", "\nc = 3\n"), backend, None, FillOptions(max_seconds=0.4))
        assert time.perf_counter() - began < 5
    assert (filling.text, filling.reason) == ("b = 2" if silent_at == "in the middle" else "", "time")
    assert silent_at == "/tokenize" or "/infill" in running.paths()


@pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="needs SIGSTOP")
def test_time_ends_the_waiting_for_a_server_of_ours_that_is_stopped(tmp_path, monkeypatch):
    monkeypatch.setenv("CODER_HOME", str(tmp_path))
    with serving(tmp_path) as served, open_running(find_model("tiny"), NO_WISHES, seconds=30) as backend:
        served.process.send_signal(signal.SIGSTOP)
        try:
            began = time.perf_counter()
            filling = fill(Hole("a = 1\n", "\nc = 3\n"), backend, None, FillOptions(max_seconds=0.5))
            assert (filling.text, filling.reason) == ("", "time")
            assert open_running(find_model("tiny"), NO_WISHES, seconds=0.5) is None
            assert time.perf_counter() - began < 8
        finally:
            served.process.send_signal(signal.SIGCONT)
        assert fill(Hole("a = 1\n", "\nc = 3\n"), backend).reason != "time"  # the limit was of that filling alone


def test_a_failure_in_time_is_no_end_of_the_time():
    server = ScriptedServer({"/v1/models": [models("llamacpp", "m")], "/props": [answer({})]})
    with (
        server.running() as running,
        remote.open(running.address, environment={}) as backend,
        pytest.raises(CoderError),
    ):
        fill(Hole("a", ""), backend, None, FillOptions(max_seconds=60))


def test_time_ends_the_reading_of_a_prompt(tiny):
    class Slow(type(tiny)):
        """Reports progress as a large model does, batch by batch."""

        def __init__(self):
            self.__dict__.update(tiny.__dict__)

        def infill(self, prefix, suffix, options, max_tokens, on_progress=None):
            on_progress(512, 4096)
            raise AssertionError("the prompt was read on")

    with pytest.raises(AssertionError):
        fill(Hole("a", ""), Slow())
    filling = fill(Hole("a", ""), Slow(), None, FillOptions(max_seconds=0.0))
    assert (filling.text, filling.reason) == ("", "time")
