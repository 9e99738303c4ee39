"""The routed experts that are in memory, in memory of this program: read past the page cache, dropped by how much used.

The page cache drops what was used longest ago. A prompt passes all layers again and again, so that each layer's experts
are dropped just before they are used, and one long text pushes out what every text needs. Here an expert counts its
uses, older ones less and less, and the one with the least goes.

Nothing may be computed with an expert that is not there: its weights would read as zeros. So :meth:`ExpertCache.wait`
comes before the use, and what it raises ends the decode.
"""

import threading
import weakref
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future

import numpy as np
import psutil

from coderv2_local.larger_than_memory.direct_reads import DirectReader, ReadError
from coderv2_local.larger_than_memory.expert_memory import CoveredStack, FreePages, Place, cover, covered
from coderv2_local.larger_than_memory.expert_store import NotCacheable, Part
from coderv2_local.larger_than_memory.residency import ModelFiles, available_memory
from coderv2_local.larger_than_memory.weight_ranges import Range, WeightRanges
from coderv2_local.placement.cgroups import memory_limit

HALF_LIFE = 32
"""Tokens after which a use counts half. Trained models choose what they chose lately more than favourites."""
RESERVE = 0.02
"""Share of the memory that is left free."""
LEAST_RESERVE = 256 << 20
PERIOD = 0.5
"""Seconds between two looks at how much memory there is."""
SLACK = 0.02
"""By how much of the room what can be had must differ from it before the room changes."""
_ABSENT, _COMING, _PRESENT = 0, 1, 2


class ExpertCache:
    """An :class:`ExpertStore`: experts of all layers, as many as there is memory for.

    Args:
        ranges: where they lie in the files.
        files: the same files as llama.cpp has mapped them.
        limit: bytes at most; None for as much as is free, less a reserve, and less again when others need it.
    """

    def __init__(self, ranges: WeightRanges, files: ModelFiles, limit: int | None = None) -> None:
        self.ranges, self.files, self.limit = ranges, files, limit
        self.held = 0
        """Bytes of memory that it has: experts and pages that wait for one."""
        self.room = 0
        """Bytes that it may have."""
        self.bytes_read = 0
        self._reader = DirectReader(ranges.files)
        self.reads_directly = self._reader.direct
        self._free = FreePages()
        self._stacks: dict[int, tuple[CoveredStack, ...]] = {}
        self._first: dict[int, int] = {}  # layer → index of its expert 0
        self._coming: dict[int, list[Future[None]]] = {}
        self._errors: dict[int, BaseException] = {}  # of the last try
        self._lock = threading.RLock()
        self._gain = 1.0
        self._closed = threading.Event()

    def start(self, dense_to_keep: int) -> Sequence[Range]:
        """Cover llama.cpp's mapping of the experts. Before that, nothing of it may be locked.

        Args:
            dense_to_keep: bytes beside the experts that shall stay in the page cache, or will be locked there.

        Returns:
            The few bytes of experts that stay in the page cache, because other tensors are in the same pages.

        Raises:
            NotCacheable: there is too little memory, or the files are not mapped as they should be.
        """
        stacks = {}
        for layer, uncovered in self.ranges.stacks.items():
            found = [covered(s, self.files.mappings[s.file]) for s in uncovered]
            if not all(found):
                raise NotCacheable("the model's file is mapped more than once, or in pieces")
            stacks[layer] = tuple(s for s in found if s)
        self._index(stacks)
        self._dense = dense_to_keep
        room = self._affordable()
        if room < self._least:
            raise NotCacheable(f"{max(0, room) / 1e9:.1f} GB for experts is less than one layer's")
        try:
            for group in stacks.values():
                for stack in group:
                    cover(stack)
        except OSError as e:
            raise NotCacheable(f"the kernel gives no memory in place of a mapping ({e.strerror})") from None
        self._stacks, self.room = stacks, room
        watch = threading.Thread(
            target=_watch, args=(weakref.ref(self), self._closed), name="expert memory", daemon=True
        )
        watch.start()
        return [r for group in stacks.values() for stack in group for r in stack.shared_pages()]

    def _index(self, stacks: Mapping[int, Sequence[CoveredStack]]) -> None:
        n, own, self._edges, self._least = 0, [], 0, 0
        for layer, group in stacks.items():
            self._first[layer] = n
            experts = group[0].stack.n_experts
            n += experts
            places = [[s.place(e) for s in group] for e in range(experts)]
            own += [sum(p.own_bytes for p in each) for each in places]
            self._edges += sum(p.whole.length - p.own_bytes for each in places for p in each)
            self._least = max(self._least, sum(p.whole.length for each in places for p in each))
        self._own = np.array(own)  # expert → bytes of pages that have nothing else
        self._state = np.zeros(n, np.uint8)
        self._score = np.zeros(n)
        self._in_use = np.zeros(n, bool)

    # What a layer asks, in this order: look_at, fetch, and before its experts are used, wait.

    def look_at(self, layer: int, experts: Iterable[int]) -> dict[int, bool]:
        """Expert → is it there, or being read?"""
        first = self._first[layer]
        return {e: bool(self._state[first + e] != _ABSENT) for e in experts}

    def fetch(self, layer: int, experts: Sequence[int], *, guessed: bool = False) -> None:
        """Begin to read experts that are not there, a stack after the other, in the order of use.

        Args:
            guessed: give up when there is no room, which for the chosen ones is made.
        """
        first = self._first[layer]
        with self._lock:
            self._settle()
            asked = [first + e for e in experts]
            if not guessed:
                self._in_use[:] = False
            self._in_use[asked] = True
            absent = [i for i in asked if self._state[i] == _ABSENT]
            fits = self._make_room(int(self._own[absent].sum()))
            if guessed and not fits:
                return
            places = [[stack.place(i - first) for i in absent] for stack in self._stacks[layer]]
            for i in absent:
                self._state[i], self._coming[i] = _COMING, []
                self._errors.pop(i, None)
            for group in places:
                for i, place in zip(absent, group, strict=True):
                    self._coming[i].append(self._read(place))

    def _read(self, place: Place) -> Future[None]:
        before = self._free.bytes
        self._free.move(place.own, place.own_bytes)
        self.held += place.own_bytes + self._free.bytes - before
        self.bytes_read += place.whole.length
        return self._reader.read(place.whole, place.address)

    def wait(self, layer: int, experts: Iterable[int], part: Part) -> None:
        """Return when a part of the experts is there: what is used first, or the rest.

        Raises:
            ReadError: the disk or the file failed.
        """
        needed = [self._first[layer] + e for e in experts]
        for i in needed:
            reads = self._coming.get(i, [])
            for read in reads[:-1] if part == "first" else reads:
                read.result()
        if part == "first":
            return
        with self._lock:
            self._settle()
            for i in needed:
                if self._state[i] != _PRESENT:
                    raise self._errors.pop(i, None) or ReadError(f"expert {i} was dropped before its use")

    def used(self, layer: int, experts: Sequence[int], counts: Sequence[int]) -> None:
        """Count the uses of experts: how many tokens chose each."""
        self._score[self._first[layer] + np.asarray(experts, int)] += self._gain * np.asarray(counts)

    def tokens_passed(self, n: int) -> None:
        """`n` tokens are done: earlier uses count less, and nothing is in use."""
        with self._lock:
            self._in_use[:] = False
            self._trim()
            self._gain *= 2 ** (n / HALF_LIFE)
            if self._gain > 1e100:
                self._score /= self._gain
                self._gain = 1.0

    def _settle(self) -> None:
        """Take note of the reads that have ended. A failed one leaves its expert absent."""
        for i in [i for i, reads in self._coming.items() if all(r.done() for r in reads)]:
            reads = self._coming.pop(i)
            error = next((e for r in reads if not r.cancelled() and (e := r.exception())), None)
            self._state[i] = _PRESENT
            if error:
                self._errors[i] = error
                self._evict(i)

    def _make_room(self, wanted: int) -> bool:
        """Drop what is used least until `wanted` bytes fit. Returns whether they do."""
        lacking = self.held - self._free.bytes + wanted - self.room
        if lacking <= 0:
            return True
        candidates = np.flatnonzero((self._state == _PRESENT) & ~self._in_use)
        fewest = min(len(candidates), 1 + lacking // max(1, int(self._own.min())))
        if fewest < len(candidates):
            least = np.argpartition(self._score[candidates], fewest)[: fewest + 1]
            candidates = candidates[least]
        for i in candidates[np.argsort(self._score[candidates], kind="stable")]:
            if lacking <= 0:
                break
            self._evict(int(i))
            lacking -= int(self._own[i])
        return lacking <= 0

    def _evict(self, i: int) -> None:
        self._state[i] = _ABSENT
        layer = max((n for n in self._first if self._first[n] <= i), key=lambda n: self._first[n])
        for stack in self._stacks[layer]:
            place = stack.place(i - self._first[layer])
            self._free.add(place.own, place.own_bytes)

    def _affordable(self) -> int:
        if self.limit is not None:
            return self.limit
        dense = max(0, self._dense - self.files.locked_bytes)  # what is locked is not available as it is
        limit, whole = memory_limit(), psutil.virtual_memory().total
        whole = min(whole, limit[0]) if limit else whole
        return self.held + available_memory() - dense - self._edges - max(LEAST_RESERVE, int(RESERVE * whole))

    def adapt(self) -> None:
        """Look at how much memory there is, and give back what others need."""
        with self._lock:
            affordable = max(self._affordable(), self._least)
            if abs(affordable - self.room) > SLACK * self.room:
                self.room = affordable
            self._trim()

    def _trim(self) -> None:
        """Give back what is more than the room: guesses that were still being read could not be dropped."""
        self._settle()
        self._make_room(0)
        before = self._free.bytes
        self._free.drop(max(0, self.room - (self.held - before)))
        self.held -= before - self._free.bytes

    def close(self) -> None:
        """End the reads. The memory goes with llama.cpp's mapping. Safe to call twice."""
        self._closed.set()
        self._reader.close()


def _watch(cache: "weakref.ref[ExpertCache]", closed: threading.Event) -> None:
    """Look at the memory also between two answers: other programs are started then."""
    while not closed.wait(PERIOD):
        alive = cache()
        if alive is None:
            return
        alive.adapt()
        del alive
