"""The sizes and constants of a model, read from the metadata of its GGUF file."""

from collections.abc import Mapping
from typing import Any

from converters.config import ModelConfig, YarnConfig
from converters.gguf_header import GgufHeader
from quant.errors import InputError

ARCHITECTURE = "deepseek2"
SOFTMAX_GATING = 1
"""``expert_gating_func``: softmax, DeepSeek-V2's; 2 is the sigmoid of DeepSeek-V3. Files of 2024 lack the key."""
MOST_LAYERS, MOST_EXPERTS, MOST_HEADS, MOST_SHARED = 1024, 4096, 4096, 256
"""As for a checkpoint's config. The tensors that a file should have are listed from these, so they must be sane."""
LEAST_TENSORS = 9
"""How many tensors a layer has at least."""


class _Keys:
    """Typed access to ``deepseek2.*``; every complaint names the file, the key and the value."""

    def __init__(self, header: GgufHeader) -> None:
        self.path, self.metadata = header.path, header.metadata

    def number(self, key: str, default: float | None = None, least: float = 0) -> float:
        full = f"{ARCHITECTURE}.{key}"
        value = self.metadata.get(full, default)
        if isinstance(value, list) and value and all(v == value[0] for v in value):
            value = value[0]  # a number for each layer, all the same
        if value is None:
            raise InputError(f"{self.path}: the key {full} is missing", hint="convert it again with `coder convert`")
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not least <= value < 1e12:
            raise InputError(f"{self.path}: {full} is {value!r:.60}, not a number from {least:g} on")
        return float(value)

    def integer(self, key: str, default: int | None = None, least: int = 1, most: int = 1 << 20) -> int:
        value = self.number(key, default, least)
        if value > most:
            raise InputError(f"{self.path}: {ARCHITECTURE}.{key} is {value:g}, more than the {most} that are possible")
        if value != int(value):
            raise InputError(f"{self.path}: {ARCHITECTURE}.{key} is {value:g}, not a whole number")
        return int(value)


def config_of(header: GgufHeader) -> ModelConfig:
    """The config of a DeepSeek-V2 model in GGUF.

    Group keys that the file lacks are supplied where the model is known to need them (:func:`groups_of`).

    Raises:
        InputError: another architecture, or a key missing or impossible.
    """
    if header.architecture != ARCHITECTURE:
        raise InputError(
            f"{header.path}: its architecture is {header.architecture!r:.60}, not {ARCHITECTURE!r}",
            hint="only DeepSeek-Coder-V2 and its relatives can be checked",
        )
    keys = _Keys(header)
    if keys.integer("expert_gating_func", SOFTMAX_GATING, 0) not in (0, SOFTMAX_GATING):
        raise InputError(f"{header.path}: its router is not a softmax: this is no DeepSeek-V2")
    if "token_embd.weight" not in header.tensors:
        raise InputError(f"{header.path} has no tensor token_embd.weight", hint="is it one part of a split file?")
    rope = keys.integer("rope.dimension_count", least=2)
    key_length = keys.integer("attention.key_length_mla", keys.integer("attention.key_length"))
    groups, groups_used = groups_of(header.metadata)
    c = ModelConfig(
        n_layers=keys.integer("block_count", most=MOST_LAYERS),
        hidden_size=keys.integer("embedding_length"),
        dense_ffn_size=keys.integer("feed_forward_length"),
        expert_ffn_size=keys.integer("expert_feed_forward_length"),
        n_heads=keys.integer("attention.head_count", most=MOST_HEADS),
        q_lora_rank=keys.integer("attention.q_lora_rank", 0, 0) or None,
        kv_lora_rank=keys.integer("attention.kv_lora_rank"),
        qk_nope_head_dim=key_length - rope,
        qk_rope_head_dim=rope,
        v_head_dim=keys.integer("attention.value_length_mla", keys.integer("attention.value_length")),
        n_routed_experts=keys.integer("expert_count", most=MOST_EXPERTS),
        n_shared_experts=keys.integer("expert_shared_count", 0, 0, MOST_SHARED),
        n_experts_per_token=keys.integer("expert_used_count"),
        n_dense_layers=keys.integer("leading_dense_block_count", 0, 0),
        n_groups=groups,
        n_groups_used=groups_used,
        topk_method="group_limited_greedy" if groups > 1 else "greedy",
        norm_topk_prob=bool(header.metadata.get(f"{ARCHITECTURE}.expert_weights_norm", False)),
        routed_scaling_factor=keys.number("expert_weights_scale", 1.0) or 1.0,
        rms_norm_eps=keys.number("attention.layer_norm_rms_epsilon"),
        rope_theta=keys.number("rope.freq_base", 10000.0, 1),
        yarn=_yarn(header.metadata, keys),
        max_context=keys.integer("context_length", most=1 << 31),
        vocab_size=header.tensors["token_embd.weight"].shape[0],
        bos_token_id=_token(header.metadata, "bos"),
        eos_token_id=_token(header.metadata, "eos"),
        tie_word_embeddings="output.weight" not in header.tensors,
    )
    reach = c.n_routed_experts // c.n_groups * c.n_groups_used
    if c.n_routed_experts % c.n_groups or c.n_groups_used > c.n_groups or c.n_experts_per_token > reach:
        raise InputError(
            f"{header.path}: {c.n_experts_per_token} of {c.n_routed_experts} experts cannot be chosen from "
            f"{c.n_groups_used} of {c.n_groups} groups"
        )
    if c.n_layers * LEAST_TENSORS > len(header.tensors):
        raise InputError(f"{header.path}: {c.n_layers} layers, but only {len(header.tensors)} tensors")
    router = header.tensors.get(f"blk.{c.n_dense_layers}.ffn_gate_inp.weight")
    if c.n_dense_layers < c.n_layers and (router is None or router.shape[0] != c.n_routed_experts):
        found = f"is for {router.shape[0]}" if router else "is missing"
        raise InputError(f"{header.path}: {c.n_routed_experts} experts, but the router of the first such layer {found}")
    if c.qk_nope_head_dim < 1 or rope % 2:
        raise InputError(f"{header.path}: {rope} rotary dims cannot be part of heads of {key_length}")
    return c


def groups_of(metadata: Mapping[str, Any]) -> tuple[int, int]:
    """How many groups the experts are in, and how many of them a token may use; (1, 1) is no grouping.

    Files of the 236B made in 2024 carry no group keys, though its router needs them: 8 and 3 (section 3.1.2) are
    supplied for a file of that model's depth and number of experts.
    """
    groups = metadata.get(f"{ARCHITECTURE}.expert_group_count", 0)
    used = metadata.get(f"{ARCHITECTURE}.expert_group_used_count", 0)
    if type(groups) is int and type(used) is int and groups > 1 and used > 0:
        return groups, used
    depth, experts = (metadata.get(f"{ARCHITECTURE}.{key}") for key in ("block_count", "expert_count"))
    return (8, 3) if (depth, experts) == (60, 160) and not groups else (1, 1)


def _yarn(metadata: Mapping[str, Any], keys: _Keys) -> YarnConfig | None:
    if metadata.get(f"{ARCHITECTURE}.rope.scaling.type") != "yarn":
        return None
    mscale = keys.number("rope.scaling.yarn_log_multiplier", 0.0, -1e3) / 0.1
    return YarnConfig(
        factor=keys.number("rope.scaling.factor", least=1),
        beta_fast=keys.number("rope.scaling.yarn_beta_fast", 32.0),
        beta_slow=keys.number("rope.scaling.yarn_beta_slow", 1.0),
        mscale=mscale,
        mscale_all_dim=mscale,
        original_context=keys.integer("rope.scaling.original_context_length", most=1 << 31),
    )


def _token(metadata: Mapping[str, Any], which: str) -> int:
    value = metadata.get(f"tokenizer.ggml.{which}_token_id", 0)
    return value if type(value) is int else 0
