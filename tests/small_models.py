"""Small DeepSeek-V2 models for tests: random checkpoints, and GGUFs written with gguf-py, not with our converter.

So what the tests of the reference and of `verify` find does not depend on the code they are there to check.
"""

import json
import struct
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from converters.config import ModelConfig, read_config
from converters.gguf_header import read_header
from converters.safetensors_shards import Checkpoint
from quant import ggml
from quant.block_types import block_type

GOLDEN = Path(__file__).resolve().parents[2] / "shared" / "golden"

LITE: dict[str, Any] = {
    "architectures": ["DeepseekV2ForCausalLM"],
    "model_type": "deepseek_v2",
    "num_hidden_layers": 3,
    "hidden_size": 64,
    "intermediate_size": 96,
    "moe_intermediate_size": 32,
    "num_attention_heads": 2,
    "q_lora_rank": None,
    "kv_lora_rank": 32,
    "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 8,
    "v_head_dim": 16,
    "n_routed_experts": 8,
    "n_shared_experts": 2,
    "num_experts_per_tok": 3,
    "first_k_dense_replace": 1,
    "n_group": 1,
    "topk_group": 1,
    "topk_method": "greedy",
    "norm_topk_prob": False,
    "routed_scaling_factor": 1.0,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000,
    "rope_scaling": {
        "type": "yarn",
        "factor": 40,
        "beta_fast": 32,
        "beta_slow": 1,
        "mscale": 0.707,
        "mscale_all_dim": 0.707,
        "original_max_position_embeddings": 4096,
    },
    "max_position_embeddings": 163840,
    "vocab_size": 300,
    "bos_token_id": 298,
    "eos_token_id": 299,
    "tie_word_embeddings": False,
}
FULL = LITE | {
    "q_lora_rank": 32,
    "n_routed_experts": 32,
    "num_experts_per_tok": 6,
    "n_group": 8,
    "topk_group": 3,
    "topk_method": "group_limited_greedy",
    "routed_scaling_factor": 16.0,
}


def golden(name: str) -> Path:
    """The golden checkpoint `name`; skips the test where it is not at hand."""
    folder = GOLDEN / name
    if not (folder / "golden.npz").exists():
        pytest.skip(f"the golden checkpoint {name} is not beside the repository")
    return folder


def random_checkpoint(folder: Path, config: dict[str, Any], seed: int = 1) -> Path:
    """Write a checkpoint with random float32 weights."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    c, rng = read_config(folder), np.random.default_rng(seed)
    header: dict[str, Any] = {}
    chunks: list[bytes] = []
    at = 0
    for name, shape in checkpoint_shapes(c).items():
        spread = 2 if name.endswith("mlp.gate.weight") else 1
        values = rng.uniform(0.8, 1.2, shape) if "norm" in name else rng.normal(0, spread / shape[-1] ** 0.5, shape)
        raw = values.astype("<f4").tobytes()
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [at, at + len(raw)]}
        chunks.append(raw)
        at += len(raw)
    text = json.dumps(header).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + b"".join(chunks))
    return folder


def checkpoint_shapes(c: ModelConfig) -> dict[str, tuple[int, ...]]:
    d, q_rows = c.hidden_size, c.n_heads * c.qk_head_dim
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (c.vocab_size, d), "model.norm.weight": (d,)}
    if not c.tie_word_embeddings:
        shapes["lm_head.weight"] = (c.vocab_size, d)

    def network(prefix: str, width: int) -> None:
        shapes[prefix + "gate_proj.weight"] = shapes[prefix + "up_proj.weight"] = (width, d)
        shapes[prefix + "down_proj.weight"] = (d, width)

    for i in range(c.n_layers):
        a, m = f"model.layers.{i}.self_attn.", f"model.layers.{i}.mlp."
        shapes[f"model.layers.{i}.input_layernorm.weight"] = (d,)
        shapes[f"model.layers.{i}.post_attention_layernorm.weight"] = (d,)
        if c.q_lora_rank:
            shapes[a + "q_a_proj.weight"] = (c.q_lora_rank, d)
            shapes[a + "q_a_layernorm.weight"] = (c.q_lora_rank,)
            shapes[a + "q_b_proj.weight"] = (q_rows, c.q_lora_rank)
        else:
            shapes[a + "q_proj.weight"] = (q_rows, d)
        shapes[a + "kv_a_proj_with_mqa.weight"] = (c.kv_lora_rank + c.qk_rope_head_dim, d)
        shapes[a + "kv_a_layernorm.weight"] = (c.kv_lora_rank,)
        shapes[a + "kv_b_proj.weight"] = (c.n_heads * (c.qk_nope_head_dim + c.v_head_dim), c.kv_lora_rank)
        shapes[a + "o_proj.weight"] = (d, c.n_heads * c.v_head_dim)
        if i < c.n_dense_layers:
            network(m, c.dense_ffn_size)
            continue
        shapes[m + "gate.weight"] = (c.n_routed_experts, d)
        network(m + "shared_experts.", c.n_shared_experts * c.expert_ffn_size)
        for e in range(c.n_routed_experts):
            network(f"{m}experts.{e}.", c.expert_ffn_size)
    return shapes


def write_gguf(
    checkpoint: Path,
    path: Path,
    *,
    split_mla: bool = True,
    group_keys: bool = True,
    fused_experts: bool = False,
    special_tokens: bool = True,
    matrices: str = "F32",
) -> Path:
    """Write the GGUF of a checkpoint; `matrices` is the type of all matrices but the router.

    Without `special_tokens` all tokens are normal ones, as in some files of 2024.
    """
    c, source = read_config(checkpoint), Checkpoint.open(checkpoint)
    w = gguf.GGUFWriter(path, "deepseek2")
    _write_metadata(w, c, checkpoint, split_mla, group_keys)
    tokens = _tokens(c, checkpoint)
    w.add_token_types(_token_types(tokens, checkpoint) if special_tokens else [gguf.TokenType.NORMAL] * len(tokens))

    def add(name: str, values: np.ndarray) -> None:
        kind = block_type(matrices if values.ndim > 1 and "gate_inp" not in name else "F32")
        values = np.ascontiguousarray(values, np.float32)
        kind = kind if kind.fits(values.shape[-1]) else block_type("F32")
        raw = ggml.quantize(values.reshape(-1, values.shape[-1]), kind) if values.ndim > 1 else values.view(np.uint8)
        shape = (*values.shape[:-1], kind.row_bytes(values.shape[-1]))
        if kind.name == "F32":
            w.add_tensor(name + ".weight", values)
        else:
            w.add_tensor(name + ".weight", raw.reshape(shape), raw_dtype=gguf.GGMLQuantizationType[kind.name])

    def read(name: str) -> np.ndarray:
        return source.read_f32(name + ".weight")

    add("token_embd", read("model.embed_tokens"))
    add("output_norm", read("model.norm"))
    if not c.tie_word_embeddings:
        add("output", read("lm_head"))
    for i in range(c.n_layers):
        theirs, ours = f"model.layers.{i}.", f"blk.{i}."
        names = {"input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm"}
        names |= {"self_attn.kv_a_proj_with_mqa": "attn_kv_a_mqa", "self_attn.kv_a_layernorm": "attn_kv_a_norm"}
        names |= {"self_attn.o_proj": "attn_output"}
        if c.q_lora_rank:
            names |= {"self_attn.q_a_proj": "attn_q_a", "self_attn.q_a_layernorm": "attn_q_a_norm"}
            names |= {"self_attn.q_b_proj": "attn_q_b"}
        else:
            names |= {"self_attn.q_proj": "attn_q"}
        if i < c.n_dense_layers:
            names |= {f"mlp.{k}_proj": f"ffn_{k}" for k in ("gate", "up", "down")}
        else:
            names |= {f"mlp.shared_experts.{k}_proj": f"ffn_{k}_shexp" for k in ("gate", "up", "down")}
            names |= {"mlp.gate": "ffn_gate_inp"}
            stacks = {
                k: np.stack([read(f"{theirs}mlp.experts.{e}.{k}_proj") for e in range(c.n_routed_experts)])
                for k in ("gate", "up", "down")
            }
            if fused_experts:
                stacks["gate_up"] = np.concatenate([stacks.pop("gate"), stacks.pop("up")], axis=1)
            for k, experts in stacks.items():
                add(f"{ours}ffn_{k}_exps", experts)
        for a, b in names.items():
            add(ours + b, read(theirs + a))
        kv_b = read(theirs + "self_attn.kv_b_proj")
        if split_mla:
            heads = kv_b.reshape(c.n_heads, -1, c.kv_lora_rank)
            add(ours + "attn_k_b", heads[:, : c.qk_nope_head_dim].swapaxes(1, 2))
            add(ours + "attn_v_b", heads[:, c.qk_nope_head_dim :])
        else:
            add(ours + "attn_kv_b", kv_b)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()
    return path


def _write_metadata(w: gguf.GGUFWriter, c: ModelConfig, checkpoint: Path, split_mla: bool, group_keys: bool) -> None:
    w.add_block_count(c.n_layers)
    w.add_context_length(c.max_context)
    w.add_embedding_length(c.hidden_size)
    w.add_feed_forward_length(c.dense_ffn_size)
    w.add_expert_feed_forward_length(c.expert_ffn_size)
    w.add_head_count(c.n_heads)
    w.add_q_lora_rank(c.q_lora_rank or 0)
    w.add_kv_lora_rank(c.kv_lora_rank)
    w.add_head_count_kv(1 if split_mla else c.n_heads)
    w.add_key_length(c.kv_lora_rank + c.qk_rope_head_dim if split_mla else c.qk_head_dim)
    w.add_value_length(c.kv_lora_rank if split_mla else c.v_head_dim)
    if split_mla:
        w.add_key_length_mla(c.qk_head_dim)
        w.add_value_length_mla(c.v_head_dim)
    w.add_rope_dimension_count(c.qk_rope_head_dim)
    w.add_rope_freq_base(c.rope_theta)
    w.add_layer_norm_rms_eps(c.rms_norm_eps)
    w.add_leading_dense_block_count(c.n_dense_layers)
    w.add_vocab_size(c.vocab_size)
    w.add_expert_count(c.n_routed_experts)
    w.add_expert_shared_count(c.n_shared_experts)
    w.add_expert_used_count(c.n_experts_per_token)
    w.add_expert_weights_scale(c.routed_scaling_factor)
    w.add_expert_weights_norm(c.norm_topk_prob)
    w.add_expert_gating_func(gguf.ExpertGatingFuncType.SOFTMAX)
    if group_keys and c.n_groups > 1:
        w.add_expert_group_count(c.n_groups)
        w.add_expert_group_used_count(c.n_groups_used)
    if c.yarn:
        w.add_rope_scaling_type(gguf.RopeScalingType.YARN)
        w.add_rope_scaling_factor(c.yarn.factor)
        w.add_rope_scaling_orig_ctx_len(c.yarn.original_context)
        w.add_rope_scaling_yarn_log_mul(0.1 * c.yarn.mscale_all_dim)
    w.add_tokenizer_model("gpt2")
    w.add_tokenizer_pre("deepseek-llm")
    w.add_token_list(_tokens(c, checkpoint))
    w.add_token_merges(_merges(checkpoint))
    w.add_bos_token_id(c.bos_token_id)
    w.add_eos_token_id(c.eos_token_id)


def _tokens(c: ModelConfig, checkpoint: Path) -> list[str]:
    """Byte tokens in ids 0–255 where the checkpoint has no tokenizer of its own."""
    if not (checkpoint / "tokenizer.json").exists():
        visible = [chr(b) if 33 <= b <= 126 or 161 <= b <= 172 or b >= 174 else None for b in range(256)]
        spare = iter(range(256, 512))
        return [v or chr(next(spare)) for v in visible] + [f"<extra_{i}>" for i in range(256, c.vocab_size)]
    tokenizer = json.loads((checkpoint / "tokenizer.json").read_text())
    by_id = {i: t for t, i in tokenizer["model"]["vocab"].items()}
    by_id |= {t["id"]: t["content"] for t in tokenizer["added_tokens"]}
    return [by_id.get(i, f"[PAD{i}]") for i in range(c.vocab_size)]


def _token_types(tokens: list[str], checkpoint: Path) -> list[gguf.TokenType]:
    """All normal where the checkpoint has no tokenizer of its own; else as llama.cpp's converter has them."""
    kind = gguf.TokenType
    if not (checkpoint / "tokenizer.json").exists():
        return [kind.NORMAL] * len(tokens)
    tokenizer = json.loads((checkpoint / "tokenizer.json").read_text())
    types = dict.fromkeys(tokenizer["model"]["vocab"].values(), kind.NORMAL)
    for t in tokenizer["added_tokens"]:
        special = t.get("special") or (t["content"][:2], t["content"][-2:]) in (("<|", "|>"), ("<｜", "｜>"))
        types[t["id"]] = kind.CONTROL if special else kind.USER_DEFINED
    return [types.get(i, kind.UNUSED) for i in range(len(tokens))]


def _merges(checkpoint: Path) -> list[str]:
    if not (checkpoint / "tokenizer.json").exists():
        return ["a b"]
    model = json.loads((checkpoint / "tokenizer.json").read_text())["model"]
    return [m if isinstance(m, str) else " ".join(m) for m in model.get("merges") or [["a", "b"]]]


def patch_tensor(path: Path, name: str, values: np.ndarray) -> None:
    """Overwrite a tensor of a GGUF in place, in its own type."""
    info = read_header(path).tensors[name]
    rows = np.ascontiguousarray(values, np.float32).reshape(-1, info.shape[-1])
    raw = ggml.quantize(rows, info.type)
    assert raw.nbytes == info.nbytes
    with open(path, "r+b") as f:
        f.seek(info.offset)
        f.write(raw.tobytes())


def patch_float(path: Path, key: str, value: float) -> None:
    """Overwrite a float32 metadata value of a GGUF in place."""
    data = bytearray(path.read_bytes())
    head = struct.pack("<Q", len(key)) + key.encode() + struct.pack("<I", 6)
    at = data.index(head) + len(head)
    data[at : at + 4] = struct.pack("<f", value)
    path.write_bytes(data)
