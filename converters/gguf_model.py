"""A GGUF file as a source: all its parts if it is split, and the model's numbers read back from its keys."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from converters.config import ModelConfig
from converters.gguf_header import GgufError, GgufHeader, TensorInfo, read_header
from converters.metadata import ARCHITECTURE

_PART = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.gguf")


@dataclass(frozen=True)
class GgufModel:
    """The first file's header, and the tensors of all files."""

    path: Path
    header: GgufHeader
    tensors: dict[str, tuple[str, TensorInfo]]
    """Name → the file's name, and where in it the tensor lies."""

    @property
    def metadata(self) -> Mapping[str, Any]:
        """The keys of the first file."""
        return self.header.metadata


def open_gguf(path: Path) -> GgufModel:
    """Read the header of `path`, and of the other parts when it is the first of a split model.

    Raises:
        GgufError: damaged, of another architecture, a part missing, or a tensor in two parts.
    """
    first = read_header(path)
    if first.architecture != ARCHITECTURE:
        raise GgufError(
            f"{path}: the architecture is {first.architecture!r}, not {ARCHITECTURE!r}",
            hint="only GGUF files of the DeepSeek-V2 family can be converted",
        )
    headers = [first]
    count = first.metadata.get("split.count", 1)
    found = _PART.fullmatch(path.name)
    if isinstance(count, int) and count > 1:
        if found is None or int(found.group(2)) != 1 or int(found.group(3)) != count:
            raise GgufError(
                f"{path} is a part of a split model", hint=f"name the first part, …-00001-of-{count:05d}.gguf"
            )
        names = [f"{found.group(1)}-{n:05d}-of-{count:05d}.gguf" for n in range(2, count + 1)]
        headers += [read_header(path.with_name(name)) for name in names]
    tensors: dict[str, tuple[str, TensorInfo]] = {}
    for header in headers:
        for name, info in header.tensors.items():
            if name in tensors:
                raise GgufError(f"tensor {name} is in {tensors[name][0]} and in {header.path.name}")
            tensors[name] = (header.path.name, info)
    return GgufModel(path, first, tensors)


def has_unsplit_attention(model: GgufModel) -> bool:
    """Does the file predate the split of ``kv_b`` that MLA needs?"""
    return any(name.endswith(".attn_kv_b.weight") for name in model.tensors)


def config_of(model: GgufModel) -> ModelConfig:
    """The model's numbers, from the keys of its file. Files from before the MLA split have other key lengths.

    Raises:
        GgufError: a key is missing.
        ConfigError: a value is out of range, of the wrong type, or contradicts another.
    """
    m, a = model.metadata, ARCHITECTURE

    def need(key: str) -> Any:
        value = m.get(f"{a}.{key}")
        if value is None:
            raise GgufError(f"{model.path}: the key {a}.{key} is missing")
        return value

    old = has_unsplit_attention(model) or f"{a}.attention.key_length_mla" not in m
    rope = need("rope.dimension_count")
    key_length = need("attention.key_length" if old else "attention.key_length_mla")
    tokens = m.get("tokenizer.ggml.tokens", [])
    embedding = model.tensors.get("token_embd.weight")
    groups = m.get(f"{a}.expert_group_count", 1)
    d: dict[str, Any] = {
        "architectures": ["DeepseekV2ForCausalLM"],
        "num_hidden_layers": need("block_count"),
        "hidden_size": need("embedding_length"),
        "intermediate_size": need("feed_forward_length"),
        "moe_intermediate_size": need("expert_feed_forward_length"),
        "num_attention_heads": need("attention.head_count"),
        "q_lora_rank": m.get(f"{a}.attention.q_lora_rank"),
        "kv_lora_rank": need("attention.kv_lora_rank"),
        "qk_nope_head_dim": key_length - rope if _is_int(key_length) and _is_int(rope) else key_length,
        "qk_rope_head_dim": rope,
        "v_head_dim": need("attention.value_length" if old else "attention.value_length_mla"),
        "n_routed_experts": need("expert_count"),
        "n_shared_experts": need("expert_shared_count"),
        "num_experts_per_tok": need("expert_used_count"),
        "first_k_dense_replace": need("leading_dense_block_count"),
        "n_group": groups,
        "topk_group": m.get(f"{a}.expert_group_used_count", 1),
        "topk_method": "group_limited_greedy" if groups != 1 else "greedy",
        "norm_topk_prob": m.get(f"{a}.expert_weights_norm", False),
        "routed_scaling_factor": m.get(f"{a}.expert_weights_scale", 1.0),
        "scoring_func": {1: "softmax", 2: "sigmoid"}.get(m.get(f"{a}.expert_gating_func", 1), "unknown"),
        "rms_norm_eps": need("attention.layer_norm_rms_epsilon"),
        "rope_theta": m.get(f"{a}.rope.freq_base", 10000.0),
        "max_position_embeddings": need("context_length"),
        "vocab_size": embedding[1].shape[0] if embedding else len(tokens) or None,
        "bos_token_id": m.get("tokenizer.ggml.bos_token_id"),
        "eos_token_id": m.get("tokenizer.ggml.eos_token_id"),
        "tie_word_embeddings": "output.weight" not in model.tensors,
    }
    if m.get(f"{a}.rope.scaling.type") == "yarn":
        multiplier = m.get(f"{a}.rope.scaling.yarn_log_multiplier", 0.0)
        mscale = multiplier * 10 if isinstance(multiplier, float) else multiplier
        d["rope_scaling"] = {
            "type": "yarn",
            "factor": need("rope.scaling.factor"),
            "beta_fast": m.get(f"{a}.rope.scaling.yarn_beta_fast", 32.0),
            "beta_slow": m.get(f"{a}.rope.scaling.yarn_beta_slow", 1.0),
            "mscale": mscale,
            "mscale_all_dim": mscale,
            "original_max_position_embeddings": need("rope.scaling.original_context_length"),
        }
    return ModelConfig.from_dict(d, str(model.path))


def _is_int(value: Any) -> bool:
    return type(value) is int
