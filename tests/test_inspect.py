"""`coder inspect`: health checks in words, from the header alone."""

import dataclasses
import json

import pytest
import typer
from conftest import assert_refused
from small_models import FULL, LITE, random_checkpoint, write_gguf
from typer.testing import CliRunner

from cli.inspect import inspect as command
from cli.inspect import number, readable, summary
from coderv2_local.inspection import checks, inspect
from coderv2_local.models import find_model
from converters.gguf_config import config_of
from converters.gguf_header import read_header
from quant.errors import InputError


@pytest.fixture(scope="module")
def header(tmp_path_factory):
    folder = random_checkpoint(tmp_path_factory.mktemp("c"), FULL)
    return read_header(write_gguf(folder, folder / "m.gguf", matrices="Q8_0"))


def said(header, **changes) -> dict[str, str]:
    """Text of each check → its state, with metadata changed; None removes a key."""
    metadata = {k: v for k, v in (dict(header.metadata) | changes).items() if v is not None}
    changed = dataclasses.replace(header, metadata=metadata)
    return {c.text: c.state for c in checks(changed, config_of(header))}


def state_of(found: dict[str, str], words: str) -> str:
    (state,) = [s for text, s in found.items() if words in text]
    return state


def test_the_embedded_model_is_in_good_health():
    found = inspect(find_model("tiny").path)
    assert [c for c in found.checks if c.state == "bad"] == []
    assert sum("a control token" in c.text for c in found.checks) == 3
    assert sum(c.parameters for c in found.classes) == found.parameters
    assert sum(c.nbytes for c in found.classes) <= found.file_size
    assert {c.name for c in found.classes} >= {"routed experts", "shared experts", "router", "attention", "norms"}


def test_types_by_class(header):
    found = {c.name: c for c in inspect(header.path).classes}
    assert found["routed experts"].types == {"Q8_0": 6}
    assert found["routed experts"].parameters == 2 * 3 * 32 * 32 * 64
    assert found["router"].types == {"F32": 2}
    assert "other" not in found


@pytest.mark.parametrize("pre", [None, "default", "llama-bpe"])
def test_a_wrong_pre_tokenizer_is_named(header, pre):
    assert state_of(said(header), "the pre-tokenizer is deepseek-llm") == "ok"
    assert state_of(said(header, **{"tokenizer.ggml.pre": pre}), "not 'deepseek-llm'") == "bad"


def test_group_keys_against_the_rule(header):
    assert state_of(said(header), "3 of 8 groups by their best expert") == "ok"
    lacking = {"deepseek2.expert_group_count": None, "deepseek2.expert_group_used_count": None}
    big = lacking | {"deepseek2.block_count": 60, "deepseek2.expert_count": 160}
    assert state_of(said(header, **big), "by its shape this is a model that uses 3 of 8 groups") == "note"
    assert state_of(said(header, **lacking), "nothing else in the file tells them") == "note"
    one = {"deepseek2.expert_group_count": 1, "deepseek2.expert_group_used_count": 1}
    assert state_of(said(header, **one), "no groups of experts") == "ok"


def test_yarns_multiplier(header):
    key = "deepseek2.rope.scaling.yarn_log_multiplier"
    assert state_of(said(header), "YaRN's multiplier is 0.0707") == "ok"
    assert state_of(said(header, **{key: None}), "multiplier is missing") == "bad"
    assert state_of(said(header, **{key: 0.0}), "YaRN's multiplier is 0") == "bad"


@pytest.mark.parametrize(("stored", "meant"), [(0.707, "0.0707"), (1.0, "0.1")])
def test_the_multiplier_that_convert_repairs_is_bad(header, stored, meant):
    found = said(header, **{"deepseek2.rope.scaling.yarn_log_multiplier": stored})
    assert state_of(found, f"{meant} is meant, attention is scaled wrongly") == "bad"


@pytest.mark.parametrize(
    ("key", "value", "words", "state"),
    [
        ("split.count", "two", "the file has its full length", "ok"),
        ("deepseek2.rope.scaling.yarn_log_multiplier", [0.07], "no number: attention is scaled wrongly", "bad"),
        ("tokenizer.ggml.tokens", 5, "fim_pre_token_id is 290, outside the vocabulary", "bad"),
        ("tokenizer.ggml.token_type", 5, "token 290, '<｜fim▁begin｜>', is not a control token", "bad"),
    ],
)
def test_a_key_of_another_kind_is_a_finding_and_no_traceback(header, key, value, words, state):
    tokens = list(header.metadata["tokenizer.ggml.tokens"])
    tokens[290:293] = ["<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"]
    infill = {f"tokenizer.ggml.fim_{k}_token_id": i for k, i in (("pre", 290), ("suf", 291), ("mid", 292))}
    changes = infill | {"tokenizer.ggml.tokens": tokens} | {key: value}
    metadata = dict(header.metadata) | changes
    found = {c.text: c.state for c in checks(dataclasses.replace(header, metadata=metadata), config_of(header))}
    assert state_of(found, words) == state


def test_templates(header):
    key = "tokenizer.chat_template"
    assert state_of(said(header), "no chat template") == "note"
    assert state_of(said(header, **{key: "{{ 'User: ' }}…{{ 'Assistant:' }}"}), "template is known") == "ok"
    assert state_of(said(header, **{key: "[INST]"}), "none of this family") == "note"


def test_infill_ids_and_their_types(header):
    assert state_of(said(header), "no infill") == "note"
    tokens = list(header.metadata["tokenizer.ggml.tokens"])
    tokens[290:293] = ["<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"]
    types = [1] * 290 + [3, 3, 1] + [1] * 7
    ids = {f"tokenizer.ggml.fim_{k}_token_id": i for k, i in (("pre", 290), ("suf", 291), ("mid", 292))}
    found = said(header, **ids, **{"tokenizer.ggml.tokens": tokens, "tokenizer.ggml.token_type": types})
    assert state_of(found, "fim_pre_token_id is 290") == "ok"
    assert state_of(found, "token 292") == "bad"
    assert state_of(said(header, **ids), "fim_suf_token_id is 291, which is '<extra_291>'") == "bad"
    outside = ids | {"tokenizer.ggml.fim_mid_token_id": 300}
    assert state_of(said(header, **outside), "outside the vocabulary") == "bad"


def test_a_file_from_before_the_mla_split(tmp_path):
    folder = random_checkpoint(tmp_path / "c", LITE)
    found = read_header(write_gguf(folder, tmp_path / "m.gguf", split_mla=False))
    assert state_of(said(found), "before the MLA split") == "note"
    assert state_of(said(found), "every tensor is there") == "ok"


def test_a_missing_tensor_and_bytes_too_many(header):
    tensors = {k: v for k, v in header.tensors.items() if k != "blk.1.ffn_norm.weight"}
    changed = dataclasses.replace(header, tensors=tensors, file_size=header.file_size + (1 << 24))
    found = {c.text: c.state for c in checks(changed, config_of(header))}
    assert state_of(found, "blk.1.ffn_norm.weight is missing") == "bad"
    assert state_of(found, "belong to no tensor") == "note"


def test_what_a_load_refuses_is_no_good_health(header):
    tokens = [*header.metadata["tokenizer.ggml.tokens"]]
    tokens[5] += "\0"
    found = said(header, **{"tokenizer.ggml.tokens": tokens})
    assert state_of(found, "a NUL character is in 1 of the tokens") == "bad"


def test_sizes_and_counts_as_a_person_reads_them():
    assert [readable(n) for n in (0, 999, 1000, 999_499, 999_999, 9.5e9, 4.7e14)] == [
        "0 B", "999 B", "1 kB", "999 kB", "1 MB", "9.5 GB", "470 TB",
    ]  # fmt: skip
    assert [number(n) for n in (8192, 1_048_576, 235_741_434_880)] == ["8192", "1.05 million", "236 billion"]


def test_the_last_line_is_the_summary():
    assert summary(["ok"] * 3) == "health: good"
    assert summary(["ok", "bad"]) == "health: 1 thing is wrong (✗)"
    assert summary(["note", "bad", "bad"]) == "health: 2 things are wrong (✗), 1 to know about (·)"


def test_a_server_has_no_file(coder):
    assert_refused(coder("inspect", "https://localhost:1"), "is a server")
    assert_refused(coder("verify", "https://localhost:1"), "is a server")


def test_the_command(header, tmp_path):
    app = typer.Typer()
    app.command()(command)
    shown = CliRunner().invoke(app, [str(header.path)])
    assert shown.exit_code == 0
    for words in ("routed experts", "Q8_0 × 6", "deepseek2.block_count = 3", "✓ the pre-tokenizer"):
        assert words in shown.stdout
    found = json.loads(CliRunner().invoke(app, [str(header.path), "--json"]).stdout)
    assert found["config"]["n_layers"] == 3
    assert found["metadata"]["tokenizer.ggml.tokens"] == "300 values"
    (tmp_path / "x.gguf").write_bytes(b"not a model")
    assert isinstance(CliRunner().invoke(app, [str(tmp_path / "x.gguf")]).exception, InputError)
