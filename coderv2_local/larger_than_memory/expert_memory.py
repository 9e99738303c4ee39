"""Memory of this program in the places where llama.cpp has mapped the experts, and the moving of it between them.

llama.cpp reads an expert at a fixed address: where the file's mapping has it. There the mapping is covered with private
memory, which takes none until something is read into it. When an expert goes, its pages are moved (``mremap``) to the
addresses of one that comes. They are not freed and taken anew: the kernel would fill every new page with zeros first,
and on a virtual machine freed memory may go back to the host and has to be fetched again.

Experts do not begin where pages do. A page that two share is filled with the file's bytes by whichever is read, and
stays when one of them goes.
"""

import ctypes
import mmap
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from coderv2_local.larger_than_memory.residency import Mapping
from coderv2_local.larger_than_memory.weight_ranges import Range, Stack
from coderv2_local.memory_calls import FAILED, memory_calls

PAGE = mmap.PAGESIZE
_READ_WRITE = mmap.PROT_READ | mmap.PROT_WRITE
_PRIVATE = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
_FIXED, _NO_RESERVE, _FIXED_IF_FREE = 0x10, 0x4000, 0x100000
_MAY_MOVE, _MOVE_FIXED, _KEEP_SOURCE = 1, 2, 4  # mremap; the last is Linux 5.7
_NO_HUGE_PAGE = 15  # madvise


@dataclass(frozen=True)
class Place:
    """Where one expert of one stack lies.

    Attributes:
        whole: the bytes of the file in every page that has some of it.
        address: where they are mapped.
        own: the first address of the pages that have nothing else.
        own_bytes: of those.
    """

    whole: Range
    address: int
    own: int
    own_bytes: int


@dataclass(frozen=True)
class CoveredStack:
    """A stack whose mapping can be covered: all its pages but a first and a last that it shares with other tensors."""

    stack: Stack
    base: int
    """Where its first byte is mapped."""

    @property
    def start(self) -> int:
        return -(-self.base // PAGE) * PAGE

    @property
    def end(self) -> int:
        return (self.base + self.stack.expert_bytes * self.stack.n_experts) & -PAGE

    def place(self, expert: int) -> Place:
        """Where `expert` lies."""
        first = self.base + expert * self.stack.expert_bytes
        last = first + self.stack.expert_bytes
        outer, outer_end = max(first & -PAGE, self.start), min(-(-last // PAGE) * PAGE, self.end)
        inner, inner_end = max(-(-first // PAGE) * PAGE, self.start), min(last & -PAGE, self.end)
        offset = self.stack.start - self.base
        whole = Range(self.stack.file, outer + offset, outer_end + offset)
        return Place(whole, outer, inner, max(0, inner_end - inner))

    def shared_pages(self) -> Iterator[Range]:
        """What of it stays in the file's mapping."""
        begin, end = self.stack.start, self.stack.start + self.stack.expert_bytes * self.stack.n_experts
        offset = self.stack.start - self.base
        if begin < self.start + offset:
            yield Range(self.stack.file, begin, self.start + offset)
        if self.end + offset < end:
            yield Range(self.stack.file, self.end + offset, end)


def covered(stack: Stack, mappings: Iterable[Mapping]) -> CoveredStack | None:
    """The stack in the one mapping that holds all of it; None where it is mapped in pieces, twice, or not at all."""
    end = stack.start + stack.expert_bytes * stack.n_experts
    around = [m for m in mappings if m.offset < end and stack.start < m.offset + m.length]
    if len(around) != 1 or around[0].offset > stack.start or end > around[0].offset + around[0].length:
        return None
    return CoveredStack(stack, around[0].address + stack.start - around[0].offset)


def cover(stack: CoveredStack) -> None:
    """Put private memory over the file's mapping.

    Raises:
        OSError: the kernel refused; the mapping is as it was.
    """
    length = stack.end - stack.start
    flags = _PRIVATE | _FIXED | _NO_RESERVE
    if memory_calls().mmap(stack.start, length, _READ_WRITE, flags, -1, 0) == FAILED:
        raise _error()
    # A huge page would be given for one expert and hold parts of others.
    memory_calls().madvise(stack.start, length, _NO_HUGE_PAGE)


class FreePages:
    """Runs of pages whose contents are of no use any more, still lying where they were used last."""

    def __init__(self) -> None:
        self.bytes = 0
        self._runs: dict[int, set[int]] = {}  # length → addresses

    def add(self, address: int, length: int) -> None:
        """Take in a run. Nobody may read there until something is read into it again."""
        if length:
            self._runs.setdefault(length, set()).add(address)
            self.bytes += length

    def move(self, address: int, length: int) -> int:
        """Move a run to `address`: the one that lies there, else one of this length, the next longer, or the longest.

        What it is longer is freed. What is there afterwards is no run any more: before another run is moved to where
        this one came from, this move must be done, so it is done at once, and by one thread after the other.

        Returns:
            How many bytes of it are there now; 0 where there are no runs. The rest the kernel gives when it is written.
        """
        if not self._runs or not length:
            return 0
        if address in self._runs.get(length, ()):  # or another would get it later, with what is read into it now
            self._pop(length, address)
            return length
        found = min((n for n in self._runs if n >= length), default=None) or max(self._runs)
        source, kept = self._pop(found), min(found, length)
        release(source + kept, found - kept)
        if _remap(source, kept, address):
            return kept
        release(source, kept)  # an older Linux, or too many pieces of memory: freed, and taken anew
        return 0

    def drop(self, target: int) -> None:
        """Free runs, the longest first, until at most `target` bytes are left."""
        while self.bytes > target:
            length = max(self._runs)
            release(self._pop(length), length)

    def _pop(self, length: int, address: int | None = None) -> int:
        runs = self._runs[length]
        run = runs.pop() if address is None else address
        runs.discard(run)
        if not runs:
            del self._runs[length]
        self.bytes -= length
        return run


def release(address: int, length: int) -> None:
    """Free the memory of whole pages; they read as zeros then."""
    if length:
        memory_calls().madvise(address, length, mmap.MADV_DONTNEED)


def _remap(source: int, length: int, target: int) -> bool:
    """Move pages from `source` to `target`, both covered; where they were is covered and empty."""
    if not length:
        return True
    flags = _MAY_MOVE | _MOVE_FIXED | _KEEP_SOURCE
    if memory_calls().mremap(source, length, length, flags, target) != FAILED:
        return True
    # should it have uncovered the target before it failed: nobody else may come to lie there
    memory_calls().mmap(target, length, _READ_WRITE, _PRIVATE | _FIXED_IF_FREE | _NO_RESERVE, -1, 0)
    return False


def _error() -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number))
