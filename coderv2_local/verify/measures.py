"""How far apart two models' predictions are. All in float64, in nats."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Logits = npt.NDArray[np.float32]
Numbers = npt.NDArray[np.float64]


def log_probabilities(logits: npt.ArrayLike) -> Numbers:
    """log softmax of each row.

    Args:
        logits: (T, vocabulary).
    """
    x = np.asarray(logits, np.float64)
    x = x - x.max(axis=-1, keepdims=True)
    out: Numbers = x - np.log(np.exp(x).sum(axis=-1, keepdims=True))
    return out


def divergence(reference: Logits, engine: Logits) -> Numbers:
    """Kullback–Leibler divergence of the engine's next-token distribution from the reference's, a position: (T,).

    Positions where either side has no number at all are infinitely far apart.
    """
    kl = np.empty(len(reference))
    for start in range(0, len(kl), 64):  # a vocabulary of 100 000 in float64 is large
        rows = slice(start, start + 64)
        p, q = log_probabilities(reference[rows]), log_probabilities(engine[rows])
        kl[rows] = (np.exp(p) * (p - q)).sum(axis=-1)
    return np.where(np.isfinite(kl), np.maximum(kl, 0), np.inf)


def perplexity(logits: Logits, ids: npt.NDArray[np.integer]) -> float:
    """exp of the mean negative log-likelihood of each id after the first; NaN for a single id."""
    if len(ids) < 2:
        return float("nan")
    losses = [-log_probabilities(logits[i])[ids[i + 1]] for i in range(len(ids) - 1)]
    with np.errstate(over="ignore"):
        return float(np.exp(np.mean(losses)))


@dataclass(frozen=True)
class Agreement:
    """How well two sets of logits agree."""

    positions: int
    mean_kl: float
    p99_kl: float
    max_kl: float
    top1: float
    """Share of positions where both find the same token most probable."""
    reference_perplexity: float
    engine_perplexity: float
    kl: tuple[float, ...]
    """Of each position."""


def agreement(reference: Logits, engine: Logits, ids: npt.NDArray[np.integer]) -> Agreement:
    """Compare logits (T, vocabulary) for the same ids (T,)."""
    kl = divergence(reference, engine)
    return Agreement(
        positions=len(kl),
        mean_kl=float(kl.mean()),
        p99_kl=float(np.quantile(kl, 0.99, method="higher")),
        max_kl=float(kl.max()),
        top1=float((reference.argmax(-1) == engine.argmax(-1)).mean()),
        reference_perplexity=perplexity(reference, ids),
        engine_perplexity=perplexity(engine, ids),
        kl=tuple(kl.tolist()),
    )
