"""What `coder fim` prints and writes of an answer that a test decides: bytes, remarks, what stands there already."""

import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest
from conftest import ROOT, assert_refused
from remote_servers import STREAM_HEAD, ScriptedServer, events, models
from synthetic_models import LITE, small_model

SOURCE = 'def add(a, b):\n    """Gibt die Summe zurück: a + b."""\n\n\ndef other(a):\n    return a\n'
BODY = "    return a"


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "a.py"
    path.write_bytes(SOURCE.encode())
    return path


@pytest.fixture
def fim(tmp_path, source):
    """`coder fim`, its output as bytes, with a server that writes this text."""

    def run(*arguments, writes, reason="stop", seconds=0.0, **environment):
        with ScriptedServer().running() as server:
            server.answers["/v1/models"] = [models("deepseek", "deepseek-chat")]
            text = events({"choices": [{"text": writes, "finish_reason": reason}]})
            server.answers["/beta/completions"] = [STREAM_HEAD, seconds, text]
            return subprocess.run(
                [sys.executable, "-m", "cli", "fim", *arguments, "-m", server.address],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=120,
                cwd=tmp_path,
                env=dict(
                    os.environ,
                    CODER_HOME=str(tmp_path / "home"),
                    NO_COLOR="1",
                    PYTHONPATH=str(ROOT),
                    COLUMNS="80",
                    **environment,
                ),
            )

    return run


def test_what_stands_there_already_is_not_written_and_is_no_failure(fim, source, coder):
    shown = fim("a.py:6-6", "--apply", writes=BODY)
    assert (shown.returncode, shown.stdout) == (0, b"")
    assert b"nothing was written: this is what stands there already" in shown.stderr
    told = fim("a.py:6-6", "--apply", "--json", writes=BODY)
    assert told.returncode == 0, told.stderr
    report = json.loads(told.stdout)
    assert (report["text"], report["applied"]) == (BODY, False)
    assert source.read_bytes() == SOURCE.encode()
    assert "no edit to undo" in coder("fim", "--undo").stderr


def test_what_was_cut_is_written_and_said_to_be(fim, source):
    cut = fim("a.py:3", "--apply", writes="    return sum(", reason="length")
    assert cut.returncode == 0, cut.stderr
    assert b"ended by: length" in cut.stderr
    assert "    return sum(" in source.read_text()
    whole = fim("a.py:6-6", "--apply", writes="    return -a")
    assert b"ended by: end" in whole.stderr


def test_no_time_is_not_nothing_to_suggest(fim):
    late = [
        fim("a.py:3", "--max-ms", "900", *options, writes="    return 1", seconds=5.0) for options in ([], ["--apply"])
    ]
    for result in late:
        assert (result.returncode, result.stdout) == (0, b"")
        assert b"no time was left to suggest anything (--max-ms 900)" in result.stderr
        assert b"suggests nothing" not in result.stderr
    assert b"nothing was written" in late[1].stderr
    nothing = fim("a.py:3", "--apply", "--max-ms", "60000", writes="")
    assert b"the model suggests nothing here" in nothing.stderr


def test_where_loading_took_the_time_the_way_out_is_named(coder, source):
    result = coder("fim", "a.py:3", "--max-ms", "1")
    assert (result.returncode, result.stdout) == (0, "")
    assert "--max-ms 1" in result.stderr
    assert "`coder serve` keeps the model loaded" in result.stderr


@pytest.mark.parametrize("encoding", ["latin-1", "ascii", "utf-16"])
def test_a_pipe_gets_utf_8_whatever_the_system_writes(fim, source, encoding):
    middle = "    # größer als π\n    return a + b"
    assert fim("a.py:3", writes=middle, PYTHONIOENCODING=encoding).stdout == middle.encode()
    told = fim("a.py:3", "--json", writes=middle, PYTHONIOENCODING=encoding)
    assert json.loads(told.stdout.decode("utf-8"))["text"] == middle
    diff = fim("a.py:3", "--apply", writes=middle, PYTHONIOENCODING=encoding)
    assert diff.returncode == 0, diff.stderr
    assert "+    # größer als π\n" in diff.stdout.decode("utf-8")
    assert 'Gibt die Summe zurück: a + b."""\n' in diff.stdout.decode("utf-8")


@pytest.mark.skipif(os.name == "nt", reason="needs a pseudo-terminal")
def test_a_terminal_without_the_characters_shows_others(source, tmp_path):
    from terminal import Terminal

    arguments = ("fim", "a.py:3", "-n", "8")
    with Terminal(*arguments, cwd=tmp_path, home=tmp_path / "home", PYTHONIOENCODING="ascii") as terminal:
        assert terminal.wait() == 0
        assert "Gibt die Summe zur?ck" in terminal.text()


def test_line_ends_come_out_of_a_pipe_as_they_are(fim, source):
    source.write_bytes(SOURCE.replace("\n", "\r\n").encode())
    assert fim("a.py:3", writes="    x = 1\n    return x").stdout == b"    x = 1\r\n    return x"


@pytest.mark.parametrize("writes", ["    x = 1\n    return x", "    x = 1\r\n    return x"], ids=["LF", "CRLF"])
@pytest.mark.parametrize("dos", ["most", "few", "all", "none"])
def test_what_json_says_is_what_is_written_in_mixed_files_too(fim, source, writes, dos):
    lines = SOURCE.encode().split(b"\n")
    ends = {"most": [0, 1, 0, 1, 1, 1], "few": [1, 0, 1, 0, 0, 0], "all": [1] * 6, "none": [0] * 6}[dos]
    before = b"".join(line + (b"\r\n" if end else b"\n") for line, end in zip(lines, ends, strict=False))
    source.write_bytes(before)
    report = json.loads(fim("a.py:3", "--apply", "--json", writes=writes).stdout)
    end = "\r\n" if dos in ("most", "all") else "\n"
    assert report["text"] == f"    x = 1{end}    return x"
    at = sum(len(line) for line in before.splitlines(keepends=True)[:2])
    assert source.read_bytes() == before[:at] + report["text"].encode() + before[at:]


def test_when_the_time_is_up_nothing_is_saved_for_the_next_time(coder, source, tmp_path):
    slow = small_model(tmp_path / "slow.gguf", replace(LITE, n_layers=24))
    states = tmp_path / "home" / "states"
    options = ("-m", str(slow), "-n", "1000", "--temperature", "2", "--json")
    for ms in (2000, 4000, 8000, 16000, 32000):
        report = json.loads(coder("fim", "a.py:4", "--max-ms", ms, *options).stdout)
        assert report["reason"] == "time"
        if report["tokens"]:
            break
    assert report["prompt_tokens"], "evaluated, and worth saving"
    assert [p.name for p in states.glob("*")] == []
    assert coder("fim", "a.py:4", *options[:2], "-n", "2").returncode == 0
    assert [p.name for p in states.glob("*")] != [], "in time, it is kept"


def test_a_file_that_is_too_large_says_what_to_do(coder, tmp_path):
    with open(tmp_path / "huge.py", "wb") as f:
        f.truncate(50_000_000)
    assert_refused(coder("fim", "huge.py:1"), "huge.py is larger than 10 MB", "fim FILE:LINE --stdin")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("a.py --context util.py", ["'a.py' names no line", "say where to fill in: a.py:LINE"]),
        ("--context util.py a.py", ["'a.py' names no line", "say where to fill in: a.py:LINE"]),
        ("a.py:3 util.py --context more.py", ["'util.py' names no line", "--context util.py for another"]),
    ],
)
def test_a_forgotten_line_is_told_from_a_forgotten_context(coder, source, arguments, words):
    result = coder("fim", *arguments.split())
    assert_refused(result, *words)
    assert ("for another" in result.stderr) == ("for another" in words[1])
