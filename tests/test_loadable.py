"""Files on which llama.cpp would end the process are refused before it is given them."""

import dataclasses
from typing import Any

import pytest

from coderv2_local.loadable import check_loadable
from coderv2_local.models import find_model
from converters.gguf_header import GgufHeader, read_header
from quant.block_types import block_type
from quant.errors import InputError


@pytest.fixture(scope="module")
def header() -> GgufHeader:
    path = find_model("tiny").path
    assert path is not None
    return read_header(path)


def with_keys(header: GgufHeader, **changed: Any) -> GgufHeader:
    """`header` with keys of the architecture changed; two underscores stand for a dot."""
    keys = {f"deepseek2.{key.replace('__', '.')}": value for key, value in changed.items()}
    return dataclasses.replace(header, metadata=dict(header.metadata) | keys)


def assert_not_loadable(header: GgufHeader, words: str) -> None:
    with pytest.raises(InputError, match=words) as refused:
        check_loadable(header, header.path)
    assert str(header.path) in refused.value.message


def test_the_embedded_model_can_be_loaded(header: GgufHeader) -> None:
    check_loadable(header, header.path)


# Each of these was seen to end a process that loads it or asks it for a token.


@pytest.mark.parametrize("layers", [1, 5, 6])
def test_layers_that_predict_further_tokens(header: GgufHeader, layers: int) -> None:
    assert_not_loadable(with_keys(header, nextn_predict_layers=layers), f"nextn_predict_layers is {layers}: no model")
    check_loadable(with_keys(header, nextn_predict_layers=0), header.path)


@pytest.mark.parametrize("scale", [0.1, -1.0, float("nan")])
def test_a_temperature_of_attention(header: GgufHeader, scale: float) -> None:
    assert_not_loadable(with_keys(header, attention__temperature_scale=scale), r"attention\.temperature_scale is")
    check_loadable(with_keys(header, attention__temperature_scale=0.0), header.path)


@pytest.mark.parametrize(("groups", "used"), [(2, 2), (8, 7)])
def test_groups_that_leave_no_choice(header: GgufHeader, groups: int, used: int) -> None:
    changed = with_keys(header, expert_group_count=groups, expert_group_used_count=used)
    assert_not_loadable(changed, f"8 experts are in {groups} groups of which {used} are used")
    check_loadable(with_keys(header, expert_group_count=2, expert_group_used_count=1), header.path)


@pytest.mark.parametrize(("key", "most"), [("block_count", 512), ("expert_count", 1024)])
def test_more_layers_or_experts_than_the_engine_has_room_for(header: GgufHeader, key: str, most: int) -> None:
    assert_not_loadable(with_keys(header, **{key: most + 1}), f"{key} is {most + 1}, outside 1…{most}")


@pytest.mark.parametrize(
    ("key", "value"),
    [("model", "none"), ("model", "no_vocab"), ("model", "llama"), ("model", None), ("pre", "whitespace")],
)
def test_another_kind_of_tokenizer(header: GgufHeader, key: str, value: object) -> None:
    changed = dict(header.metadata) | {f"tokenizer.ggml.{key}": value}
    assert_not_loadable(dataclasses.replace(header, metadata=changed), rf"tokenizer\.ggml\.{key} is {value!r}")


@pytest.mark.parametrize(
    ("tensor", "kind"),
    [
        ("blk.1.attn_norm.weight", "F16"),
        ("blk.1.attn_kv_a_norm.weight", "Q8_0"),
        ("output_norm.weight", "IQ4_NL"),
        ("blk.1.attn_q.weight", "I8"),
        ("token_embd.weight", "F64"),
        ("output.weight", "Q8_1"),
        ("blk.1.ffn_gate_exps.weight", "Q8_K"),
    ],
)
def test_types_that_the_engine_cannot_compute_with(header: GgufHeader, tensor: str, kind: str) -> None:
    info = dataclasses.replace(header.tensors[tensor], type=block_type(kind))
    changed = dataclasses.replace(header, tensors=header.tensors | {tensor: info})
    assert_not_loadable(changed, f"tensor {tensor} is of type {kind}")
