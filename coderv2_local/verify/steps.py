"""Each step of the engine by itself: the reference is given what the engine computed up to there, and does one step.

So no difference grows from layer to layer, and no choice of experts can tip over: what is left is how the engine rounds
within one step, which depends on the weights' types and hardly on the model. That makes the bound on it tight.
"""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from ..reference.attention import attention
from ..reference.feedforward import dense, mixture
from ..reference.norm import rms_norm
from ..reference.weights import Dense, Weights
from .engine_side import StageTap
from .layers import StageDifference
from .measures import Logits

Floats = npt.NDArray[np.float32]
Progress = Callable[[int, int], None]


def step_differences(
    weights: Weights, tap: StageTap, logits: Logits, on_progress: Progress | None = None
) -> list[StageDifference]:
    """How far each step of the engine is from the reference's step from the same input.

    Args:
        weights: those of the file that the engine ran.
        tap: filled by the engine.
        logits: the engine's, (T, vocabulary).
        on_progress: called with (layers done, layers).

    Returns:
        For each layer `attention` and `experts`, then `norm` and `output`: see :func:`token_difference`; the residual
        stream does not count. Steps whose nodes the engine lacks are left out.
    """
    c = weights.config
    found: list[StageDifference] = []

    def compare(stage: str, layer: int, engine: Floats, reference: Floats) -> None:
        found.append(StageDifference(stage, layer, token_difference(engine, reference)))

    stream = floats(tap, "embedding", -1)
    for i in range(c.n_layers):
        middle, step = floats(tap, "attention", i), floats(tap, "experts", i)
        if stream is None or middle is None or step is None or not len(stream) == len(middle) == len(step):
            break
        layer = weights.layer(i)
        normed = rms_norm(stream, layer.attn_norm, c.rms_norm_eps)
        compare("attention", i, middle - stream, attention(normed, layer.attention, c))
        normed = rms_norm(middle, layer.ffn_norm, c.rms_norm_eps)
        if isinstance(layer.ffn, Dense):
            compare("experts", i, step, dense(normed, layer.ffn))
        else:
            chosen = tap.stage("router", i)
            if chosen is None:
                break
            compare("experts", i, step, mixture(normed, layer.ffn, c, chosen.astype(np.intp))[0])
        stream = middle + step
        if on_progress:
            on_progress(i + 1, c.n_layers)
    else:
        last = floats(tap, "norm", -1)
        if stream is not None and last is not None and last.shape == stream.shape:
            compare("norm", -1, last, rms_norm(stream, weights.output_norm(), c.rms_norm_eps))
            compare("output", -1, logits, last @ weights.output().T)
    return found


def token_difference(engine: Floats, reference: Floats) -> float:
    """How far two sets of vectors are apart, every token counting the same: some have a hundred times the others' size.

    Args:
        engine: (T, D).
        reference: (T, D).

    Returns:
        The root mean square, over tokens, of |engine - reference| / |reference|.
    """
    gap = np.linalg.norm(engine.astype(np.float64) - reference, axis=-1)
    size = np.linalg.norm(reference.astype(np.float64), axis=-1)
    relative = gap / np.where(size > 0, size, 1.0)
    return float(np.sqrt(np.mean(np.square(relative))))


def floats(tap: StageTap, stage: str, layer: int) -> Floats | None:
    """A stage of the engine as float32."""
    value = tap.stage(stage, layer)
    return None if value is None else value.astype(np.float32, copy=False)
