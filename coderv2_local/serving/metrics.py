"""Counts of what the server does, in Prometheus' text format."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

PREFIX = "coder_"
MEANINGS = {
    "prompt_tokens_total": "tokens of prompts, of one that was given up those that were evaluated",
    "reused_tokens_total": "of these, tokens that needed no evaluation",
    "generated_tokens_total": "tokens generated",
    "prompt_seconds_total": "seconds of evaluating prompts",
    "generation_seconds_total": "seconds of generating",
    "waited_seconds_total": "seconds that requests waited in the queue",
    "interruptions_total": "answers interrupted by an infill",
    "cancelled_total": "generations ended because nobody waited for them any more",
    "shed_connections_total": "idle connections closed to make room",
    "stuck_connections_total": "connections closed because their client read nothing",
}
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


@dataclass
class Metrics:
    """Counters, each added to by one thread alone.

    Attributes:
        totals: name of `MEANINGS` → so far.
        requests: (path, status) → responses so far.
    """

    totals: Counter[str] = field(default_factory=Counter)
    requests: Counter[tuple[str, int]] = field(default_factory=Counter)

    def add(self, name: str, amount: float = 1) -> None:
        self.totals[name] += amount  # type: ignore[assignment]  # a Counter holds floats as well

    def text(self, gauges: Mapping[str, tuple[str, float]]) -> str:
        """All of it. `gauges`: name → (meaning, value now)."""
        lines = [
            f"# HELP {PREFIX}requests_total responses by path and status",
            f"# TYPE {PREFIX}requests_total counter",
        ]
        for (path, status), n in sorted(self.requests.items()):
            lines.append(f'{PREFIX}requests_total{{path="{path}",status="{status}"}} {n}')
        for name, meaning in MEANINGS.items():
            lines += [f"# HELP {PREFIX}{name} {meaning}", f"# TYPE {PREFIX}{name} counter"]
            lines.append(f"{PREFIX}{name} {self.totals[name]:.9g}")
        for name, (meaning, value) in gauges.items():
            lines += [f"# HELP {PREFIX}{name} {meaning}", f"# TYPE {PREFIX}{name} gauge", f"{PREFIX}{name} {value:.9g}"]
        return "\n".join(lines) + "\n"
