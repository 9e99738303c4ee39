"""Keys of a GGUF file that have another type or value than they can have are named, once, before anything uses them."""

import dataclasses
from typing import Any

import pytest

from coderv2_local.models import find_model
from coderv2_local.routing import install_taps
from converters.gguf_config import config_of
from converters.gguf_header import GgufError, GgufHeader, read_header
from quant.errors import InputError


@pytest.fixture(scope="module")
def header() -> GgufHeader:
    path = find_model("tiny").path
    assert path is not None
    return read_header(path)


def changed(header: GgufHeader, key: str, value: Any) -> GgufHeader:
    return dataclasses.replace(header, metadata=dict(header.metadata) | {key: value})


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("tokenizer.ggml.tokens", 5, "is 5, not a list of text"),
        ("tokenizer.ggml.tokens", [5] * 4096, "not a list of text"),
        ("tokenizer.ggml.merges", "a b", "is 'a b', not a list of text"),
        ("tokenizer.ggml.token_type", 5, "is 5, not a list of whole numbers"),
        ("tokenizer.ggml.token_type", [1.0] * 4096, "not a list of whole numbers"),
        ("tokenizer.chat_template", 5, "is 5, not text"),
        ("tokenizer.ggml.pre", ["deepseek-llm"], "not text"),
        ("split.count", "abc", "is 'abc', not a whole number"),
        ("split.count", True, "is True, not a whole number"),
        ("split.no", [0], "not a whole number"),
        ("deepseek2.rope.scaling.yarn_log_multiplier", [0.07] * 5, "not a number"),
        ("deepseek2.block_count", [5] * 5, "not an integer"),
        ("deepseek2.leading_dense_block_count", [1, 1], "not an integer"),
        ("deepseek2.context_length", [2048] * 5, "not an integer"),
        ("deepseek2.attention.head_count", [4] * 4, "not an integer"),  # a layer too few
        ("deepseek2.rope.freq_base", 1.0, "is 1; YaRN needs more than 1"),
    ],
)
def test_a_key_of_another_type_is_named(header: GgufHeader, key: str, value: Any, words: str) -> None:
    with pytest.raises(GgufError) as refused:
        config_of(changed(header, key, value))
    assert str(header.path) in refused.value.message
    assert f"{key} is " in refused.value.message
    assert words in refused.value.message


@pytest.mark.parametrize(
    "key", ["attention.head_count", "feed_forward_length", "expert_feed_forward_length", "expert_used_count"]
)
def test_a_number_for_each_layer_is_read_where_the_engine_reads_one(header: GgufHeader, key: str) -> None:
    value = header.metadata[f"deepseek2.{key}"]
    assert config_of(changed(header, f"deepseek2.{key}", [value] * 5)) == config_of(header)


def test_a_tap_is_not_made_from_a_list_of_layers() -> None:
    keys = {"block_count": [1, 1], "expert_group_count": 8, "expert_group_used_count": 3}
    metadata = {"general.architecture": "deepseek2"} | {f"deepseek2.{k}": v for k, v in keys.items()}
    with pytest.raises(InputError, match=r"number of layers is \[1, 1\]"):
        install_taps(metadata)


def test_experts_that_the_tensors_have_no_room_for(header: GgufHeader) -> None:
    router = dataclasses.replace(header.tensors["blk.1.ffn_gate_inp.weight"], shape=(1024, 256))
    tensors = header.tensors | {"blk.1.ffn_gate_inp.weight": router}
    damaged = dataclasses.replace(changed(header, "deepseek2.expert_count", 1024), tensors=tensors)
    with pytest.raises(GgufError, match="1024 experts, but their tensors have room for fewer"):
        config_of(damaged)
