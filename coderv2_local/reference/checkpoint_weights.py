"""Weights from a checkpoint folder in the published format: one tensor an expert, matrices as (out, in)."""

from pathlib import Path

import numpy as np
import numpy.typing as npt

from converters.config import ModelConfig, read_config
from converters.safetensors_shards import Checkpoint
from quant.block_types import block_type
from quant.errors import InputError

from .file_bytes import read_rows
from .norm import Array
from .weights import Attention, Dense, Layer, Mixture, read_at_once, split_kv_b


class CheckpointWeights:
    """Reads tensors when asked for, widened to `dtype` (float32 or float64).

    Attributes:
        config: the sizes and constants.
        checkpoint: the shards.
    """

    def __init__(self, config: ModelConfig, checkpoint: Checkpoint, dtype: npt.DTypeLike = np.float32) -> None:
        self.config, self.checkpoint, self.dtype = config, checkpoint, np.dtype(dtype)

    @classmethod
    def open(cls, folder: Path, dtype: npt.DTypeLike = np.float32) -> "CheckpointWeights":
        """Read config.json and the headers of the shards.

        Raises:
            InputError: they cannot be used.
        """
        return cls(read_config(folder), Checkpoint.open(folder), dtype)

    def embeddings(self, ids: npt.NDArray[np.integer]) -> Array:
        """See :class:`~coderv2_local.reference.weights.Weights`; so for the others."""
        c = self.config
        self._check("model.embed_tokens.weight", (c.vocab_size, c.hidden_size))
        return np.concatenate([self._rows("model.embed_tokens.weight", int(i), 1, c.hidden_size) for i in ids])

    def output_norm(self) -> Array:
        return self._read("model.norm.weight", self.config.hidden_size)

    def output(self) -> Array:
        c = self.config
        name = "model.embed_tokens.weight" if c.tie_word_embeddings else "lm_head.weight"
        return self._read(name, c.vocab_size, c.hidden_size)

    def layer(self, i: int) -> Layer:
        prefix, d = f"model.layers.{i}.", self.config.hidden_size
        return Layer(
            attn_norm=self._read(prefix + "input_layernorm.weight", d),
            attention=self._attention(prefix + "self_attn."),
            ffn_norm=self._read(prefix + "post_attention_layernorm.weight", d),
            ffn=self._feedforward(i, prefix + "mlp."),
        )

    def _attention(self, prefix: str) -> Attention:
        c = self.config
        q_rows = c.n_heads * c.qk_head_dim
        kv_b = self._read(prefix + "kv_b_proj.weight", c.n_heads * (c.qk_nope_head_dim + c.v_head_dim), c.kv_lora_rank)
        k_b, v_b = split_kv_b(kv_b, c)
        rank = c.q_lora_rank
        return Attention(
            kv_a=self._read(prefix + "kv_a_proj_with_mqa.weight", c.kv_lora_rank + c.qk_rope_head_dim, c.hidden_size),
            kv_a_norm=self._read(prefix + "kv_a_layernorm.weight", c.kv_lora_rank),
            k_b=k_b,
            v_b=v_b,
            o=self._read(prefix + "o_proj.weight", c.hidden_size, c.n_heads * c.v_head_dim),
            q=None if rank else self._read(prefix + "q_proj.weight", q_rows, c.hidden_size),
            q_a=self._read(prefix + "q_a_proj.weight", rank, c.hidden_size) if rank else None,
            q_a_norm=self._read(prefix + "q_a_layernorm.weight", rank) if rank else None,
            q_b=self._read(prefix + "q_b_proj.weight", q_rows, rank) if rank else None,
        )

    def _feedforward(self, i: int, prefix: str) -> Dense | Mixture:
        c = self.config
        if i < c.n_dense_layers:
            return self._dense(prefix, c.dense_ffn_size)
        shared = c.n_shared_experts * c.expert_ffn_size
        return Mixture(
            router=self._read(prefix + "gate.weight", c.n_routed_experts, c.hidden_size),
            shared=self._dense(prefix + "shared_experts.", shared) if shared else None,
            expert=lambda e: self._dense(f"{prefix}experts.{e}.", c.expert_ffn_size),
        )

    def _dense(self, prefix: str, width: int) -> Dense:
        d = self.config.hidden_size
        gate, up, down = read_at_once(
            lambda: self._read(prefix + "gate_proj.weight", width, d),
            lambda: self._read(prefix + "up_proj.weight", width, d),
            lambda: self._read(prefix + "down_proj.weight", d, width),
        )
        return Dense(gate, up, down)

    def _read(self, name: str, *shape: int) -> Array:
        self._check(name, shape)
        rows, columns = (1, *shape)[-2:]
        return self._rows(name, 0, rows, columns).reshape(shape)

    def _rows(self, name: str, first: int, rows: int, columns: int) -> Array:
        t = self.checkpoint.tensors[name]
        kind = block_type(t.dtype)
        start = t.start + first * kind.row_bytes(columns)
        values = read_rows(self.checkpoint.folder / t.shard, start, kind, rows, columns)
        return values.astype(self.dtype, copy=False)

    def _check(self, name: str, shape: tuple[int, ...]) -> None:
        if self.checkpoint.shape(name) != shape:
            raise InputError(f"tensor {name} has shape {self.checkpoint.shape(name)}, the config says {shape}")
