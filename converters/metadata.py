"""The keys of a GGUF file of architecture ``deepseek2``, and the bytes of a header made of keys and tensors.

Key names are gguf-py's (``gguf.constants.Keys``); what llama.cpp does with them is in src/models/deepseek2.cpp there.
"""

import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gguf import GGMLQuantizationType, GGUFValueType, GGUFWriter
from gguf.constants import ExpertGatingFuncType, RopeScalingType

from converters.config import ConfigError, ModelConfig
from converters.gguf_header import TensorInfo
from converters.tokenizer import TokenizerData
from quant.block_types import BlockType

ARCHITECTURE = "deepseek2"
ALIGNMENT = 32
"""Bytes that the data of every tensor is aligned to."""


@dataclass(frozen=True)
class Value:
    """A value as GGUF types it."""

    value: Any
    kind: GGUFValueType
    element: GGUFValueType | None = None
    """Type of the elements, for arrays."""


Metadata = dict[str, Value]


def u32(value: int) -> Value:
    """An unsigned integer, the usual type of counts."""
    return Value(value, GGUFValueType.UINT32)


def f32(value: float) -> Value:
    """A float."""
    return Value(value, GGUFValueType.FLOAT32)


def text(value: str) -> Value:
    """A string."""
    return Value(value, GGUFValueType.STRING)


def flag(value: bool) -> Value:
    """True or false."""
    return Value(value, GGUFValueType.BOOL)


def texts(value: Sequence[str]) -> Value:
    """A list of strings."""
    return Value(list(value), GGUFValueType.ARRAY, GGUFValueType.STRING)


def i32s(value: Sequence[int]) -> Value:
    """A list of signed integers."""
    return Value(list(value), GGUFValueType.ARRAY, GGUFValueType.INT32)


def architecture_keys(c: ModelConfig) -> Metadata:
    """Everything that llama.cpp needs to know about the architecture.

    Raises:
        ConfigError: the model has a property that GGUF has no key for, so that the file would be silently wrong.
    """
    a = ARCHITECTURE
    # Plain top-k over groups would be read as group-limited: only a model that routes by groups carries them.
    grouped = c.topk_method == "group_limited_greedy"
    keys: Metadata = {
        f"{a}.block_count": u32(c.n_layers),
        f"{a}.context_length": u32(c.max_context),
        f"{a}.embedding_length": u32(c.hidden_size),
        f"{a}.feed_forward_length": u32(c.dense_ffn_size),
        f"{a}.vocab_size": u32(c.vocab_size),
        f"{a}.attention.head_count": u32(c.n_heads),
        f"{a}.attention.head_count_kv": u32(1),  # all heads share the latent key: MLA is multi-query attention
        f"{a}.attention.layer_norm_rms_epsilon": f32(c.rms_norm_eps),
        f"{a}.attention.q_lora_rank": u32(
            c.q_lora_rank or 0
        ),  # 0 must be said: without the key, other than Lite is refused
        f"{a}.attention.kv_lora_rank": u32(c.kv_lora_rank),
        f"{a}.attention.key_length": u32(c.kv_lora_rank + c.qk_rope_head_dim),
        f"{a}.attention.value_length": u32(c.kv_lora_rank),
        f"{a}.attention.key_length_mla": u32(c.qk_head_dim),
        f"{a}.attention.value_length_mla": u32(c.v_head_dim),
        f"{a}.leading_dense_block_count": u32(c.n_dense_layers),
        f"{a}.expert_feed_forward_length": u32(c.expert_ffn_size),
        f"{a}.expert_count": u32(c.n_routed_experts),
        f"{a}.expert_used_count": u32(c.n_experts_per_token),
        f"{a}.expert_shared_count": u32(c.n_shared_experts),
        f"{a}.expert_group_count": u32(c.n_groups if grouped else 1),
        f"{a}.expert_group_used_count": u32(c.n_groups_used if grouped else 1),
        f"{a}.expert_weights_scale": f32(c.routed_scaling_factor),
        f"{a}.expert_gating_func": u32(int(ExpertGatingFuncType.SOFTMAX)),
        f"{a}.rope.dimension_count": u32(c.qk_rope_head_dim),
        f"{a}.rope.freq_base": f32(c.rope_theta),
    }
    if c.norm_topk_prob:
        if c.routed_scaling_factor != 1.0:
            raise ConfigError(
                "config.json: norm_topk_prob with a routed_scaling_factor other than 1 is not expressible"
            )
        keys[f"{a}.expert_weights_norm"] = flag(True)
    return keys | _rope_keys(c)


def _rope_keys(c: ModelConfig) -> Metadata:
    a, y = ARCHITECTURE, c.yarn
    if y is None:
        return {}
    if y.mscale != y.mscale_all_dim:
        raise ConfigError(
            f"config.json: mscale {y.mscale} and mscale_all_dim {y.mscale_all_dim} differ; GGUF has one key for both",
            hint="llama.cpp would scale attention wrongly and say nothing, so such a file is not written",
        )
    if not y.mscale_all_dim:
        raise ConfigError(
            "config.json: an mscale of 0 leaves attention unscaled, which llama.cpp takes for a value that is missing",
            hint="the published models have 0.707 or 1.0; without YaRN leave rope_scaling out",
        )
    return {
        f"{a}.rope.scaling.type": text(RopeScalingType.YARN.value),
        f"{a}.rope.scaling.factor": f32(y.factor),
        f"{a}.rope.scaling.original_context_length": u32(y.original_context),
        f"{a}.rope.scaling.yarn_beta_fast": f32(y.beta_fast),
        f"{a}.rope.scaling.yarn_beta_slow": f32(y.beta_slow),
        f"{a}.rope.scaling.yarn_log_multiplier": f32(0.1 * y.mscale_all_dim),  # llama.cpp divides by 0.1 again
    }


def tokenizer_keys(t: TokenizerData) -> Metadata:
    """The vocabulary, its special ids and the chat template."""
    keys: Metadata = {
        "tokenizer.ggml.model": text("gpt2"),
        "tokenizer.ggml.pre": text(t.pre),
        "tokenizer.ggml.tokens": texts(t.tokens),
        "tokenizer.ggml.token_type": i32s(t.types),
        "tokenizer.ggml.merges": texts(t.merges),
        "tokenizer.ggml.bos_token_id": u32(t.bos),
        "tokenizer.ggml.eos_token_id": u32(t.eos),
        "tokenizer.ggml.add_bos_token": flag(t.add_bos),
        "tokenizer.ggml.add_eos_token": flag(t.add_eos),
    }
    if t.pad is not None:
        keys["tokenizer.ggml.padding_token_id"] = u32(t.pad)
    for name, token in t.fim.items():
        keys[f"tokenizer.ggml.{name}_token_id"] = u32(token)
    if t.chat_template:
        keys["tokenizer.chat_template"] = text(t.chat_template)
    return {key: v for key, v in keys.items() if v.element is None or v.value}  # GGUF has no empty arrays


def lay_out(tensors: Sequence[tuple[str, tuple[int, ...], BlockType]], start: int) -> list[TensorInfo]:
    """Place tensors one after the other from byte `start` of the file, each aligned."""
    placed, at = [], start
    for name, shape, kind in tensors:
        nbytes = math.prod(shape[:-1]) * kind.row_bytes(shape[-1])
        placed.append(TensorInfo(name, shape, kind, at, nbytes))
        at = aligned(at + nbytes)
    return placed


def aligned(position: int) -> int:
    """The next position that tensor data may start at."""
    return -(-position // ALIGNMENT) * ALIGNMENT


def encode_header(metadata: Mapping[str, Value], tensors: Sequence[tuple[str, tuple[int, ...], BlockType]]) -> bytes:
    """The bytes of a GGUF file up to its tensor data, padded to the alignment; the data follow in the given order."""
    with tempfile.TemporaryDirectory(prefix="coder-") as folder:
        path = Path(folder) / "header"
        architecture = metadata["general.architecture"].value
        writer = GGUFWriter(path, architecture)
        for key, v in metadata.items():
            if key != "general.architecture":  # the writer has put it first
                writer.add_key_value(key, v.value, v.kind, v.element)
        for name, shape, kind in tensors:
            nbytes = math.prod(shape[:-1]) * kind.row_bytes(shape[-1])
            dtype: Any = "float32"  # only looked at for byte-shaped arrays
            writer.add_tensor_info(name, shape, dtype, nbytes, GGMLQuantizationType(kind.id))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        writer.close()
        raw = path.read_bytes()
    return raw.ljust(aligned(len(raw)), b"\0")
