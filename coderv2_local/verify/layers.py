"""Where the two sides part: the difference at every stage of every layer."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from converters.config import ModelConfig

from ..reference.router import choose
from .engine_side import StageTap

Values = npt.NDArray[np.generic]


RULE_TOLERANCE = 1e-6


@dataclass(frozen=True)
class StageDifference:
    """How far apart the sides are at one stage.

    For the router the difference is the share of choices that differ; for all others the root mean square of the
    difference over that of the reference's values.
    """

    stage: str
    layer: int
    difference: float


class StageComparer:
    """A watcher of the reference that compares its stages with those the engine went through, and keeps only numbers.

    Args:
        tap: filled by the engine, for the same ids.
    """

    def __init__(self, tap: StageTap) -> None:
        self._tap = tap
        self._stream: Values | None = None
        self.differences: list[StageDifference] = []

    def __call__(self, stage: str, layer: int, value: Values) -> None:
        """Take one stage of the reference (see `coderv2_local.reference.model.STAGES`)."""
        if stage in ("embedding", "layer"):
            self._stream = value
        if stage == "embedding":
            self._compare("embedding", layer, value)
        elif stage == "attention" and self._stream is not None:
            self._compare("attention", layer, self._stream + value)  # type: ignore[operator]
        elif stage == "experts_chosen":
            self._compare("router", layer, value)
        elif stage == "feedforward":
            self._compare("experts", layer, value)
        elif stage == "norm":
            self._compare("norm", layer, value)

    def _compare(self, stage: str, layer: int, reference: Values) -> None:
        engine = self._tap.stage(stage, layer)
        if engine is not None and engine.shape == reference.shape:
            self.differences.append(StageDifference(stage, layer, difference(stage, engine, reference)))

    def largest(self) -> list[StageDifference]:
        """The largest difference of each stage."""
        worst: dict[str, StageDifference] = {}
        for d in self.differences:
            if d.stage not in worst or not d.difference <= worst[d.stage].difference:
                worst[d.stage] = d
        return list(worst.values())


def difference(stage: str, engine: Values, reference: Values) -> float:
    """See :class:`StageDifference`."""
    if stage == "router":
        hits = (engine[:, :, None] == reference[:, None, :]).any(axis=1).mean()
        return float(1 - hits)
    a, b = engine.astype(np.float64), reference.astype(np.float64)
    size = np.sqrt(np.mean(np.square(b))) or 1.0
    return float(np.sqrt(np.mean(np.square(a - b))) / size)


@dataclass(frozen=True)
class RuleBroken:
    """A layer that chose other experts than the model's rule chooses by the very same probabilities."""

    layer: int
    tokens: float
    """Share of the tokens for which it did."""


def broken_rules(tap: StageTap, config: ModelConfig) -> list[RuleBroken]:
    """Layers in which the engine did not follow the model's rule of choosing experts.

    The rule is applied to the engine's own probabilities, so that this does not depend on how exact the weights are.
    Choices that are worth the same are the same.
    """
    found = []
    for layer in range(config.n_layers):
        scores, chosen = tap.stage("probabilities", layer), tap.stage("router", layer)
        if scores is None or chosen is None or scores.shape[-1] != config.n_routed_experts:
            continue  # another number of experts is named among the settings
        probabilities = scores.astype(np.float64)
        rule = choose(probabilities, config)
        worth, due = (np.take_along_axis(probabilities, ids.astype(np.intp), -1).sum(-1) for ids in (chosen, rule))
        share = float((np.abs(worth - due) > RULE_TOLERANCE * due).mean())
        if share > 0:
            found.append(RuleBroken(layer, share))
    return found
