"""What reading experts ahead needs of the place where they are kept."""

from collections.abc import Iterable, Sequence
from typing import Literal, Protocol

from coderv2_local.larger_than_memory.weight_ranges import Range

Part = Literal["first", "rest"]
"""Of an expert: gate and up, which are used first, or down."""


class ExpertStore(Protocol):
    """Where experts are kept. Of each layer it is asked in this order: look_at, fetch, wait (twice)."""

    bytes_read: int
    """Bytes of experts that were asked of the disk."""
    held: int
    """Bytes of this program's own memory that it has."""

    def start(self, dense_to_keep: int) -> Sequence[Range]:
        """Before the first decode: the model is mapped, and nothing of it locked.

        Args:
            dense_to_keep: bytes beside the experts that shall stay in memory.

        Returns:
            Bytes of experts that are to be kept like those.

        Raises:
            NotCacheable: this store cannot be had here.
        """

    def look_at(self, layer: int, experts: Iterable[int]) -> dict[int, bool]:
        """Expert → is it in memory, or on its way?"""

    def fetch(self, layer: int, experts: Sequence[int], *, guessed: bool = False) -> None:
        """Begin to read what is not there: the chosen experts, or those that probably will be chosen."""

    def wait(self, layer: int, experts: Iterable[int], part: Part) -> None:
        """Return when a part of the experts can be computed with.

        Raises:
            ReadError: the disk or the file failed.
        """

    def used(self, layer: int, experts: Sequence[int], counts: Sequence[int]) -> None:
        """How many tokens have chosen each expert."""

    def tokens_passed(self, n: int) -> None:
        """A decode of `n` tokens is over."""

    def close(self) -> None:
        """End what is going on. Safe to call twice."""


class NotCacheable(Exception):
    """The experts cannot be kept in this way here; the message says why."""
