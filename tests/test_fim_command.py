"""`coder fim` as a process: what is printed where, what is written, and every bad input as one clear line."""

import json
import signal
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from conftest import assert_refused
from named_models import named
from serve_process import serving
from synthetic_models import LITE, small_model

from coderv2_local.models import find_model

FUNCTION = 'def add(a, b):\n    """Return the sum of a and b."""\n\n\ndef other(a):\n    return a\n'


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "a.py"
    path.write_bytes(FUNCTION.encode())
    return path


def test_piped_the_middle_and_nothing_else(coder, source):
    filled = coder("fim", "a.py:3")
    report = json.loads(coder("fim", "a.py:3", "--json").stdout)
    assert filled.stdout == report["text"]
    assert filled.stdout.strip()
    assert filled.stderr == ""
    assert source.read_bytes() == FUNCTION.encode()


def test_the_second_call_finds_what_the_first_evaluated(coder, source):
    first, second = (json.loads(coder("fim", "a.py:3", "--json").stdout) for _ in range(2))
    assert first["reused_tokens"] == 0
    assert second["reused_tokens"] == second["prompt_tokens"] - 1
    assert second["text"] == first["text"]
    other = json.loads(coder("fim", "a.py:2", "--json").stdout)
    assert 0 < other["reused_tokens"] < other["prompt_tokens"]


def test_apply_writes_it_shows_the_diff_and_undo_takes_it_back(coder, source):
    middle = coder("fim", "a.py:3").stdout
    applied = coder("fim", "a.py:3", "--apply")
    assert applied.returncode == 0, applied.stderr
    assert "+" + middle.split("\n")[0] in applied.stdout.split("\n")
    assert "--undo" in applied.stderr
    lines = FUNCTION.split("\n")
    assert source.read_text() == "\n".join([*lines[:2], middle, *lines[3:]])
    undone = coder("fim", "--undo")
    assert undone.returncode == 0, undone.stderr
    assert source.read_bytes() == FUNCTION.encode()
    again = coder("fim", "--undo")
    assert again.returncode == 1
    assert "no edit to undo" in again.stderr


@pytest.mark.parametrize(
    "encode",
    [
        lambda text: text.replace("\n", "\r\n").encode(),
        lambda text: b"\xef\xbb\xbf" + text.encode(),
        lambda text: b"\xff\xfe" + text.encode("utf-16-le"),
        lambda text: text.replace("    ", "\t").encode(),
        lambda text: text.rstrip("\n").encode(),
    ],
    ids=["dos line ends", "utf-8 mark", "utf-16", "tabs", "no final newline"],
)
def test_apply_keeps_every_other_byte(coder, source, encode):
    before = encode(FUNCTION)
    source.write_bytes(before)
    report = json.loads(coder("fim", "a.py:3", "--json", "--apply").stdout)
    assert report["applied"]
    after = source.read_bytes()
    marks = {b"\xff\xfe": "utf-16-le", b"\xef\xbb": "utf-8"}
    middle = report["text"].encode(marks.get(before[:2], "utf-8"))
    at = next(n for n in range(len(after)) if before[:n] + middle + before[n:] == after)
    assert at > 0
    assert coder("fim", "--undo").returncode == 0
    assert source.read_bytes() == before


def test_a_file_that_changes_before_it_is_written_stays_as_it_is(source, monkeypatch, tmp_path):
    from cli.fim_edits import write_middle
    from coderv2_local.edits.refusal import EditRefused
    from coderv2_local.fim.hole import Hole

    monkeypatch.setenv("CODER_HOME", str(tmp_path / "home"))
    source.write_text(FUNCTION + "# edited meanwhile\n")
    with pytest.raises(EditRefused, match="changed"):
        write_middle(source, FUNCTION, Hole(FUNCTION[:10], FUNCTION[10:]), "x")
    assert source.read_text() == FUNCTION + "# edited meanwhile\n"


def test_a_file_that_changes_while_the_model_writes_stays_as_it_is(coder, source, tmp_path):
    slow = small_model(tmp_path / "slow.gguf", replace(LITE, n_layers=24))
    with serving(tmp_path / "home", "-m", str(slow)) as served, ThreadPoolExecutor() as threads:
        running = threads.submit(coder, "fim", "a.py:4", "--apply", "-m", "slow.gguf", "-n", "128")
        served.wait_for("requests_running", 1)
        source.write_text(FUNCTION + "# theirs\n")
        result = running.result()
    assert result.returncode == 1
    assert result.stdout == ""
    assert "a.py changed after it was read: nothing was written" in result.stderr
    assert "run the command again" in result.stderr
    assert source.read_text() == FUNCTION + "# theirs\n"
    assert coder("fim", "--undo").returncode == 1


def test_undo_does_not_lose_what_was_written_since(coder, source):
    assert coder("fim", "a.py:3", "--apply").returncode == 0
    source.write_text(source.read_text() + "# mine\n")
    undone = coder("fim", "--undo")
    assert undone.returncode == 1
    assert source.read_text().endswith("# mine\n")


def test_special_tokens_in_a_source_do_no_harm(coder, source):
    source.write_text("x = '<｜fim▁hole｜>'\ny = \nz = '<｜end▁of▁sentence｜>'\n")
    filled = coder("fim", "a.py:2")
    assert filled.returncode == 0, filled.stderr
    assert "｜" not in filled.stdout


def test_an_empty_file_and_an_empty_buffer_are_filled(coder, source):
    source.write_bytes(b"")
    assert coder("fim", "a.py:1").returncode == 0
    assert coder("fim", "new.py:1", "--stdin", stdin="").returncode == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["fim", "a.py:3", "--stdin", "--apply"], ["--stdin", "--apply"]),
        (["fim"], ["terminal", "FILE:LINE"]),
        (["fim", "huge.py:1"], ["huge.py", "larger"]),
        (["fim", "latin.py:1"], ["latin.py", "not UTF-8"]),
        (["fim", "wide.py:1"], ["wide.py", "binary"]),
        (["fim", "a.py:3", "--context", "missing.py"], ["missing.py"]),
        (["fim", "a.py:3", "--context", "latin.py"], ["latin.py"]),
        (["fim", "a.py:3", "-m", "http://127.0.0.1:9"], ["127.0.0.1:9"]),
    ],
    ids=lambda value: " ".join(value),
)
def test_wrong_input_is_one_clear_line(coder, source, tmp_path, arguments, words):
    with open(tmp_path / "huge.py", "wb") as f:
        f.truncate(50_000_000)
    (tmp_path / "latin.py").write_bytes(b"x = '\xe9'\n")
    (tmp_path / "wide.py").write_bytes("x = 1\n".encode("utf-16-le"))
    result = coder(*arguments)
    if "-m" in arguments:
        assert result.returncode == 1
        assert "Traceback" not in result.stderr
        assert words[0] in result.stderr
    else:
        assert_refused(result, *words)


def test_time_ends_it(coder, source):
    report = json.loads(coder("fim", "a.py:3", "--json", "--max-ms", "1").stdout)
    assert report["reason"] == "time"
    assert report["tokens"] <= 1


def test_named_files_are_shown_to_the_model(coder, source, tmp_path):
    (tmp_path / "lib.py").write_text("def plus(a, b):\n    return a + b\n")
    alone, unasked, named = (
        json.loads(coder("fim", "a.py:3", "--json", *extra).stdout)["prompt_tokens"]
        for extra in (["--no-context"], [], ["--context", "lib.py"])
    )
    assert named > unasked > alone  # unasked, a file edited just now is shown in outline


@pytest.mark.parametrize(
    ("name", "code", "words"),
    [
        ("DeepSeek-Coder-V2-Instruct", 2, "not trained to fill in"),
        ("DeepSeek-Coder-V2-Lite-Instruct", 0, "Instruct"),
        ("DeepSeek-Coder-V2-Instruct-0724", 0, "reported"),
    ],
)
def test_models_are_judged_by_what_they_are(coder, source, tmp_path, name, code, words):
    named(name, tmp_path / "m.gguf")
    result = coder("fim", "a.py:3", "-m", "m.gguf")
    assert result.returncode == code, result.stderr
    assert words in result.stderr
    if code:
        assert_refused(result, "--force", "lite-base")
        forced = coder("fim", "a.py:3", "-m", "m.gguf", "--force")
        assert forced.returncode == 0, forced.stderr
        assert words in forced.stderr
        assert forced.stdout.strip()
    else:
        assert result.stdout.strip()


def test_what_is_wrong_with_a_file_is_told_beside_the_middle(coder, source, tmp_path):
    data = find_model("tiny").path.read_bytes()
    key = b"rope.scaling.yarn_log_multiplier"
    assert data.count(key) == 1
    (tmp_path / "tiny.gguf").write_bytes(data.replace(key, key[:-1] + b"X"))
    good, lacking = coder("fim", "a.py:3"), coder("fim", "a.py:3", "-m", "tiny.gguf")
    assert (lacking.returncode, good.stderr) == (0, "")
    assert "YaRN's multiplier is missing" in lacking.stderr
    assert "YaRN" not in lacking.stdout


def test_a_file_without_fim_ids_says_what_to_use_instead(coder, source, tmp_path):
    data = find_model("tiny").path.read_bytes()
    assert data.count(b"ggml.fim_") == 3
    # neither by their keys nor by the text of the tokens can llama.cpp find them
    data = data.replace(b"ggml.fim_", b"ggml.fyn_").replace("｜fim▁".encode(), "｜fyn▁".encode())
    (tmp_path / "old.gguf").write_bytes(data)
    assert_refused(coder("fim", "a.py:3", "-m", "old.gguf"), "old.gguf", "fill-in-the-middle", "Lite-Base")


def test_named_files_that_find_no_room_are_told_of(coder, source, tmp_path):
    for name in ("large.py", "small.py"):
        (tmp_path / name).write_text("".join(f"def {name[:5]}_{n}(value):\n    return {n}\n\n" for n in range(300)))
    both = coder("fim", "a.py:3", "--context", "large.py", "--context", "small.py", "-n", "2")
    assert both.returncode == 0, both.stderr
    assert "no room for all of: " in both.stderr
    assert "large.py (the first " in both.stderr
    assert "small.py" in both.stderr
    unasked = coder("fim", "a.py:3", "-n", "2")
    assert "no room" not in unasked.stderr


@pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="needs SIGSTOP")
def test_a_server_that_does_not_answer_leaves_half_of_the_time_to_load_here(coder, source, tmp_path):
    with serving(tmp_path / "home") as served:
        served.process.send_signal(signal.SIGSTOP)
        try:
            report = json.loads(coder("fim", "a.py:3", "--json", "--max-ms", "4000", "-n", "2").stdout)
        finally:
            served.process.send_signal(signal.SIGCONT)
    assert report["load_seconds"] < 10  # of the usual 15 that a first answer may take
