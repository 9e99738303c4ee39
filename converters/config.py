"""The numbers of the architecture: config.json, in both of its spellings, checked value by value.

Published checkpoints spell the rotary settings ``rope_theta`` + ``rope_scaling{type}``; checkpoints saved again by
transformers 5 spell them ``rope_parameters{rope_type}``. Names of the quantities follow the DeepSeek-V2 paper (§2).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from converters.json_file import read_json_object
from quant.errors import InputError

ARCHITECTURE = "DeepseekV2ForCausalLM"
MODEL_TYPE = "deepseek_v2"
MOST_LAYERS, MOST_EXPERTS = 512, 1024
"""What llama.cpp has room for (LLAMA_MAX_LAYERS, LLAMA_MAX_EXPERTS)."""


class ConfigError(InputError):
    """A value of config.json is missing, of the wrong type, out of range, or contradicts another."""


@dataclass(frozen=True)
class YarnConfig:
    """YaRN context extension (arXiv 2309.00071). The softmax scale carries (0.1·mscale_all_dim·ln factor + 1)²."""

    factor: float
    beta_fast: float
    beta_slow: float
    mscale: float
    mscale_all_dim: float
    original_context: int
    """Tokens the model was trained on before the extension."""


@dataclass(frozen=True)
class ModelConfig:
    """Everything about the architecture that the weights' shapes and the forward pass depend on."""

    n_layers: int
    hidden_size: int
    dense_ffn_size: int
    expert_ffn_size: int
    n_heads: int
    q_lora_rank: int | None
    """Rank of the query compression; None where queries are not compressed (Lite)."""
    kv_lora_rank: int
    qk_nope_head_dim: int
    qk_rope_head_dim: int
    v_head_dim: int
    n_routed_experts: int
    n_shared_experts: int
    n_experts_per_token: int
    n_dense_layers: int
    """Leading layers with a dense FFN."""
    n_groups: int
    n_groups_used: int
    topk_method: str
    """"greedy" or "group_limited_greedy" (groups chosen by their best expert)."""
    norm_topk_prob: bool
    routed_scaling_factor: float
    rms_norm_eps: float
    rope_theta: float
    yarn: YarnConfig | None
    max_context: int
    vocab_size: int
    bos_token_id: int
    eos_token_id: int
    tie_word_embeddings: bool

    @property
    def n_moe_layers(self) -> int:
        """Layers with routed experts: all after the leading dense ones."""
        return self.n_layers - self.n_dense_layers

    @property
    def qk_head_dim(self) -> int:
        """Width of one query or key head, without and with rotation together."""
        return self.qk_nope_head_dim + self.qk_rope_head_dim

    @classmethod
    def from_dict(cls, d: Mapping[str, Any], source: str = "config.json") -> "ModelConfig":
        """Read the numbers from the object that config.json holds.

        Args:
            d: the parsed JSON object.
            source: how messages call it.

        Raises:
            ConfigError: another architecture, or a value missing, of the wrong type, out of range, or contradictory.
        """
        r = _Reader(d, source)
        _check_architecture(r)
        rope_theta, yarn = _read_rope(r)
        heads = r.integer("num_attention_heads", 1, 4096)
        config = cls(
            n_layers=r.integer("num_hidden_layers", 1, MOST_LAYERS),
            hidden_size=r.integer("hidden_size", 1, 1 << 17),
            dense_ffn_size=r.integer("intermediate_size", 1, 1 << 20),
            expert_ffn_size=r.integer("moe_intermediate_size", 1, 1 << 20),
            n_heads=heads,
            q_lora_rank=r.integer("q_lora_rank", 0, 1 << 17, default=None) or None,
            kv_lora_rank=r.integer("kv_lora_rank", 1, 1 << 16),
            qk_nope_head_dim=r.integer("qk_nope_head_dim", 1, 1 << 14),
            qk_rope_head_dim=r.integer("qk_rope_head_dim", 2, 1 << 14),
            v_head_dim=r.integer("v_head_dim", 1, 1 << 14),
            n_routed_experts=r.integer("n_routed_experts", 1, MOST_EXPERTS),
            n_shared_experts=r.integer("n_shared_experts", 1, 256),
            n_experts_per_token=r.integer("num_experts_per_tok", 1, 4096),
            n_dense_layers=r.integer("first_k_dense_replace", 0, 1024),
            n_groups=r.integer("n_group", 1, 4096, default=None) or 1,
            n_groups_used=r.integer("topk_group", 1, 4096, default=None) or 1,
            topk_method=r.one_of("topk_method", ("greedy", "group_limited_greedy"), default="greedy"),
            norm_topk_prob=r.boolean("norm_topk_prob", default=False),
            routed_scaling_factor=r.number("routed_scaling_factor", 1e-6, 1e6, default=1.0),
            rms_norm_eps=r.number("rms_norm_eps", 1e-12, 1.0),
            rope_theta=rope_theta,
            yarn=yarn,
            max_context=r.integer("max_position_embeddings", 1, 1 << 30),
            vocab_size=r.integer("vocab_size", 1, 1 << 24),
            bos_token_id=r.integer("bos_token_id", 0, 1 << 24),
            eos_token_id=r.integer("eos_token_id", 0, 1 << 24),
            tie_word_embeddings=r.boolean("tie_word_embeddings", default=False),
        )
        _check_together(config, r)
        return config


def read_config(folder: Path) -> ModelConfig:
    """Read `folder`/config.json.

    Raises:
        InputError: no such folder or file, or a bad value in it (see `ModelConfig.from_dict`).
    """
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder", hint="give the folder that holds config.json and the shards")
    path = folder / "config.json"
    if not path.exists():
        raise InputError(f"{folder} has no config.json", hint="a checkpoint folder holds config.json and *.safetensors")
    return ModelConfig.from_dict(read_json_object(path), str(path))


_REQUIRED: Any = object()


class _Reader:
    """Typed, bounded access to the values of a JSON object; every complaint names the file, the key and the value."""

    def __init__(self, d: Mapping[str, Any], source: str) -> None:
        self.d, self.source = d, source

    def fail(self, message: str) -> ConfigError:
        return ConfigError(f"{self.source}: {message}")

    def _get(self, key: str, default: Any) -> Any:
        value = self.d.get(key)
        if value is not None:
            return value
        if default is _REQUIRED:
            raise self.fail(f"{key} is missing")
        return default

    def integer(self, key: str, low: int, high: int, default: Any = _REQUIRED) -> int:
        value = self._get(key, default)
        if value is default:
            return default  # type: ignore[no-any-return]
        if isinstance(value, bool) or not isinstance(value, int):
            raise self.fail(f"{key} is {value!r:.60}, not an integer")
        if not low <= value <= high:
            raise self.fail(f"{key} is {value!r:.60}, outside {low}…{high}")
        return value

    def number(self, key: str, low: float, high: float, default: Any = _REQUIRED) -> float:
        value = self._get(key, default)
        if value is default:
            return default  # type: ignore[no-any-return]
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise self.fail(f"{key} is {value!r:.60}, not a number")
        if not low <= value <= high:  # NaN fails this too
            raise self.fail(f"{key} is {value!r:.60}, outside {low:g}…{high:g}")
        return float(value)

    def boolean(self, key: str, default: bool) -> bool:
        value = self._get(key, default)
        if not isinstance(value, bool):
            raise self.fail(f"{key} is {value!r:.60}, not true or false")
        return value

    def one_of(self, key: str, allowed: tuple[str, ...], default: str) -> str:
        value = self._get(key, default)
        if value not in allowed:
            raise self.fail(f"{key} is {value!r:.60}; known are {', '.join(allowed)}")
        return str(value)

    def section(self, key: str) -> "_Reader | None":
        value = self.d.get(key)
        if value is None:
            return None
        if not isinstance(value, Mapping):
            raise self.fail(f"{key} is {value!r:.60}, not an object")
        return _Reader(value, f"{self.source}: {key}")


def _check_architecture(r: _Reader) -> None:
    named = r.d.get("architectures")
    kind = r.d.get("model_type")
    if named is None and kind is None:
        raise r.fail("neither architectures nor model_type is there: not a model's config")
    if (named is not None and named != [ARCHITECTURE]) or (kind is not None and kind != MODEL_TYPE):
        shown = named if named != [ARCHITECTURE] and named is not None else kind
        raise ConfigError(
            f"{r.source}: the architecture is {shown!r:.80}, not {ARCHITECTURE}",
            hint="only the DeepSeek-V2 family (DeepSeek-Coder-V2, -Lite) is converted",
        )
    # What the forward pass takes for granted; a config that says otherwise would be converted into a wrong model.
    for key, expected in (("scoring_func", "softmax"), ("hidden_act", "silu"), ("moe_layer_freq", 1)):
        if r.d.get(key, expected) != expected:
            raise r.fail(f"{key} is {r.d[key]!r:.60}; only {expected!r} is known for this architecture")
    for key in ("attention_bias", "mlp_bias"):
        if r.boolean(key, default=False):
            raise r.fail(f"{key} is true; this architecture has no biases")


def _read_rope(r: _Reader) -> tuple[float, YarnConfig | None]:
    new, old = r.section("rope_parameters"), r.section("rope_scaling")
    scaling = new or old
    theta_reader = r if r.d.get("rope_theta") is not None or scaling is None else scaling
    theta = theta_reader.number("rope_theta", 1.0, 1e12)
    if scaling is None:
        return theta, None
    kinds = ("yarn", "default")
    kind = scaling.one_of("rope_type" if scaling.d.get("rope_type") is not None else "type", kinds, default="default")
    if kind == "default":
        if "factor" in scaling.d:
            raise scaling.fail("a factor is given, but no type")
        return theta, None
    if theta <= 1:
        raise theta_reader.fail(f"rope_theta is {theta:g}; YaRN needs more than 1")  # it divides by its logarithm
    yarn = YarnConfig(
        factor=scaling.number("factor", 1.0, 1e6),
        beta_fast=scaling.number("beta_fast", 1e-3, 1e6, default=32.0),
        beta_slow=scaling.number("beta_slow", 1e-3, 1e6, default=1.0),
        mscale=scaling.number("mscale", 0.0, 100.0, default=1.0),
        mscale_all_dim=scaling.number("mscale_all_dim", 0.0, 100.0, default=0.0),
        original_context=scaling.integer("original_max_position_embeddings", 1, 1 << 30),
    )
    return theta, yarn


def _check_together(c: ModelConfig, r: _Reader) -> None:
    if c.n_dense_layers > c.n_layers:
        raise r.fail(f"first_k_dense_replace is {c.n_dense_layers}, more than the {c.n_layers} layers")
    if c.qk_rope_head_dim % 2:
        raise r.fail(f"qk_rope_head_dim is {c.qk_rope_head_dim}, but rotary pairs need an even number")
    if c.n_routed_experts % c.n_groups:
        raise r.fail(f"n_routed_experts {c.n_routed_experts} does not divide into n_group {c.n_groups} groups")
    if c.n_groups_used > c.n_groups:
        raise r.fail(f"topk_group is {c.n_groups_used}, more than n_group {c.n_groups}")
    reachable = c.n_routed_experts
    if c.topk_method == "group_limited_greedy":
        reachable = c.n_routed_experts // c.n_groups * c.n_groups_used
    if c.n_experts_per_token > reachable:
        raise r.fail(f"num_experts_per_tok is {c.n_experts_per_token}, but only {reachable} experts can be chosen from")
    for key, token in (("bos_token_id", c.bos_token_id), ("eos_token_id", c.eos_token_id)):
        if token >= c.vocab_size:
            raise r.fail(f"{key} is {token}, outside the vocabulary of {c.vocab_size}")
    kv_heads = r.integer("num_key_value_heads", 1, 4096, default=c.n_heads)
    if kv_heads != c.n_heads:
        raise r.fail(f"num_key_value_heads is {kv_heads}, but num_attention_heads is {c.n_heads}; here they are equal")
    if c.yarn and not math.isfinite(c.yarn.factor * c.yarn.original_context):
        raise r.fail("the extended context is not a finite number")
