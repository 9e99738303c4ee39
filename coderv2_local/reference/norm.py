"""RMSNorm."""

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
"""An array of float32, or of float64: the whole pass keeps the type it was started with."""


def rms_norm(x: Array, gain: Array, eps: float) -> Array:
    """Divide each row by its root mean square, then scale it (section 2; also on both latents, 3.1.2).

    Args:
        x: (…, D).
        gain: (D,).
        eps: added to the mean square.

    Returns:
        (…, D).
    """
    mean_square = np.mean(np.square(x), axis=-1, keepdims=True)
    normed: Array = x / np.sqrt(mean_square + x.dtype.type(eps)) * gain
    return normed
