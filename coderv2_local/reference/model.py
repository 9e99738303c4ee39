"""The whole forward pass: token ids in, logits out (section 2, figure 2)."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from quant.errors import InputError

from .attention import attention
from .feedforward import dense, mixture
from .norm import Array, rms_norm
from .weights import Dense, Weights

Watch = Callable[[str, int, npt.NDArray[np.generic]], None]
"""Told of each stage: its name (see :data:`STAGES`), its layer (-1 outside the layers), its value."""

STAGES = ("embedding", "attention", "experts_chosen", "feedforward", "layer", "norm")
"""Stages a watcher hears of, in order. All are (T, D) but `experts_chosen`, (T, K), told of mixture layers only;
`attention` and `feedforward` are what those halves add to the residual stream."""


def forward(
    weights: Weights,
    ids: npt.ArrayLike,
    *,
    absorbed: bool = False,
    last: int | None = None,
    watch: Watch | None = None,
) -> Array:
    """Logits for every position of a prompt (section 2, figure 2).

    Args:
        weights: where the weights come from; a layer is read, used and dropped. Their type, float32 or float64, is
            that of every intermediate but the scores of attention, which are always in float64.
        ids: (T,) token ids, BOS included.
        absorbed: compute attention in its absorbed form.
        last: logits of the last so many positions only.
        watch: hears of intermediate values.

    Returns:
        (T, vocabulary), or (last, vocabulary).

    Raises:
        InputError: no ids, or one outside the vocabulary.
    """
    c = weights.config
    tokens = checked_ids(ids, c.vocab_size)
    tell: Watch = watch or (lambda stage, layer, value: None)
    x = weights.embeddings(tokens)
    tell("embedding", -1, x)
    for i in range(c.n_layers):
        layer = weights.layer(i)
        step = attention(rms_norm(x, layer.attn_norm, c.rms_norm_eps), layer.attention, c, absorbed=absorbed)
        tell("attention", i, step)
        x = x + step
        normed = rms_norm(x, layer.ffn_norm, c.rms_norm_eps)
        if isinstance(layer.ffn, Dense):
            step = dense(normed, layer.ffn)
        else:
            step, chosen = mixture(normed, layer.ffn, c)
            tell("experts_chosen", i, chosen)
        tell("feedforward", i, step)
        x = x + step
        tell("layer", i, x)
    x = rms_norm(x if last is None else x[-last:], weights.output_norm(), c.rms_norm_eps)
    tell("norm", -1, x)
    logits: Array = x @ weights.output().T
    return logits


def checked_ids(ids: npt.ArrayLike, vocab_size: int) -> npt.NDArray[np.int64]:
    """Token ids as one row of integers.

    Raises:
        InputError: they are no such row, there are none, or one is outside the vocabulary.
    """
    tokens = np.asarray(ids)
    if tokens.ndim != 1 or len(tokens) == 0 or not np.issubdtype(tokens.dtype, np.integer):
        raise InputError(f"token ids must be one row of integers, not {tokens.dtype} of shape {tokens.shape}")
    outside = (tokens < 0) | (tokens >= vocab_size)
    if outside.any():
        where = int(np.argmax(outside))
        raise InputError(
            f"token id {int(tokens[where])} at position {where} is outside the vocabulary of {vocab_size}",
            hint="were the ids made with this model's tokenizer?",
        )
    return tokens.astype(np.int64)
