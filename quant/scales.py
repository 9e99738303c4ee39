"""What does not fit into quantized blocks: their scales are half floats, and a weight can be too large for them."""

import numpy as np

from quant.block_types import BlockType
from quant.ggml import Bytes, Floats

_AT: dict[str, tuple[int, ...]] = {
    "Q8_0": (0,),
    "Q4_0": (0,),
    "Q4_1": (0, 2),
    "Q5_0": (0,),
    "Q5_1": (0, 2),
    "Q4_K": (0, 2),
    "Q5_K": (0, 2),
    "Q6_K": (208,),
    "IQ4_NL": (0,),
    "IQ4_XS": (0,),
}
"""Where in a block its half floats are, scale and minimum, in bytes (ggml-common.h)."""
_EXPONENT = np.uint16(0x7C00)
"""All ones: infinite or NaN."""


_MOST = 1e12
"""Larger weights' squares overflow, too, and ggml's search for the best scale then ends at a finite one or none."""


def overflows(values: Floats, raw: Bytes, block_type: BlockType) -> bool:
    """Is a weight too large for the type, so that the whole block has become infinite, NaN or zero?

    Args:
        values: finite weights, float32.
        raw: what they were quantized to, shape (bytes,).
        block_type: a quantized type that this project writes.
    """
    halves = raw.view("<u2").reshape(-1, block_type.block_bytes // 2)
    if any((halves[:, at // 2] & _EXPONENT).max() == _EXPONENT for at in _AT[block_type.name]):
        return True
    searched = block_type.block_size == 256 or block_type.name == "IQ4_NL"  # the others are quick: a look would show
    return searched and bool(values.max() > _MOST or values.min() < -_MOST)
