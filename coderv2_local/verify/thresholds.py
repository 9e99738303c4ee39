"""How large a difference may be, by what the file's matrices are stored as. docs/verify.md has the measurements."""

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from converters.gguf_header import GgufHeader

from .layers import StageDifference

STEPS = {"F32": 1e-5, "F16": 2e-3, "BF16": 1.5e-2}
"""One step of the engine from its own input, over the file's own weights: two to ten times what was measured on models
of random and of trained weights, which differ little. ggml rounds what a matrix is multiplied by to the type of the
matrix…"""
STEP_QUANTIZED = 5e-2
"""…and to 8 bits where that is a quantized one."""
EXACT = 1e-6
"""Mean divergence, F32: only the order of additions differs."""
OWN_WEIGHTS = {"F16": 0.02, "BF16": 0.05}
"""Mean divergence from the file's own weights: what the steps' rounding adds up to, as it tips choices of experts."""
OWN_QUANTIZED = 0.2
BY_BITS = ((16.0, 0.05), (8.0, 0.15), (6.0, 0.35), (5.0, 0.8), (4.0, 1.5), (0.0, 3.0))
"""Mean divergence from the weights that a file was made from: (bits a weight of its coarsest type, bound).

Twice what the most sensitive models have, random weights routed to few of many experts; trained ones stay ten to a
hundred times below. So these say only that nothing is grossly wrong. What is sharp is the comparison of settings and of
tensors (is the file its source?), of single steps, and of the rule of routing (does the engine run the file?).
"""
_STEP_TENSORS = {
    "attention": r"blk\.{layer}\.attn_(?!.*norm)",
    "experts": r"blk\.{layer}\.ffn_(?!norm|gate_inp)",
    "norm": r"output_norm",
    "output": r"output\.",
}


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
    if own_weights:
        return Threshold(OWN_WEIGHTS.get(coarsest, OWN_QUANTIZED), coarsest)
    return Threshold(next(kl for least, kl in BY_BITS if bits[coarsest] >= least), coarsest)


@dataclass(frozen=True)
class Step:
    """One step of the engine by itself, and how far it may be from the reference's."""

    stage: str
    layer: int
    """-1 outside the layers."""
    difference: float
    bound: float
    coarsest: str
    """The type that the bound comes from."""

    @property
    def good(self) -> bool:
        """Is it within its bound? NaN is not."""
        return self.difference <= self.bound

    def __str__(self) -> str:
        where = f" in layer {self.layer}" if self.layer >= 0 else ""
        cost = f"over the {self.bound:g} that {self.coarsest} may cost"
        return f"the engine's {self.stage}{where} is {self.difference:.3g} away from the reference's, {cost}"


def with_bounds(header: GgufHeader, steps: Iterable[StageDifference]) -> list[Step]:
    """Each step with its bound, by the types of its matrices."""
    return [Step(s.stage, s.layer, s.difference, *step_bound(header, s.stage, s.layer)) for s in steps]


def step_bound(header: GgufHeader, stage: str, layer: int) -> tuple[float, str]:
    """The bound for a step, and the type it comes from: that of the step's matrices which allows most."""
    pattern = re.compile(_STEP_TENSORS[stage].replace("{layer}", str(layer)))
    kinds = {t.type.name for name, t in header.tensors.items() if pattern.match(name)}
    if stage == "output" and not kinds:
        kinds = {header.tensors["token_embd.weight"].type.name}
    return max(((STEPS.get(kind, STEP_QUANTIZED), kind) for kind in kinds), default=(STEPS["F32"], "F32"))
