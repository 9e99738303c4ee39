"""The real commands as processes: from a checkpoint to text, and every wrong input as one clear line."""

import ast
import json
import re
from pathlib import Path

import pytest
from conftest import ROOT, assert_refused

FUNCTION = 'def add(a, b):\n    """Return the sum of a and b."""\n\n\ndef other(a):\n    return a\n'
REQUEST = "Write a Python function `is_even`: Return True if a number is even"


def test_from_checkpoint_to_text(coder, tmp_path):
    model = tmp_path / "made.gguf"
    made = coder("convert", ROOT / "models" / "tiny", model, "-q", "q8_0")
    assert made.returncode == 0, made.stderr
    assert made.stdout == ""
    answer = coder("chat", "-m", model, "-p", REQUEST)
    assert answer.returncode == 0, answer.stderr
    code = re.fullmatch(r"```python\n(.*?)```\n", answer.stdout, re.S)
    assert code, answer.stdout
    assert isinstance(ast.parse(code[1]).body[0], ast.FunctionDef)
    (tmp_path / "a.py").write_text(FUNCTION)
    filled = coder("fim", "a.py:3", "-m", model)
    assert filled.returncode == 0, filled.stderr
    assert filled.stdout.strip()
    assert (tmp_path / "a.py").read_text() == FUNCTION


def test_the_embedded_model_answers_as_the_converted_one(coder, tmp_path):
    """Also: nothing but the answer is on stdout, nothing at all on stderr."""
    first = coder("chat", "-p", REQUEST)
    assert first.stdout.startswith("```python\n")
    assert first.stderr == ""
    assert coder("chat", stdin=REQUEST).stdout == first.stdout
    assert coder("chat", "-p", REQUEST, "-m", "tiny").stdout == first.stdout


def test_a_hole_within_a_line_is_filled_by_that_line(coder, tmp_path):
    (tmp_path / "a.py").write_text("def add(a, b):\n    return ()\n")
    filled = coder("fim", "a.py:2:13")
    assert filled.returncode == 0, filled.stderr
    assert "\n" not in filled.stdout


def test_an_editor_passes_its_buffer_and_gets_json(coder, tmp_path):
    filled = coder("fim", "unsaved.py:2-2", "--stdin", "--json", stdin="def add(a, b):\n    x\n    return c\n")
    assert filled.returncode == 0, filled.stderr
    report = json.loads(filled.stdout)
    assert report["range"] == {"start": [2, 1], "end": [2, 6]}
    assert report["text"].strip()
    assert report["reason"]
    assert 0 < report["tokens"] <= 128 < 128 + report["prompt_tokens"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["fim", "missing.py:1"], ["missing.py", "no such file"]),
        (["fim", "a.py"], ["names no line", "hint: "]),
        (["fim", "a.py:99"], ["a.py", "no line 99"]),
        (["fim", "a.py:1:500"], ["no column 500"]),
        (["fim", "binary.py:1"], ["binary.py", "not UTF-16"]),
        (["fim", "a.py:1", "-m", "missing.gguf"], ["missing.gguf", "no such file"]),
        (["fim", "a.py:1", "-m", "a.py"], ["a.py", "GGUF"]),
        (["chat", "-p", "hi", "-m", "nobody"], ["'nobody'", "hint: "]),
        (["chat", "-p", "hi", "-m", "folder"], ["folder", "coder convert"]),
        (["chat", "-p", "hi", "--temperature", "-1"], ["temperature"]),
        (["chat"], ["stdin is empty"]),
        (["convert", "missing", "out.gguf"], ["missing"]),
        (["convert", "folder", "out.gguf"], ["config.json"]),
        (["convert", "no_shards", "out.gguf"], ["safetensors"]),
        (["convert", "llama", "out.gguf"], ["llama"]),
        (["convert", "a.py", "out.gguf"], ["a.py"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_wrong_input_is_one_line_a_hint_and_exit_2(coder, tmp_path, arguments, words):
    (tmp_path / "a.py").write_text(FUNCTION)
    (tmp_path / "binary.py").write_bytes(b"\xff\xfe\x00")
    config = (ROOT / "models" / "tiny" / "config.json").read_text()
    for name, text in (
        ("no_shards", config),
        ("llama", '{"architectures": ["LlamaForCausalLM"], "model_type": "llama"}'),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(text)
    (tmp_path / "folder").mkdir()
    before = sorted(tmp_path.rglob("*"))
    assert_refused(coder(*arguments), *words)
    assert sorted(tmp_path.rglob("*")) == before


def test_an_escape_sequence_in_a_name_does_not_reach_the_terminal(coder):
    result = coder("fim", "\x1b[31mred.py:1")
    assert "\x1b" not in result.stderr
    assert_refused(result, "red.py")


def test_help_and_version(coder):
    for arguments in ([], ["chat"], ["fim"], ["convert"]):
        shown = coder(*arguments, "--help")
        assert shown.returncode == 0
        assert not arguments or "Example" in shown.stdout
    assert re.fullmatch(r"coder \d+\.\d+\.\d+\n", coder("--version").stdout)


def test_the_installed_command_is_ours():
    import cli
    import quant

    for package in (cli, quant):
        assert Path(package.__file__).parent.parent == ROOT
