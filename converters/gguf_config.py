"""The sizes and constants of a model, read back from the metadata of its GGUF file."""

import re
from collections.abc import Mapping
from typing import Any

from converters.config import ARCHITECTURE as CHECKPOINT_ARCHITECTURE
from converters.config import ConfigError, ModelConfig
from converters.expert_groups import grouping
from converters.gguf_header import GgufError, GgufHeader
from converters.metadata import ARCHITECTURE
from quant.recipes import is_expert

SOFTMAX_GATING = (0, 1)
"""``expert_gating_func``: 1 is softmax, DeepSeek-V2's; 2 the sigmoid of DeepSeek-V3. Files of 2024 lack the key."""
LEAST_TENSORS = 9
"""How many tensors a layer has at least."""

_REQUIRED = {
    "num_hidden_layers": "block_count",
    "hidden_size": "embedding_length",
    "intermediate_size": "feed_forward_length",
    "moe_intermediate_size": "expert_feed_forward_length",
    "num_attention_heads": "attention.head_count",
    "kv_lora_rank": "attention.kv_lora_rank",
    "qk_rope_head_dim": "rope.dimension_count",
    "n_routed_experts": "expert_count",
    "n_shared_experts": "expert_shared_count",
    "num_experts_per_tok": "expert_used_count",
    "first_k_dense_replace": "leading_dense_block_count",
    "rms_norm_eps": "attention.layer_norm_rms_epsilon",
    "max_position_embeddings": "context_length",
}
"""A checkpoint's name for a number → GGUF's."""
_OPTIONAL = {
    "q_lora_rank": ("attention.q_lora_rank", None),
    "norm_topk_prob": ("expert_weights_norm", False),
    "routed_scaling_factor": ("expert_weights_scale", 1.0),
    "rope_theta": ("rope.freq_base", 10000.0),
}
_A_LAYER = (
    "attention.head_count",
    "feed_forward_length",
    "expert_feed_forward_length",
    "expert_used_count",
)
"""What llama.cpp takes a list for, too, with a number for each layer."""
_ONE = {
    "tokenizer.ggml.model": str,
    "tokenizer.ggml.pre": str,
    "tokenizer.chat_template": str,
    "split.no": int,
    "split.count": int,
    "split.tensors.count": int,
}
_LISTS = {"tokenizer.ggml.tokens": str, "tokenizer.ggml.merges": str, "tokenizer.ggml.token_type": int}
"""Keys that are read in many places: the type of the value, or of the list's elements."""
_NAMES = _REQUIRED | {name: key for name, (key, _) in _OPTIONAL.items()}


class _Keys:
    """The values of ``deepseek2.*``."""

    def __init__(self, header: GgufHeader) -> None:
        self.path, self.metadata = header.path, header.metadata

    def get(self, key: str, default: Any = None) -> Any:
        value = self.metadata.get(f"{ARCHITECTURE}.{key}", default)
        layers = self.metadata.get(f"{ARCHITECTURE}.block_count")
        if key in _A_LAYER and isinstance(value, list) and value and value == [value[0]] * len(value):
            return value[0] if len(value) == layers else value
        return value

    def need(self, key: str) -> Any:
        value = self.get(key)
        if value is None:
            raise GgufError(
                f"{self.path}: the key {ARCHITECTURE}.{key} is missing", hint="convert it again with `coder convert`"
            )
        return value

    def integer(self, *keys: str) -> int:
        """The first of `keys` that is there; the last must be."""
        key = next((k for k in keys[:-1] if self.get(k) is not None), keys[-1])
        value = self.need(key)
        if type(value) is not int:
            raise GgufError(f"{self.path}: {ARCHITECTURE}.{key} is {value!r:.60}, not an integer")
        return value

    def number(self, key: str, default: float) -> float:
        value = self.get(key, default)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise GgufError(f"{self.path}: {ARCHITECTURE}.{key} is {value!r:.60}, not a number")
        return value


def config_of(header: GgufHeader) -> ModelConfig:
    """The config of a DeepSeek-V2 model in GGUF.

    Group keys that the file lacks are supplied where the model is known (:func:`converters.expert_groups.grouping`).

    Args:
        header: with the tensors of all parts, where the file is split.

    Raises:
        GgufError: another architecture, a key missing, or a value out of range, of the wrong type, or contradicting
            another or the tensors; always with the file's name and the key's.
    """
    if header.architecture != ARCHITECTURE:
        raise GgufError(
            f"{header.path}: its architecture is {header.architecture!r:.60}, not {ARCHITECTURE!r}",
            hint="this program knows DeepSeek-Coder-V2 and its relatives only",
        )
    _check_types(header)
    keys = _Keys(header)
    if keys.get("expert_gating_func", SOFTMAX_GATING[-1]) not in SOFTMAX_GATING:
        raise GgufError(f"{header.path}: its router is not a softmax: this is no DeepSeek-V2")
    if "token_embd.weight" not in header.tensors:
        raise GgufError(f"{header.path} has no tensor token_embd.weight")
    try:
        config = ModelConfig.from_dict(_as_checkpoint(header, keys), str(header.path))
    except ConfigError as error:
        raise GgufError(_in_gguf_terms(error.message)) from None
    _check_tensors(header, config)
    return config


def _check_types(header: GgufHeader) -> None:
    for key, kind in (_ONE | _LISTS).items():
        value = header.metadata.get(key)
        if value is None:
            continue
        listed = key in _LISTS
        some = value[:1] if isinstance(value, list) and listed else [value]  # the elements of a list are of one type
        if isinstance(value, list) != listed or not all(type(v) is kind for v in some):
            what = {str: "text", int: "whole numbers" if listed else "a whole number"}[kind]
            raise GgufError(f"{header.path}: {key} is {value!r:.60}, not {'a list of ' if listed else ''}{what}")


def _as_checkpoint(header: GgufHeader, keys: _Keys) -> dict[str, Any]:
    """What config.json says of the same model."""
    rope = keys.integer("rope.dimension_count")
    try:
        groups = grouping(header.metadata)
    except GgufError as error:
        raise GgufError(f"{header.path}: {error.message}") from None
    d: dict[str, Any] = {name: keys.need(key) for name, key in _REQUIRED.items()}
    d |= {name: keys.get(key, default) for name, (key, default) in _OPTIONAL.items()}
    d["routed_scaling_factor"] = d["routed_scaling_factor"] or 1.0  # 0 is how llama.cpp says that there is none
    return d | {
        "architectures": [CHECKPOINT_ARCHITECTURE],
        # from before the MLA split, these are what is called ..._mla in later files
        "qk_nope_head_dim": keys.integer("attention.key_length_mla", "attention.key_length") - rope,
        "v_head_dim": keys.integer("attention.value_length_mla", "attention.value_length"),
        "n_group": groups.groups,
        "topk_group": groups.used,
        "topk_method": "group_limited_greedy" if groups.groups > 1 else "greedy",
        "vocab_size": header.tensors["token_embd.weight"].shape[0],
        "bos_token_id": header.metadata.get("tokenizer.ggml.bos_token_id"),
        "eos_token_id": header.metadata.get("tokenizer.ggml.eos_token_id"),
        "tie_word_embeddings": "output.weight" not in header.tensors,
        "rope_scaling": _yarn(header.metadata, keys),
    }


def _yarn(metadata: Mapping[str, Any], keys: _Keys) -> dict[str, Any] | None:
    if metadata.get(f"{ARCHITECTURE}.rope.scaling.type") != "yarn":
        return None
    mscale = keys.number("rope.scaling.yarn_log_multiplier", 0.0) / 0.1
    return {
        "type": "yarn",
        "factor": keys.need("rope.scaling.factor"),
        "beta_fast": keys.number("rope.scaling.yarn_beta_fast", 32.0),
        "beta_slow": keys.number("rope.scaling.yarn_beta_slow", 1.0),
        "mscale": mscale,
        "mscale_all_dim": mscale,
        "original_max_position_embeddings": keys.need("rope.scaling.original_context_length"),
    }


def _in_gguf_terms(message: str) -> str:
    """A complaint about a config, with the names that the keys have here."""
    return re.sub(r"\b\w+\b", lambda m: f"{ARCHITECTURE}.{_NAMES[m[0]]}" if m[0] in _NAMES else m[0], message)


def _check_tensors(header: GgufHeader, c: ModelConfig) -> None:
    """Hold the numbers against the tensors: what is listed or made from them later must be sane."""
    if c.n_layers * LEAST_TENSORS > len(header.tensors):
        raise GgufError(f"{header.path}: {c.n_layers} layers, but only {len(header.tensors)} tensors")
    experts = sum(info.shape[0] for name, info in header.tensors.items() if is_expert(name))
    if c.n_routed_experts * c.n_moe_layers > experts:  # three times, if no tensor is missing
        raise GgufError(f"{header.path}: {c.n_routed_experts} experts, but their tensors have room for fewer")
    router = header.tensors.get(f"blk.{c.n_dense_layers}.ffn_gate_inp.weight")
    if c.n_dense_layers < c.n_layers and (router is None or router.shape[0] != c.n_routed_experts):
        found = f"is for {router.shape[0]}" if router else "is missing"
        raise GgufError(f"{header.path}: {c.n_routed_experts} experts, but the router of the first such layer {found}")
