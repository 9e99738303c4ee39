"""Which experts stay in memory: those used most, lately. The others make room before the kernel has to.

Left to itself the kernel drops the pages that were touched longest ago. Experts are not used like that: some are used
all the time, most are not (and dropping pages one by one, each still mapped, costs more processor time than reading
them). So uses are counted, older ones for less, and whole experts are given up, the least used first.
"""

from collections.abc import Iterable, Mapping

import numpy as np

HALF_LIFE = 48
"""After so many decodes a use counts half."""


class HotExperts:
    """The book of what is in memory. It gives no orders to the kernel: it says which experts should go.

    Args:
        sizes: layer → bytes of one of its experts, in all stacks together.
        n_experts: in a layer.

    Attributes:
        budget: bytes that experts may take together.
        used: bytes that they take.
        given_up: how many have been dropped so far.
    """

    def __init__(self, sizes: Mapping[int, int], n_experts: int, budget: int = 0) -> None:
        layers = max(sizes, default=-1) + 1
        self.sizes, self.budget, self.used, self.given_up = sizes, budget, 0, 0
        self._score = np.zeros((layers, n_experts))
        self._there = np.zeros((layers, n_experts), bool)
        self._busy = np.full((layers, n_experts), -1)  # the decode that last wanted it
        self._decode = 0
        self._victims: list[int] = []

    def add(self, layer: int, experts: Iterable[int]) -> None:
        """These are in memory, or on their way there."""
        for e in experts:
            self._busy[layer, e] = self._decode
            if not self._there[layer, e]:
                self._there[layer, e] = True
                self.used += self.sizes[layer]

    def count(self, layer: int, experts: Iterable[int]) -> None:
        """These were chosen in this decode."""
        for e in experts:
            self._score[layer, e] += 1

    def holds(self, layer: int, expert: int) -> bool:
        """Is it in memory, as far as the book says?"""
        return bool(self._there[layer, expert])

    def end_decode(self) -> None:
        """Rank anew, and let older uses count for less."""
        self._decode += 1
        self._score *= 0.5 ** (1 / HALF_LIFE)
        self._victims.clear()

    def give_up(self) -> list[tuple[int, int]]:
        """The (layer, expert) pairs to drop so that the rest fits the budget. The book forgets them.

        What this decode wanted is never among them.
        """
        if self.used <= self.budget:
            return []
        n = self._score.shape[1]
        if not self._victims:
            idle = np.flatnonzero(self._there & (self._busy < self._decode))
            self._victims = idle[np.argsort(-self._score.ravel()[idle], kind="stable")].tolist()
        found = []
        while self.used > self.budget and self._victims:
            layer, e = divmod(self._victims.pop(), n)
            if self._there[layer, e] and self._busy[layer, e] < self._decode:
                self._there[layer, e] = False
                self.used -= self.sizes[layer]
                found.append((layer, e))
        self.given_up += len(found)
        return found
