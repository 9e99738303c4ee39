"""Which tensors a GGUF of this architecture has, and which stored tensors each is made from.

A GGUF tensor is a row of equal *parts* along its outermost dimension: a stack of experts has one part an expert, the
split ``kv_b`` one part a head, everything else a single part. A part is a block of rows of one stored tensor, perhaps
transposed. So any range of output rows can be made from a known byte range of one shard.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from converters.config import ModelConfig
from converters.safetensors_shards import Checkpoint, CheckpointError


@dataclass(frozen=True)
class Part:
    """Rows `first_row`…`first_row + rows` of the stored tensor `stored`, transposed where `transposed` says so."""

    stored: str
    stored_shape: tuple[int, ...]
    first_row: int
    rows: int
    transposed: bool = False


@dataclass(frozen=True)
class Wanted:
    """A tensor that the GGUF must have. Its shape is outermost first; `parts` follow its outermost dimension."""

    name: str
    shape: tuple[int, ...]
    parts: tuple[Part, ...]


def _whole(name: str, stored: str, *shape: int) -> Wanted:
    rows = shape[0] if len(shape) > 1 else 1
    return Wanted(name, shape, (Part(stored, shape, 0, rows),))


def _attention(c: ModelConfig, gguf: str, hf: str) -> Iterator[Wanted]:
    hf = f"{hf}.self_attn"
    if c.q_lora_rank is None:
        yield _whole(f"{gguf}.attn_q.weight", f"{hf}.q_proj.weight", c.n_heads * c.qk_head_dim, c.hidden_size)
    else:
        q_b = (c.n_heads * c.qk_head_dim, c.q_lora_rank)
        yield _whole(f"{gguf}.attn_q_a.weight", f"{hf}.q_a_proj.weight", c.q_lora_rank, c.hidden_size)
        yield _whole(f"{gguf}.attn_q_a_norm.weight", f"{hf}.q_a_layernorm.weight", c.q_lora_rank)
        yield _whole(f"{gguf}.attn_q_b.weight", f"{hf}.q_b_proj.weight", *q_b)
    kv_a = c.kv_lora_rank + c.qk_rope_head_dim
    yield _whole(f"{gguf}.attn_kv_a_mqa.weight", f"{hf}.kv_a_proj_with_mqa.weight", kv_a, c.hidden_size)
    yield _whole(f"{gguf}.attn_kv_a_norm.weight", f"{hf}.kv_a_layernorm.weight", c.kv_lora_rank)
    yield from split_kv_b(c, gguf, f"{hf}.kv_b_proj.weight")
    yield _whole(f"{gguf}.attn_output.weight", f"{hf}.o_proj.weight", c.hidden_size, c.n_heads * c.v_head_dim)


def split_kv_b(c: ModelConfig, gguf: str, stored: str) -> tuple[Wanted, Wanted]:
    """``attn_k_b`` (heads, kv_lora, nope) and ``attn_v_b`` (heads, v, kv_lora) from kv_b (heads·(nope+v), kv_lora).

    The first is transposed, so that attention can be computed on the latent vectors (MLA absorption).
    """
    nope, v, rank = c.qk_nope_head_dim, c.v_head_dim, c.kv_lora_rank
    shape = (c.n_heads * (nope + v), rank)
    starts = [h * (nope + v) for h in range(c.n_heads)]
    k = tuple(Part(stored, shape, at, nope, transposed=True) for at in starts)
    values = tuple(Part(stored, shape, at + nope, v) for at in starts)
    return (
        Wanted(f"{gguf}.attn_k_b.weight", (c.n_heads, rank, nope), k),
        Wanted(f"{gguf}.attn_v_b.weight", (c.n_heads, v, rank), values),
    )


def _feed_forward(c: ModelConfig, layer: int, gguf: str, hf: str) -> Iterator[Wanted]:
    hf = f"{hf}.mlp"
    projections = (("gate", False), ("down", True), ("up", False))
    if layer < c.n_dense_layers:
        for p, down in projections:
            shape = (c.hidden_size, c.dense_ffn_size) if down else (c.dense_ffn_size, c.hidden_size)
            yield _whole(f"{gguf}.ffn_{p}.weight", f"{hf}.{p}_proj.weight", *shape)
        return
    yield _whole(f"{gguf}.ffn_gate_inp.weight", f"{hf}.gate.weight", c.n_routed_experts, c.hidden_size)
    shared = c.expert_ffn_size * c.n_shared_experts
    for p, down in projections:
        shape = (c.hidden_size, c.expert_ffn_size) if down else (c.expert_ffn_size, c.hidden_size)
        stored = (f"{hf}.experts.{e}.{p}_proj.weight" for e in range(c.n_routed_experts))
        parts = tuple(Part(s, shape, 0, shape[0]) for s in stored)
        yield Wanted(f"{gguf}.ffn_{p}_exps.weight", (c.n_routed_experts, *shape), parts)
        shape = (c.hidden_size, shared) if down else (shared, c.hidden_size)
        yield _whole(f"{gguf}.ffn_{p}_shexp.weight", f"{hf}.shared_experts.{p}_proj.weight", *shape)


def tensor_table(c: ModelConfig) -> list[Wanted]:
    """All tensors of the GGUF for a model of this shape, in the order of the file."""
    table = [_whole("token_embd.weight", "model.embed_tokens.weight", c.vocab_size, c.hidden_size)]
    for layer in range(c.n_layers):
        gguf, hf = f"blk.{layer}", f"model.layers.{layer}"
        table.append(_whole(f"{gguf}.attn_norm.weight", f"{hf}.input_layernorm.weight", c.hidden_size))
        table.extend(_attention(c, gguf, hf))
        table.append(_whole(f"{gguf}.ffn_norm.weight", f"{hf}.post_attention_layernorm.weight", c.hidden_size))
        table.extend(_feed_forward(c, layer, gguf, hf))
    table.append(_whole("output_norm.weight", "model.norm.weight", c.hidden_size))
    if not c.tie_word_embeddings:
        table.append(_whole("output.weight", "lm_head.weight", c.vocab_size, c.hidden_size))
    return table


def stored_shapes(table: list[Wanted]) -> dict[str, tuple[int, ...]]:
    """Every stored tensor that the table is made from, with the shape it must have."""
    return {part.stored: part.stored_shape for wanted in table for part in wanted.parts}


def check_count(checkpoint: Checkpoint, config: ModelConfig) -> None:
    """Can the checkpoint hold what the config calls for? Asked before there is a table, which takes memory for it all.

    Raises:
        CheckpointError: it has fewer tensors than that many layers and experts are made of.
    """
    needed = config.n_layers + 3 * config.n_routed_experts * config.n_moe_layers
    if needed > len(checkpoint.tensors):
        raise CheckpointError(
            f"{checkpoint.folder}: it has {len(checkpoint.tensors)} tensors, too few for the {config.n_layers} layers "
            f"and {config.n_routed_experts} experts of config.json",
            hint="a shard or the index may be from another model, or a download is incomplete",
        )


def check_checkpoint(checkpoint: Checkpoint, config: ModelConfig, table: list[Wanted]) -> None:
    """Does the checkpoint hold exactly the tensors that the config calls for?

    Raises:
        CheckpointError: a tensor is missing, has another shape, or is left over; it is named.
    """
    needed: Mapping[str, tuple[int, ...]] = stored_shapes(table)
    for name, shape in needed.items():
        if name not in checkpoint.tensors:
            raise CheckpointError(
                f"{checkpoint.folder}: tensor {name} is missing, which config.json calls for",
                hint="a shard or the index may be from another model, or a download is incomplete",
            )
        t = checkpoint.tensors[name]
        if t.shape != shape:
            raise CheckpointError(f"shard {t.shard}: tensor {name} has shape {t.shape}; config.json makes it {shape}")
    for name in checkpoint.names:
        if name in needed or name.endswith(".rotary_emb.inv_freq"):  # derived from the config; old files store it
            continue
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        raise CheckpointError(
            f"shard {checkpoint.tensors[name].shard}: tensor {name:.200} is left over; config.json has no place for it",
            hint="config.json and the shards may be from different models",
        )
