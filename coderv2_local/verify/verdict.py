"""What a check found, and what of it speaks against the file."""

from dataclasses import asdict, dataclass, field
from typing import Any

from .layers import RuleBroken, StageDifference
from .measures import Agreement
from .tensors import TensorComparison
from .thresholds import Step, Threshold


@dataclass(frozen=True)
class Verdict:
    """What was found, and whether it speaks against the file."""

    model: str
    against: str
    stock_routing: bool
    tokens: int
    agreement: Agreement
    threshold: Threshold
    stages: list[StageDifference]
    """Every stage of every layer."""
    largest: list[StageDifference]
    """The largest difference of each stage."""
    steps: list[Step]
    """Every step of the engine by itself, from its own input, over the file's own weights."""
    settings: list[str]
    """Constants that differ from the source's, in words."""
    tensors: TensorComparison | None
    remarks: list[str]
    reasons: list[str] = field(default_factory=list)
    """Why the verdict is against the file; empty when it is not."""

    @property
    def good(self) -> bool:
        """Is the file what it should be?"""
        return not self.reasons

    def to_json(self) -> dict[str, Any]:
        """Everything, as plain values."""
        return asdict(self) | {"good": self.good}


def reasons(
    measured: Agreement,
    bound: Threshold,
    settings: list[str],
    tensors: TensorComparison | None,
    rules: list[RuleBroken],
    steps: list[Step],
) -> list[str]:
    """Why the file is not what it should be, the plainest first; empty if nothing is wrong."""
    found = list(settings)
    if tensors is not None:
        found += [f"{name} is missing" for name in tensors.missing]
        found += [f"{name} is not a tensor of this model" for name in tensors.extra]
        found += [str(bad) for bad in tensors.bad]
    if rules:
        worst = max(rules, key=lambda r: r.tokens)
        found.append(
            f"the experts are chosen by another rule than the model's in {len(rules)} layers, "
            f"for {worst.tokens:.0%} of the tokens in layer {worst.layer}"
        )
    if over := [s for s in steps if not s.good]:
        worst_step = max(over, key=lambda s: s.difference / s.bound)
        found.append(f"{worst_step}" + (f", and {len(over) - 1} more steps like this" if len(over) > 1 else ""))
    if not measured.mean_kl <= bound.mean_kl:
        found.append(
            f"the mean divergence is {measured.mean_kl:.3g}, over the {bound.mean_kl:.3g} "
            f"that {bound.coarsest} may cost"
        )
    return found
