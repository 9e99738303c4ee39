"""The routed experts in the page cache: the kernel is advised of what will be needed, and drops what it likes."""

from collections.abc import Iterable, Sequence

from coderv2_local.larger_than_memory.expert_store import Part
from coderv2_local.larger_than_memory.residency import ModelFiles
from coderv2_local.larger_than_memory.weight_ranges import Range, WeightRanges


class AdvisedExperts:
    """An :class:`ExpertStore` that only advises.

    Args:
        ranges: where the experts lie in the files.
        files: the same files, opened for advice.
    """

    def __init__(self, ranges: WeightRanges, files: ModelFiles) -> None:
        self.ranges, self.files = ranges, files
        self.bytes_read = self.held = 0
        self._guessed: dict[int, set[int]] = {}

    def start(self, dense_to_keep: int) -> Sequence[Range]:
        """Page faults among experts are to read no others around them."""
        for stacks in self.ranges.stacks.values():
            self.files.do_not_read_around(r for s in stacks for r in s.ranges(range(s.n_experts)))
        return ()

    def look_at(self, layer: int, experts: Iterable[int]) -> dict[int, bool]:
        """Expert → are all its pages in memory?"""
        stacks = self.ranges.stacks[layer]
        return {e: all(self.files.in_memory(r) for s in stacks for r in s.ranges([e])) for e in experts}

    def fetch(self, layer: int, experts: Sequence[int], *, guessed: bool = False) -> None:
        """Advise experts (ascending ids), also those that seem to be there: single pages may have gone."""
        done = self._guessed.pop(layer, set())
        if guessed:
            self._guessed[layer] = set(experts)
        wanted = [e for e in experts if e not in done]
        self.bytes_read += self.files.will_need(r for s in self.ranges.stacks[layer] for r in s.ranges(wanted))

    def wait(self, layer: int, experts: Iterable[int], part: Part) -> None:
        """Page faults wait, for what they touch."""

    def used(self, layer: int, experts: Sequence[int], counts: Sequence[int]) -> None:
        """The kernel keeps its own account."""

    def tokens_passed(self, n: int) -> None:
        """Forget what was advised."""
        self._guessed.clear()

    def close(self) -> None:
        """There is nothing to end."""
