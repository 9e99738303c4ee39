"""Which experts a token goes to, and with what weight (sections 2.2.1 and 2.2.2)."""

import numpy as np
import numpy.typing as npt

from converters.config import ModelConfig

from .attention import softmax
from .norm import Array

Ids = npt.NDArray[np.intp]


def route(logits: Array, c: ModelConfig) -> tuple[Ids, Array]:
    """Choose experts by their affinity to the token (equations 21 and 22).

    The weights are the softmax over *all* experts, so those of the chosen ones do not add up to 1: they are normalised
    only where the config says `norm_topk_prob`, and multiplied by `routed_scaling_factor` (16 in the 236B).

    Args:
        logits: (T, E).

    Returns:
        expert ids (T, K), the best first, and their weights (T, K).
    """
    scores = softmax(logits)
    ids = choose(scores, c)
    return ids, weigh(scores, ids, c)


def weigh(scores: Array, ids: Ids, c: ModelConfig) -> Array:
    """The weights of chosen experts (equation 21).

    Args:
        scores: (T, E), probabilities.
        ids: (T, K).

    Returns:
        (T, K).
    """
    weights = np.take_along_axis(scores, ids, axis=-1)
    if c.norm_topk_prob:
        weights = weights / weights.sum(axis=-1, keepdims=True)
    scaled: Array = weights * scores.dtype.type(c.routed_scaling_factor)
    return scaled


def choose(scores: Array, c: ModelConfig) -> Ids:
    """The experts of each token by the config's rule (sections 2.2.1 and 2.2.2).

    Args:
        scores: (T, E), probabilities.

    Returns:
        (T, K), the best first.
    """
    if c.topk_method == "group_limited_greedy":
        return group_limited_greedy(scores, c.n_experts_per_token, c.n_groups, c.n_groups_used)
    return greedy(scores, c.n_experts_per_token)


def greedy(scores: Array, k: int) -> Ids:
    """The k best of each row, the best first; the lower id where two are equal (equation 22).

    Args:
        scores: (T, E).

    Returns:
        (T, k).
    """
    return np.argsort(-scores, axis=-1, kind="stable")[:, :k]


def best_groups(scores: Array, n_groups: int, n_used: int) -> Ids:
    """The groups whose *best single* expert scores highest (section 2.2.2): at most `n_used` devices a token.

    Args:
        scores: (T, E), each group being a run of E/G neighbours.

    Returns:
        (T, n_used).
    """
    n_tokens, n_experts = scores.shape
    return greedy(scores.reshape(n_tokens, n_groups, n_experts // n_groups).max(axis=-1), n_used)


def group_limited_greedy(scores: Array, k: int, n_groups: int, n_used: int) -> Ids:
    """The k best among the experts of the best groups (section 2.2.2, device-limited routing).

    Args:
        scores: (T, E), none negative.

    Returns:
        (T, k).
    """
    n_tokens, n_experts = scores.shape
    allowed = np.zeros((n_tokens, n_groups), bool)
    np.put_along_axis(allowed, best_groups(scores, n_groups, n_used), True, axis=-1)
    in_reach = np.repeat(allowed, n_experts // n_groups, axis=-1)
    return greedy(np.where(in_reach, scores, scores.dtype.type(-1)), k)
