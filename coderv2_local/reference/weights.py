"""What the forward pass needs of each layer, whatever file it comes from. All matrices are (out, in)."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from converters.config import ModelConfig

from .norm import Array


@dataclass(frozen=True)
class Attention:
    """One layer's attention. Either `q` is there, or the three of the compressed queries."""

    kv_a: Array
    """(Ckv+R, D): down to the latent, and the shared key that carries position."""
    kv_a_norm: Array
    """(Ckv,)."""
    k_b: Array
    """(H, N, Ckv): the latent up to each head's key."""
    v_b: Array
    """(H, V, Ckv): the latent up to each head's value."""
    o: Array
    """(D, H·V)."""
    q: Array | None = None
    """(H·(N+R), D)."""
    q_a: Array | None = None
    """(Cq, D)."""
    q_a_norm: Array | None = None
    """(Cq,)."""
    q_b: Array | None = None
    """(H·(N+R), Cq)."""


@dataclass(frozen=True)
class Dense:
    """A gated feed-forward network."""

    gate: Array
    """(F, D)."""
    up: Array
    """(F, D)."""
    down: Array
    """(D, F)."""


@dataclass(frozen=True)
class Mixture:
    """One layer's experts; the routed ones are fetched one at a time."""

    router: Array
    """(E, D)."""
    shared: Dense | None
    """The shared experts, side by side as one network."""
    expert: Callable[[int], Dense]


@dataclass(frozen=True)
class Layer:
    """One layer."""

    attn_norm: Array
    """(D,)."""
    attention: Attention
    ffn_norm: Array
    """(D,)."""
    ffn: Dense | Mixture


class Weights(Protocol):
    """A model's weights, read when asked for and kept by nobody."""

    config: ModelConfig
    """The sizes and constants."""

    def embeddings(self, ids: npt.NDArray[np.integer]) -> Array:
        """The rows of the embedding table for these ids: (T, D)."""

    def layer(self, i: int) -> Layer:
        """Layer i, its routed experts left in the file."""

    def output_norm(self) -> Array:
        """(D,)."""

    def output(self) -> Array:
        """(vocabulary, D): the embedding table where the two are tied."""


def read_at_once(*reads: Callable[[], Array]) -> list[Array]:
    """Do several reads at the same time: widening stored blocks is most of the work, and needs no Python."""
    with ThreadPoolExecutor(len(reads)) as pool:
        return [done.result() for done in [pool.submit(read) for read in reads]]


def split_kv_b(kv_b: Array, c: ModelConfig) -> tuple[Array, Array]:
    """The up-projection of keys and values as stored in a checkpoint, a head's keys before its values
    (equations 10 and 11).

    Args:
        kv_b: (H·(N+V), Ckv).

    Returns:
        k_b (H, N, Ckv) and v_b (H, V, Ckv).
    """
    a_head = kv_b.reshape(c.n_heads, c.qk_nope_head_dim + c.v_head_dim, c.kv_lora_rank)
    return a_head[:, : c.qk_nope_head_dim], a_head[:, c.qk_nope_head_dim :]
