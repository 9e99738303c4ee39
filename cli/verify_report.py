"""What `coder verify` shows: how far apart the two sides are, step by step, and the verdict."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from coderv2_local.stream import printable

if TYPE_CHECKING:
    from coderv2_local.verify.verdict import Verdict

SHOWN = 20
BARS = "▁▂▃▄▅▆▇█"
CHART_WIDTH = 64
BESIDE_CHART = 72
"""Columns of the table before its charts."""


def show(verdict: "Verdict") -> None:
    """The report, on stdout. Names out of files are stripped of control characters."""
    out = Console(highlight=False, markup=False)
    out.soft_wrap = not out.is_terminal  # on a terminal lines end at words, in a pipe they stay whole
    a, t = verdict.agreement, verdict.tensors
    out.print(printable(f"engine: {verdict.model}"))
    out.print(printable(f"reference: {verdict.against}, {verdict.tokens} tokens"))
    if verdict.stock_routing:
        out.print("experts chosen by llama.cpp's own rule (--stock-routing)")
    out.print()
    out.print(f"divergence (KL, nats)     mean {a.mean_kl:.1e}   99 % {a.p99_kl:.1e}   max {a.max_kl:.1e}")
    out.print(f"same most probable token  {a.top1:.1%}")
    out.print(f"perplexity                engine {a.engine_perplexity:.4f}   reference {a.reference_perplexity:.4f}")
    out.print(f"divergence by position, {chart_scale(a.kl)}")
    out.print("  " + chart(a.kl))
    out.print()
    out.print(stages(verdict, min(max(out.width - BESIDE_CHART, 8), CHART_WIDTH)))
    out.print()
    if t is not None:
        off = sum(len(group) for group in (t.bad, t.missing, t.extra))
        out.print(f"{t.parts} tensors (each expert one) compared: {t.identical} identical to the source, {off} wrong")
    for remark in verdict.remarks:
        out.print(f"note: {remark}")
    for reason in verdict.reasons[:SHOWN]:
        out.print(printable(f"✗ {reason}"))
    if len(verdict.reasons) > SHOWN:
        out.print(f"✗ … and {len(verdict.reasons) - SHOWN} more (--json has all)")
    out.print("verdict: " + (f"good: {held(verdict)}" if verdict.good else "against the file"))


def held(verdict: "Verdict") -> str:
    """What was looked at and found right."""
    looked = [] if verdict.tensors is None else ["the settings", f"{verdict.tensors.parts} tensors"]
    looked += ["the choice of experts", f"{len(verdict.steps)} steps of the engine"]
    bound = f"at most {verdict.threshold.mean_kl:g} for {verdict.threshold.coarsest}"
    return f"{', '.join(looked)}; mean divergence {verdict.agreement.mean_kl:.1e}, {bound}"


def stages(verdict: "Verdict", chart_width: int) -> Table:
    """A line a stage: the engine's largest error in one step, what may be, and what has grown up to there."""
    table = Table(box=None, pad_edge=False)
    for column in ("difference in", "one step", "allowed", "all steps so far", "by layer"):
        table.add_column(column, justify="left" if column in ("difference in", "by layer") else "right")
    so_far = {d.stage: d for d in verdict.largest}
    steps = dict.fromkeys(s.stage for s in verdict.steps)
    for stage in dict.fromkeys(["embedding", "attention", "router", "experts", *so_far, *steps]):
        alone = [s for s in verdict.steps if s.stage == stage]
        grown = [d.difference for d in verdict.stages if d.stage == stage]
        shown = [s.difference for s in alone] or grown
        worst = max(alone, key=lambda s: s.difference / s.bound, default=None)
        table.add_row(
            "choice of experts" if stage == "router" else stage,
            placed(worst.difference, worst.layer) if worst else "",
            f"{worst.bound:g}" if worst else "",
            placed(so_far[stage].difference, so_far[stage].layer, share=stage == "router") if stage in so_far else "",
            chart(shown, chart_width) if len(shown) > 1 else "",
        )
    return table


def placed(difference: float, layer: int, *, share: bool = False) -> str:
    """A difference and where it is."""
    number = f"{difference:.1%}" if share else f"{difference:.1e}" if difference else "0"
    return f"{number} (layer {layer})" if layer >= 0 else number


def chart(values: Sequence[float], width: int = CHART_WIDTH) -> str:
    """A line of bars on a logarithmic scale, the largest of its stretch each: at most `width` of them.

    Doctest:
        >>> chart([1e-3, 1e-2, 1e-1])
        '▁▅█'
    """
    step = max(1, math.ceil(len(values) / width))
    peaks = [log10(max(values[i : i + step])) for i in range(0, len(values), step)]
    low, high = min(peaks), max(peaks)
    spread = high - low or 1.0
    return "".join(BARS[round((peak - low) / spread * (len(BARS) - 1))] for peak in peaks)


def chart_scale(values: Sequence[float]) -> str:
    """What the lowest and the highest bar stand for."""
    return f"from {10 ** log10(min(values)):.0e} to {10 ** log10(max(values)):.0e}"


def log10(value: float) -> float:
    """log₁₀ that has a floor and a ceiling."""
    if not value < 1e30:
        return 30.0
    return math.log10(max(value, 1e-18))
