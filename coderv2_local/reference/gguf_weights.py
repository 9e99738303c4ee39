"""Weights from a GGUF file, dequantized: experts stacked in one tensor, the key expansion split off and transposed."""

import math
from pathlib import Path

import numpy as np
import numpy.typing as npt

from converters.config import ModelConfig
from converters.gguf_config import config_of
from converters.gguf_model import GgufModel, open_gguf
from quant.errors import InputError

from .file_bytes import read_rows
from .norm import Array
from .weights import Attention, Dense, Layer, Mixture, read_at_once, split_kv_b


class GgufWeights:
    """Reads tensors when asked for, dequantized to float32 and widened to `dtype`.

    Attributes:
        config: the sizes and constants.
        model: the file, with all its parts.
    """

    def __init__(self, config: ModelConfig, model: GgufModel, dtype: npt.DTypeLike = np.float32) -> None:
        self.config, self.model, self.dtype = config, model, np.dtype(dtype)

    @classmethod
    def open(cls, path: Path, dtype: npt.DTypeLike = np.float32) -> "GgufWeights":
        """Read the header, and those of the other parts when `path` is the first of a split file.

        Raises:
            InputError: it cannot be used.
        """
        model = open_gguf(path)
        return cls(config_of(model.whole), model, dtype)

    def embeddings(self, ids: npt.NDArray[np.integer]) -> Array:
        """See :class:`~coderv2_local.reference.weights.Weights`; so for the others."""
        self._check("token_embd.weight", (self.config.vocab_size, self.config.hidden_size))
        return np.concatenate([self._rows("token_embd.weight", int(i), 1) for i in ids])

    def output_norm(self) -> Array:
        return self._read("output_norm.weight", self.config.hidden_size)

    def output(self) -> Array:
        c = self.config
        name = "token_embd.weight" if c.tie_word_embeddings else "output.weight"
        return self._read(name, c.vocab_size, c.hidden_size)

    def layer(self, i: int) -> Layer:
        prefix, d = f"blk.{i}.", self.config.hidden_size
        return Layer(
            attn_norm=self._read(prefix + "attn_norm.weight", d),
            attention=self._attention(prefix + "attn_"),
            ffn_norm=self._read(prefix + "ffn_norm.weight", d),
            ffn=self._feedforward(i, prefix + "ffn_"),
        )

    def _attention(self, prefix: str) -> Attention:
        c = self.config
        h, n, v, q_rows = c.n_heads, c.qk_nope_head_dim, c.v_head_dim, c.n_heads * c.qk_head_dim
        if prefix + "k_b.weight" in self.model.tensors:
            k_b = self._read(prefix + "k_b.weight", h, c.kv_lora_rank, n).swapaxes(1, 2)
            v_b = self._read(prefix + "v_b.weight", h, v, c.kv_lora_rank)
        else:  # a file from before the split
            k_b, v_b = split_kv_b(self._read(prefix + "kv_b.weight", h * (n + v), c.kv_lora_rank), c)
        rank = c.q_lora_rank
        return Attention(
            kv_a=self._read(prefix + "kv_a_mqa.weight", c.kv_lora_rank + c.qk_rope_head_dim, c.hidden_size),
            kv_a_norm=self._read(prefix + "kv_a_norm.weight", c.kv_lora_rank),
            k_b=k_b,
            v_b=v_b,
            o=self._read(prefix + "output.weight", c.hidden_size, h * v),
            q=None if rank else self._read(prefix + "q.weight", q_rows, c.hidden_size),
            q_a=self._read(prefix + "q_a.weight", rank, c.hidden_size) if rank else None,
            q_a_norm=self._read(prefix + "q_a_norm.weight", rank) if rank else None,
            q_b=self._read(prefix + "q_b.weight", q_rows, rank) if rank else None,
        )

    def _feedforward(self, i: int, prefix: str) -> Dense | Mixture:
        c = self.config
        if i < c.n_dense_layers:
            return self._dense(prefix, "", c.dense_ffn_size)
        shared = c.n_shared_experts * c.expert_ffn_size
        return Mixture(
            router=self._read(prefix + "gate_inp.weight", c.n_routed_experts, c.hidden_size),
            shared=self._dense(prefix, "_shexp", shared) if shared else None,
            expert=lambda e: self._expert(prefix, e),
        )

    def _dense(self, prefix: str, suffix: str, width: int) -> Dense:
        d = self.config.hidden_size
        gate, up, down = read_at_once(
            lambda: self._read(f"{prefix}gate{suffix}.weight", width, d),
            lambda: self._read(f"{prefix}up{suffix}.weight", width, d),
            lambda: self._read(f"{prefix}down{suffix}.weight", d, width),
        )
        return Dense(gate, up, down)

    def _expert(self, prefix: str, e: int) -> Dense:
        d, f = self.config.hidden_size, self.config.expert_ffn_size
        if prefix + "gate_up_exps.weight" in self.model.tensors:
            both, down = read_at_once(
                lambda: self._slice(prefix + "gate_up_exps.weight", e, 2 * f, d),
                lambda: self._slice(prefix + "down_exps.weight", e, d, f),
            )
            return Dense(gate=both[:f], up=both[f:], down=down)
        gate, up, down = read_at_once(
            lambda: self._slice(prefix + "gate_exps.weight", e, f, d),
            lambda: self._slice(prefix + "up_exps.weight", e, f, d),
            lambda: self._slice(prefix + "down_exps.weight", e, d, f),
        )
        return Dense(gate, up, down)

    def _slice(self, name: str, e: int, rows: int, columns: int) -> Array:
        """One expert's matrix out of a stack of them."""
        self._check(name, (self.config.n_routed_experts, rows, columns))
        return self._rows(name, e * rows, rows)

    def _read(self, name: str, *shape: int) -> Array:
        self._check(name, shape)
        return self._rows(name, 0, math.prod(shape[:-1])).reshape(shape)

    def _rows(self, name: str, first: int, rows: int) -> Array:
        path, info = self.model.find(name)
        start = info.offset + first * info.row_bytes
        return read_rows(path, start, info.type, rows, info.shape[-1]).astype(self.dtype, copy=False)

    def _check(self, name: str, shape: tuple[int, ...]) -> None:
        if name not in self.model.tensors:
            raise InputError(f"{self.model.path} has no tensor {name}")
        path, info = self.model.find(name)
        if info.shape != shape:
            raise InputError(f"{path}: tensor {name} has shape {info.shape}, the metadata say {shape}")
