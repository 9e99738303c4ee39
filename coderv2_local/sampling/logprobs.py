"""Log-probabilities of a choice, from the model's logits as they are before sampling options change them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class TokenLogprobs:
    """Natural logarithms of probabilities, before sampling options change them.

    Attributes:
        token, logprob: what was chosen.
        top: the most probable ids with theirs, best first.
    """

    token: int
    logprob: float
    top: Sequence[tuple[int, float]]


def token_logprobs(logits: npt.NDArray[np.float32], token: int, n: int) -> TokenLogprobs:
    """The log-probability of `token` and of the `n` most probable ids: log of the softmax over the whole vocabulary.

    Args:
        logits: (vocabulary,), as the model gave them.
    """
    highest = float(logits.max())
    log_sum = highest + float(np.log(np.exp(logits.astype(np.float64) - highest).sum()))
    best: npt.NDArray[Any] = np.empty(0, np.intp)
    if n:
        best = np.argpartition(logits, -min(n, len(logits)))[-n:]
        best = best[np.lexsort((best, -logits[best]))]  # equal ones by id
    return TokenLogprobs(token, float(logits[token]) - log_sum, [(int(i), float(logits[i]) - log_sum) for i in best])
