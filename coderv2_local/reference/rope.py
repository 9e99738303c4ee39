"""Decoupled rotary position embedding (section 2.1.3), stretched to long contexts by YaRN (section 3.1.4)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from .norm import Array

if TYPE_CHECKING:
    from converters.config import YarnConfig


def frequencies(rope_dim: int, theta: float, yarn: YarnConfig | None, dtype: npt.DTypeLike) -> Array:
    """The angle each pair of dims turns by per position (section 3.1.4).

    YaRN looks at how many full turns a pair makes within the original context. Pairs that make more than `beta_fast`
    keep their frequency; pairs that make fewer than `beta_slow` are slowed by `factor`; between them it goes linearly.

    Returns:
        (R/2,).
    """
    steps = np.arange(0, rope_dim, 2).astype(dtype) / np.asarray(rope_dim, dtype)
    fast: Array = 1 / np.power(np.asarray(theta, dtype), steps)
    if yarn is None:
        return fast
    low = max(math.floor(_pair_with_turns(yarn.beta_fast, rope_dim, theta, yarn.original_context)), 0)
    high = min(math.ceil(_pair_with_turns(yarn.beta_slow, rope_dim, theta, yarn.original_context)), rope_dim - 1)
    pair = np.arange(rope_dim // 2).astype(dtype)
    slowed_share: Array = np.clip((pair - low) / np.asarray(max(high - low, 0.001), dtype), 0, 1)
    mixed: Array = fast / np.asarray(yarn.factor, dtype) * slowed_share + fast * (1 - slowed_share)
    return mixed


def _pair_with_turns(turns: float, rope_dim: int, theta: float, context: int) -> float:
    """Which pair, as a fraction, makes `turns` full turns within `context` positions (section 3.1.4)."""
    return rope_dim * math.log(context / (turns * 2 * math.pi)) / (2 * math.log(theta))


def magnitude(factor: float, mscale: float) -> float:
    """YaRN's correction of the attention's temperature: 0.1 · mscale · ln(factor) + 1 (section 3.1.4)."""
    return 0.1 * mscale * math.log(factor) + 1 if factor > 1 else 1.0


def softmax_scale(head_dim: int, yarn: YarnConfig | None) -> float:
    """What q·k is multiplied by: 1/√(N+R) (equation 17), times the square of YaRN's magnitude for all dims."""
    scale = 1 / math.sqrt(head_dim)
    if yarn is not None and yarn.mscale_all_dim:
        scale *= magnitude(yarn.factor, yarn.mscale_all_dim) ** 2
    return scale


def rotary_gain(yarn: YarnConfig | None) -> float:
    """What cosines and sines are multiplied by: 1 wherever `mscale` equals `mscale_all_dim` (section 3.1.4)."""
    if yarn is None:
        return 1.0
    if not (yarn.mscale and yarn.mscale_all_dim):
        return magnitude(yarn.factor, 1.0)
    return magnitude(yarn.factor, yarn.mscale) / magnitude(yarn.factor, yarn.mscale_all_dim)


def rotate(x: Array, positions: npt.NDArray[np.integer], freqs: Array, gain: float = 1.0) -> Array:
    """Turn the pairs (0,1), (2,3), … of each vector by position · frequency (equations 14 and 15).

    Args:
        x: (T, …, R): the part of queries (T, H, R) or of the shared key (T, R) that carries position.
        positions: (T,).
        freqs: (R/2,).
        gain: see :func:`rotary_gain`.

    Returns:
        as x.
    """
    angle = positions.astype(x.dtype)[:, None] * freqs
    angle = angle.reshape(len(positions), *[1] * (x.ndim - 2), -1)
    cos, sin = np.cos(angle) * x.dtype.type(gain), np.sin(angle) * x.dtype.type(gain)
    out = np.empty_like(x)
    out[..., 0::2] = x[..., 0::2] * cos - x[..., 1::2] * sin
    out[..., 1::2] = x[..., 0::2] * sin + x[..., 1::2] * cos
    return out
