"""Multi-head latent attention (section 2.1): keys and values are stored as one small latent vector a token.

Both forms are here. The *plain* form expands the latent into every head's keys and values, as the paper's equations
read. The *absorbed* form moves the two expansions to the side of the query and of the output (end of section 2.1.2), so
that all heads share the latent as key and value: what an engine computes when it caches only latents.
"""

import numpy as np

from converters.config import ModelConfig

from .norm import Array, rms_norm
from .rope import frequencies, rotary_gain, rotate, softmax_scale
from .weights import Attention

QUERY_BLOCK = 256
"""Queries are taken in blocks, so that scores need H · 256 · T numbers and not H · T · T."""


def queries(x: Array, w: Attention, c: ModelConfig) -> Array:
    """Queries of all heads, before rotation: compressed and normalised (equations 12 and 13), or direct as in Lite.

    Args:
        x: (T, D).

    Returns:
        (T, H, N+R): first the part without position, then the part with it.
    """
    if w.q is not None:
        q = x @ w.q.T
    else:
        assert w.q_a is not None
        assert w.q_a_norm is not None
        assert w.q_b is not None
        q = rms_norm(x @ w.q_a.T, w.q_a_norm, c.rms_norm_eps) @ w.q_b.T
    heads: Array = q.reshape(len(x), c.n_heads, c.qk_head_dim)
    return heads


def latents(x: Array, w: Attention, c: ModelConfig) -> tuple[Array, Array]:
    """What is cached of each token (equations 9 and 15): the normalised latent, and the key all heads share.

    Args:
        x: (T, D).

    Returns:
        latent (T, Ckv), and the shared key before rotation (T, R).
    """
    both = x @ w.kv_a.T
    return rms_norm(both[:, : c.kv_lora_rank], w.kv_a_norm, c.rms_norm_eps), both[:, c.kv_lora_rank :]


def attention(x: Array, w: Attention, c: ModelConfig, *, absorbed: bool = False) -> Array:
    """One layer's attention over a whole prompt that starts at position 0 (equations 9 to 19).

    Scores and sums over tokens are taken in float64 even where the pass is in float32. In float32 the two forms would
    round differently, and where two experts all but tie in a later router, that alone decides between them.

    Args:
        x: (T, D), normalised.

    Returns:
        (T, D), to be added to the residual stream.
    """
    positions = np.arange(len(x))
    freqs, gain = frequencies(c.qk_rope_head_dim, c.rope_theta, c.yarn, x.dtype), rotary_gain(c.yarn)
    q = queries(x, w, c)
    q_nope, q_rope = q[..., : c.qk_nope_head_dim], rotate(q[..., c.qk_nope_head_dim :], positions, freqs, gain)
    latent, k_rope = latents(x, w, c)
    k_rope = rotate(k_rope, positions, freqs, gain)
    heads = _absorbed_heads if absorbed else _plain_heads
    exact = [a.astype(np.float64) for a in (q_nope.swapaxes(0, 1), q_rope.swapaxes(0, 1), latent, k_rope, w.k_b, w.v_b)]
    out = heads(softmax_scale(c.qk_head_dim, c.yarn), *exact).astype(x.dtype)
    joined: Array = out.swapaxes(0, 1).reshape(len(x), c.n_heads * c.v_head_dim) @ w.o.T
    return joined


def _plain_heads(
    scale: float, q_nope: Array, q_rope: Array, latent: Array, k_rope: Array, k_b: Array, v_b: Array
) -> Array:
    """Expand the latent into keys and values a head (equations 10 and 11), then attend (equations 17 and 18).

    Args:
        scale: of the scores.
        q_nope: (H, T, N).
        q_rope: (H, T, R).
        latent: (T, Ckv).
        k_rope: (T, R).
        k_b: (H, N, Ckv).
        v_b: (H, V, Ckv).

    Returns:
        (H, T, V).
    """
    keys = latent @ k_b.swapaxes(1, 2)  # (H, T, N)
    values: Array = latent @ v_b.swapaxes(1, 2)  # (H, T, V)
    out = np.empty_like(values)
    for now in _blocks(len(latent)):
        scores = q_nope[:, now] @ keys[:, : now.stop].swapaxes(1, 2) + q_rope[:, now] @ k_rope[: now.stop].T
        out[:, now] = _causal_softmax(scores * scale, now.start) @ values[:, : now.stop]
    return out


def _absorbed_heads(
    scale: float, q_nope: Array, q_rope: Array, latent: Array, k_rope: Array, k_b: Array, v_b: Array
) -> Array:
    """The same with the key expansion absorbed by the query and the value expansion by the output (section 2.1.2)."""
    q_latent = q_nope @ k_b  # (H, T, Ckv)
    out = np.empty_like(q_latent)
    for now in _blocks(len(latent)):
        scores = q_latent[:, now] @ latent[: now.stop].T + q_rope[:, now] @ k_rope[: now.stop].T
        out[:, now] = _causal_softmax(scores * scale, now.start) @ latent[: now.stop]
    expanded: Array = out @ v_b.swapaxes(1, 2)
    return expanded


def _blocks(n: int) -> list[slice]:
    """The queries of a prompt of n tokens, `QUERY_BLOCK` at a time."""
    return [slice(a, min(a + QUERY_BLOCK, n)) for a in range(0, n, QUERY_BLOCK)]


def _causal_softmax(scores: Array, first: int) -> Array:
    """Softmax over the keys each query may see (equation 17): query i of this block is token first + i of the prompt.

    Args:
        scores: (H, queries, keys).

    Returns:
        as scores.
    """
    n_queries, n_keys = scores.shape[-2:]
    hidden = np.arange(n_keys) > first + np.arange(n_queries)[:, None]
    return softmax(np.where(hidden, scores.dtype.type(-np.inf), scores))


def softmax(x: Array) -> Array:
    """exp(x) over its sum, along the last axis (equations 17 and 22): (…, n) → (…, n)."""
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    shares: Array = e / e.sum(axis=-1, keepdims=True)
    return shares
