"""Small random checkpoints in the published file format: sharded BF16 safetensors, config and tokenizer.

Written by hand and not with the safetensors library, so that tests can also write damaged ones.
"""

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from converters.config import ModelConfig
from converters.tensor_table import stored_shapes, tensor_table

DATA = Path(__file__).parent / "data"
SPECIAL = [
    "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜fim▁hole｜>", "<｜fim▁begin｜>", "<｜fim▁end｜>", "<|EOT|>",
]  # fmt: skip
YARN = {
    "type": "yarn", "factor": 40, "beta_fast": 32, "beta_slow": 1, "mscale": 0.707, "mscale_all_dim": 0.707,
    "original_max_position_embeddings": 4096,
}  # fmt: skip
LITE: dict[str, Any] = {
    "architectures": ["DeepseekV2ForCausalLM"], "model_type": "deepseek_v2", "torch_dtype": "bfloat16",
    "num_hidden_layers": 3, "hidden_size": 256, "intermediate_size": 352, "moe_intermediate_size": 96,
    "num_attention_heads": 2, "num_key_value_heads": 2, "q_lora_rank": None, "kv_lora_rank": 64,
    "qk_nope_head_dim": 32, "qk_rope_head_dim": 16, "v_head_dim": 32, "n_routed_experts": 6, "n_shared_experts": 2,
    "num_experts_per_tok": 2, "first_k_dense_replace": 1, "moe_layer_freq": 1, "n_group": 1, "topk_group": 1,
    "topk_method": "greedy", "norm_topk_prob": False, "routed_scaling_factor": 1.0, "scoring_func": "softmax",
    "hidden_act": "silu", "rms_norm_eps": 1e-6, "rope_theta": 10000, "rope_scaling": YARN,
    "max_position_embeddings": 163840, "vocab_size": 288, "bos_token_id": 264, "eos_token_id": 265,
    "tie_word_embeddings": False, "attention_bias": False,
}  # fmt: skip
FULL = LITE | {
    "q_lora_rank": 96, "n_routed_experts": 8, "n_group": 4, "topk_group": 2, "topk_method": "group_limited_greedy",
    "routed_scaling_factor": 16.0,
}  # fmt: skip

Shards = dict[str, dict[str, tuple[str, list[int], bytes]]]
"""Shard name → tensor name → dtype, shape, bytes."""


def bf16_bytes(values: npt.NDArray[np.float32]) -> bytes:
    """Round to nearest even, as every tool does."""
    bits = values.astype("<f4").view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2").tobytes()


def random_tensors(d: dict[str, Any], seed: int = 1) -> dict[str, npt.NDArray[np.float32]]:
    """Random weights for every tensor that the config calls for."""
    rng = np.random.default_rng(seed)
    out = {}
    for name, shape in stored_shapes(tensor_table(ModelConfig.from_dict(d))).items():
        if "norm" in name:
            out[name] = rng.uniform(0.8, 1.2, shape).astype(np.float32)
        else:
            out[name] = (rng.standard_normal(shape) / shape[-1] ** 0.5).astype(np.float32)
    return out


def shard_up(tensors: dict[str, npt.NDArray[np.float32]], n_shards: int = 3, dtype: str = "BF16") -> Shards:
    """Deal tensors out to shards in their order."""
    encode = {
        "BF16": bf16_bytes,
        "F16": lambda v: v.astype("<f2").tobytes(),
        "F32": lambda v: v.astype("<f4").tobytes(),
    }
    names = list(tensors)
    per = -(-len(names) // n_shards)
    return {
        f"model-{i + 1:05d}-of-{n_shards:06d}.safetensors": {
            n: (dtype, list(tensors[n].shape), encode[dtype](tensors[n])) for n in names[i * per : (i + 1) * per]
        }
        for i in range(n_shards)
    }


def shard_bytes(tensors: dict[str, tuple[str, list[int], bytes]]) -> bytes:
    """One safetensors file."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name, (dtype, shape, raw) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + len(raw)]}
        at += len(raw)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + b"".join(raw for _, _, raw in tensors.values())


def write_shards(folder: Path, shards: Shards) -> None:
    """The shards and their index."""
    for name, tensors in shards.items():
        (folder / name).write_bytes(shard_bytes(tensors))
    weight_map = {t: name for name, tensors in shards.items() for t in tensors}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def tokenizer_json() -> dict[str, Any]:
    """A byte-level tokenizer of 256 bytes, 8 merges and the special tokens, with the published pre-tokenizer."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in printable]
    alphabet = [chr(b) for b in printable] + [chr(256 + i) for i in range(len(others))]
    merges = [("t", "h"), ("th", "e"), ("Ġ", "a"), ("i", "n"), ("e", "r"), ("o", "n"), ("r", "e"), ("d", "e")]
    tokens = alphabet + ["".join(m) for m in merges]
    added = [
        {"id": len(tokens) + i, "content": s, "special": i < 2, "normalized": False} for i, s in enumerate(SPECIAL)
    ]
    return {
        "version": "1.0", "added_tokens": added, "normalizer": None,
        "pre_tokenizer": json.loads((DATA / "pre_tokenizer.json").read_text()),
        "post_processor": None, "decoder": {"type": "ByteLevel"},
        "model": {"type": "BPE", "vocab": {t: i for i, t in enumerate(tokens)}, "merges": [list(m) for m in merges]},
    }  # fmt: skip


def write_checkpoint(
    folder: Path, d: dict[str, Any] | None = None, *, seed: int = 1, n_shards: int = 3, dtype: str = "BF16"
) -> Path:
    """A whole checkpoint folder."""
    d = d or LITE
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(d))
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer_json()), encoding="utf-8")
    settings = {"add_bos_token": True, "bos_token": SPECIAL[0], "eos_token": {"content": SPECIAL[1]},
                "pad_token": SPECIAL[1], "chat_template": "{{ bos_token }}{{ messages }}"}  # fmt: skip
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, ensure_ascii=False), encoding="utf-8")
    write_shards(folder, shard_up(random_tensors(d, seed), n_shards, dtype))
    return folder


def convert(source: Path, destination: Path, recipe: str | None = None, threads: int = 2, **options: Any) -> Path:
    """Convert without the command line. `fresh` and `allow_nonfinite` go to the writer, the rest to the plan."""
    from converters.job import Options, closing, plan_source
    from converters.writer import carry_out

    run = {k: options.pop(k) for k in ("fresh", "allow_nonfinite") if k in options}
    with closing(plan_source(source, destination, Options(recipe=recipe, **options))) as job:
        carry_out(job.plan, job.store, threads=threads, report=lambda n: None, **run)
        return job.plan.files[0].path


def read_tensors(path: Path) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    """Tensor name → type, shape, bytes of a GGUF file."""
    from converters.gguf_header import read_header

    data = path.read_bytes()
    header = read_header(path)
    return {n: (t.type.name, t.shape, data[t.offset : t.offset + t.nbytes]) for n, t in header.tensors.items()}
