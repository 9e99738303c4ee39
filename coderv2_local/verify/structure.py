"""Does a GGUF have the tensors, in the shapes, that its own metadata call for? Looked at before anything is run."""

from collections.abc import Iterator

from converters.config import ModelConfig
from converters.gguf_header import GgufHeader
from converters.tensor_table import Part, Wanted, tensor_table


def expected_tensors(header: GgufHeader, config: ModelConfig) -> Iterator[Wanted]:
    """The tensors that the file should have, in the form that it has them.

    A file from before the MLA split holds the key and value expansions as the checkpoint does, in one ``attn_kv_b``.
    """
    for wanted in tensor_table(config):
        layer, _, rest = wanted.name.rpartition(".attn_")
        if rest not in ("k_b.weight", "v_b.weight") or f"{layer}.attn_kv_b.weight" not in header.tensors:
            yield wanted
        elif rest == "k_b.weight":
            part = wanted.parts[0]
            whole = Part(part.stored, part.stored_shape, 0, part.stored_shape[0])
            yield Wanted(f"{layer}.attn_kv_b.weight", part.stored_shape, (whole,))


def problems(header: GgufHeader, config: ModelConfig) -> list[str]:
    """What is missing or has another shape, in words."""
    found = []
    for wanted in expected_tensors(header, config):
        info = header.tensors.get(wanted.name)
        if info is None and _fused(header, wanted.name):
            continue
        if info is None:
            found.append(f"tensor {wanted.name} is missing")
        elif info.shape != wanted.shape:
            turned = info.shape == (*wanted.shape[:-2], *wanted.shape[:-3:-1]) and len(info.shape) > 1
            why = ": it was not transposed" if turned else ""
            found.append(f"tensor {wanted.name} has shape {info.shape}, not {wanted.shape}{why}")
    return found


def _fused(header: GgufHeader, name: str) -> bool:
    """Is this the gate or up of experts that the file holds fused, as llama.cpp can?"""
    stem = name.replace("ffn_gate_exps", "ffn_gate_up_exps").replace("ffn_up_exps", "ffn_gate_up_exps")
    return stem != name and stem in header.tensors


def impossible(header: GgufHeader, config: ModelConfig) -> list[str]:
    """Metadata on which llama.cpp would end the whole process instead of refusing the file, in words."""
    found = []
    metadata = header.metadata
    scaling = metadata.get("deepseek2.rope.scaling.type", "none")
    if scaling not in ("none", "yarn"):
        found.append(f"deepseek2.rope.scaling.type is {scaling!r:.40}")
    whole = any(name.endswith(".attn_kv_b.weight") for name in header.tensors)
    sizes = {
        "attention.head_count_kv": config.n_heads if whole else 1,
        "attention.key_length": config.qk_head_dim if whole else config.kv_lora_rank + config.qk_rope_head_dim,
        "attention.value_length": config.v_head_dim if whole else config.kv_lora_rank,
    }
    for key, expected in sizes.items():
        value = metadata.get(f"deepseek2.{key}")
        if value not in (expected, [expected] * config.n_layers):
            found.append(f"deepseek2.{key} is {value!r:.40}, not {expected}")
    tokens = metadata.get("tokenizer.ggml.tokens")
    if not isinstance(tokens, list) or not all(isinstance(t, str) for t in tokens):
        return [*found, "the list of tokens is missing"]
    if len(tokens) != config.vocab_size:
        found.append(f"there are {len(tokens)} tokens for {config.vocab_size} rows of the embedding")
    if len(set(tokens)) != len(tokens):
        found.append(f"{len(tokens) - len(set(tokens))} tokens are in the vocabulary twice")
    types = metadata.get("tokenizer.ggml.token_type", [])
    if not isinstance(types, list) or len(types) not in (0, len(tokens)):
        found.append("there are not as many token types as tokens")
    return found
