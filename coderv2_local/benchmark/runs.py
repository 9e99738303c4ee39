"""The same work done by several loops by turns, and how their speeds compare."""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Run:
    """One prompt evaluated, and tokens decoded after it.

    Attributes:
        prompt_seconds: from the prompt's ids to the first generated id.
        decode_seconds: from there to the last one.
        ids: what was generated: one more than was decoded.
        bytes_read: from disks while decoding; None where that is not counted.
    """

    prompt_seconds: float
    decode_seconds: float
    ids: tuple[int, ...]
    bytes_read: int | None = None


class Loop(Protocol):
    """Something that evaluates a prompt and decodes greedily, each time from nothing."""

    def run(self, ids: Sequence[int], n_tokens: int) -> Run: ...


@dataclass(frozen=True)
class Ratio:
    """One speed over another: of the pairs, the median, the lowest and the highest."""

    median: float
    low: float
    high: float


@dataclass(frozen=True)
class Rounds:
    """What several loops needed for the same work.

    Attributes:
        prompt: tokens of the prompt.
        tokens: tokens decoded after it.
        runs: by loop, one for each round.
    """

    prompt: int
    tokens: int
    runs: dict[str, list[Run]]

    def prompt_speed(self, loop: str) -> float:
        """Tokens a second, median."""
        return statistics.median(self.prompt / r.prompt_seconds for r in self.runs[loop])

    def decode_speed(self, loop: str) -> float:
        """Tokens a second, median."""
        return statistics.median(self.tokens / r.decode_seconds for r in self.runs[loop])

    def prompt_ratio(self, loop: str, other: str) -> Ratio:
        """Speed of `loop` over that of `other`, each round by itself."""
        return self._ratio(loop, other, lambda r: r.prompt_seconds)

    def decode_ratio(self, loop: str, other: str) -> Ratio:
        """As :meth:`prompt_ratio`, of decoding."""
        return self._ratio(loop, other, lambda r: r.decode_seconds)

    def _ratio(self, loop: str, other: str, seconds: Callable[[Run], float]) -> Ratio:
        found = [seconds(b) / seconds(a) for a, b in zip(self.runs[loop], self.runs[other], strict=True)]
        return Ratio(statistics.median(found), min(found), max(found))

    def bytes_a_token(self, loop: str) -> float | None:
        """Bytes read from disks for a decoded token, mean; None where they are not counted."""
        counted = [r.bytes_read for r in self.runs[loop]]
        known = [n for n in counted if n is not None]
        return sum(known) / (self.tokens * len(known)) if len(known) == len(counted) else None

    def same_ids(self, loop: str, other: str) -> bool:
        """Did both generate the same ids every time?"""
        return [r.ids for r in self.runs[loop]] == [r.ids for r in self.runs[other]]


def by_turns(
    loops: dict[str, Loop],
    prompts: Sequence[Sequence[int]],
    n_tokens: int,
    on_round: Callable[[int], None] | None = None,
) -> Rounds:
    """Let every loop do the same work once a round; each round begins with another of them.

    Args:
        loops: by name.
        prompts: one for each round, all of one length.
        n_tokens: decoded after each.
        on_round: called before each round with its number, from 0.
    """
    runs: dict[str, list[Run]] = {name: [] for name in loops}
    names = list(loops)
    for n, ids in enumerate(prompts):
        if on_round:
            on_round(n)
        first = n % len(names)
        for name in names[first:] + names[:first]:
            runs[name].append(loops[name].run(ids, n_tokens))
    return Rounds(len(prompts[0]), n_tokens, runs)
