"""What `coder fim` is given: buffers on stdin in any encoding, places that are none, options that clash."""

import json
import os
import subprocess

import forked_coder
import pytest
from conftest import ROOT, assert_refused
from fim_source import SOURCE


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "a.py"
    path.write_text(SOURCE)
    return path


@pytest.fixture
def fim(tmp_path):
    """Run `coder fim` with these bytes on stdin."""

    def run(*arguments, stdin=b""):
        environment = dict(os.environ, CODER_HOME=str(tmp_path / "home"), NO_COLOR="1", PYTHONPATH=str(ROOT))
        done = subprocess.run(
            [*forked_coder.command(), "fim", *arguments],
            input=stdin,
            capture_output=True,
            timeout=120,
            cwd=tmp_path,
            env=environment,
        )
        return subprocess.CompletedProcess(done.args, done.returncode, done.stdout.decode(), done.stderr.decode())

    return run


@pytest.mark.parametrize(
    "data",
    [
        b"\xef\xbb\xbf" + SOURCE.encode(),
        b"\xff\xfe" + SOURCE.encode("utf-16-le"),
        b"\xfe\xff" + SOURCE.encode("utf-16-be"),
    ],
    ids=["utf-8 mark", "utf-16-le", "utf-16-be"],
)
def test_a_buffer_is_read_as_its_file_is(fim, source, data):
    source.write_bytes(data)
    figures = ("text", "range", "prompt_tokens")
    for place in ("a.py:1:15", "a.py:3"):
        file, buffer, plain = (
            json.loads(fim(place, "--json", *options, stdin=stdin).stdout)
            for options, stdin in (([], b""), (["--stdin"], data), (["--stdin"], SOURCE.encode()))
        )
        assert [file[name] for name in figures] == [buffer[name] for name in figures]
        assert [plain[name] for name in figures] == [buffer[name] for name in figures]
    for options, stdin in (([], b""), (["--stdin"], data)):  # the line has 14 characters: its mark is none
        assert_refused(fim("a.py:1:16", *options, stdin=stdin), "14 characters", "no column 16")


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"x = '\xe9'\n", ["stdin", "not UTF-8", "byte 5", "send it as UTF-8"]),
        (b"x = 1\0\n", ["stdin", "binary"]),
        ("x = 1\n".encode("utf-16-le"), ["stdin", "binary"]),
        (b"\xff\xfex", ["stdin", "not UTF-16"]),
        (b"x = 1\n" * 8_500_000, ["stdin", "larger than 10 MB", "lines near the cursor"]),
    ],
    ids=["latin-1", "nul", "utf-16 without a mark", "half a character", "50 MB"],
)
def test_a_buffer_that_is_no_text_is_refused(fim, data, words):
    assert_refused(fim("a.py:1", "--stdin", stdin=data), *words)


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("a.py:5-2", ["line 5 comes after line 2"]),
        ("a.py:0", ["7 lines", "no line 0", "count from 1"]),
        ("a.py:0-1", ["no line 0", "count from 1"]),
        ("a.py:1:0", ["14 characters", "no column 0", "count from 1"]),
        ("a.py:8", ["7 lines", "no line 8"]),
        ("one.py:2", ["one.py has 1 line:", "no line 2"]),
        ("one.py:1:3", ["one.py:1 has 1 character:", "no column 3"]),
        ("gone.py:1", ["gone.py: no such file", "--stdin"]),
        ("a.py/b.py:1", ["a.py/b.py: no such file"]),
        ("a.py:3:1:2", ["a.py:3:1:2", "a number too many", "FILE:LINE:COL"]),
        ("x" * 300 + ":1", ["name too long"]),
    ],
)
def test_a_place_that_is_none_is_one_clear_line(fim, source, tmp_path, place, words):
    (tmp_path / "one.py").write_text("x")
    result = fim(place)
    assert_refused(result, *words)
    assert ("count from 1" in result.stderr) == ("count from 1" in words)


def test_a_buffer_needs_no_file_but_a_place(fim):
    assert fim("new.py:1", "--stdin", stdin=b"x = 1\n").returncode == 0
    assert_refused(fim("new.py:1:1:1", "--stdin", stdin=b"x = 1\n"), "a number too many")


def test_colons_in_the_name_of_a_file(fim, tmp_path):
    (tmp_path / "a.py:3").write_text(SOURCE)
    assert fim("a.py:3:1:2").returncode == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("a.py:3 --context a.py --no-context", ["--context", "--no-context", "leave one out"]),
        ("a.py:3 --context a.py b.py", ["'b.py' names no line", "--context b.py"]),
        ("--context a.py b.py", ["'b.py' names no line", "b.py:LINE"]),
        ("a.py:3 b.py:4", ["'b.py:4' is too much"]),
        ("--apply", ["--apply needs a place", "coder fim FILE:LINE --apply"]),
        ("--json -n 3", ["--json needs a place"]),
        ("--stdin", ["--stdin needs a place"]),
        ("--apply --json --context nope.py", ["--apply needs a place"]),
        ("--undo --json --context a.py", ["nothing else", "--context, --json"]),
        ("--undo -n 3", ["--max-tokens"]),
        ("--undo a.py:3", ["a.py:3"]),
    ],
)
def test_what_does_not_go_together_is_said(fim, source, arguments, words):
    assert_refused(fim(*arguments.split()), *words)
    assert source.read_text() == SOURCE


def test_options_that_say_their_defaults_are_not_forgotten(fim, source):
    assert_refused(fim("--undo", "--temperature", "0"), "--temperature")


def test_too_small_a_context_says_what_to_do(fim, source):
    result = fim("a.py:3", "--ctx", "64")
    assert_refused(result, "context of 64 tokens", "128 new tokens", "-n", "--ctx")
    assert fim("a.py:3", "--ctx", "64", "-n", "8").returncode == 0


@pytest.mark.skipif(os.name == "nt", reason="needs a pseudo-terminal")
def test_a_buffer_that_is_awaited_from_the_keyboard_is_asked_for(source, tmp_path):
    from terminal import Terminal

    with Terminal("fim", "a.py:1", "--stdin", cwd=tmp_path, home=tmp_path / "home") as terminal:
        terminal.until("Ctrl-D on a line of its own ends it")
        terminal.send("x = \n\x04")
        assert terminal.wait() == 0
        assert "ended by" in terminal.text()
