"""How large a divergence may be, by what the file's matrices are stored as."""

from collections import Counter
from dataclasses import dataclass

from converters.gguf_header import GgufHeader

EXACT = 1e-6
"""F32: only the order of additions differs."""
HALF = 0.05
"""F16, BF16: the engine rounds activations to the type as well."""
OWN_WEIGHTS = 0.1
"""A quantized file against its own dequantized weights: the engine rounds activations to 8 bits."""
BY_BITS = ((8.0, 0.1), (6.0, 0.2), (5.0, 0.4), (4.0, 0.8), (0.0, 1.5))
"""A quantized file against the weights it was made from: (bits a weight of its coarsest type, mean KL).

The bounds hold for the most sensitive models, random weights routed to few of many experts, where a rounding changes
the choice of experts and that changes everything after. Trained models stay a hundred times below them. What is sharp
for quantized files is the comparison of tensors and of settings, and the check of the routing rule.
"""


@dataclass(frozen=True)
class Threshold:
    """The bound on the mean divergence, and the type it comes from."""

    mean_kl: float
    coarsest: str


def threshold(header: GgufHeader, *, own_weights: bool) -> Threshold:
    """The bound for this file.

    Args:
        header: its matrices' types decide; types that hold less than 1 % of the weights do not count.
        own_weights: is it compared with its own dequantized weights?
    """
    elements: Counter[str] = Counter()
    bits: dict[str, float] = {}
    for t in header.tensors.values():
        if len(t.shape) > 1:
            elements[t.type.name] += t.n_rows * t.shape[-1]
            bits[t.type.name] = t.type.bits
    total = sum(elements.values())
    counted = [name for name, n in elements.items() if n >= 0.01 * total] or ["F32"]
    coarsest = min(counted, key=lambda name: bits.get(name, 32.0))
    if coarsest == "F32":
        return Threshold(EXACT, coarsest)
    if coarsest in ("F16", "BF16"):
        return Threshold(HALF, coarsest)
    if own_weights:
        return Threshold(OWN_WEIGHTS, coarsest)
    return Threshold(next(kl for least, kl in BY_BITS if bits[coarsest] >= least), coarsest)
