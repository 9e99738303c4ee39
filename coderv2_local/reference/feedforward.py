"""The feed-forward half of a layer: dense in the first layers, a mixture of experts in the others (section 2.2)."""

import numpy as np

from converters.config import ModelConfig

from .attention import softmax
from .norm import Array
from .router import Ids, route, weigh
from .weights import Dense, Mixture


def dense(x: Array, w: Dense) -> Array:
    """A gated network, down(silu(gate·x) ⊙ up·x): a dense layer, one expert, or the shared experts side by side
    (section 2.2.1).

    Args:
        x: (T, D).

    Returns:
        (T, D).
    """
    gate = x @ w.gate.T
    silu = gate / (1 + np.exp(-np.maximum(gate, -80)))
    out: Array = (silu * (x @ w.up.T)) @ w.down.T
    return out


def mixture(x: Array, w: Mixture, c: ModelConfig, chosen: Ids | None = None) -> tuple[Array, Ids]:
    """Shared experts, which every token visits, plus the routed ones with their weights (equation 20).

    An expert's weights are fetched when its tokens are gathered, and dropped after: one expert in memory at a time.

    Args:
        x: (T, D), normalised.
        chosen: (T, K), the experts, where the choice has been made elsewhere.

    Returns:
        (T, D), to be added to the residual stream, and the chosen experts (T, K).
    """
    logits = x @ w.router.T
    ids, weights = route(logits, c) if chosen is None else (chosen, weigh(softmax(logits), chosen, c))
    routed = np.zeros_like(x)
    for expert in np.unique(ids):
        token, slot = np.nonzero(ids == expert)
        routed[token] += dense(x[token], w.expert(int(expert))) * weights[token, slot, None]
    return dense(x, w.shared) + routed if w.shared is not None else routed, ids
