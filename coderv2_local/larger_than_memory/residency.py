"""What of a model's files is in memory, and the advice that brings it there or lets it go: Linux's page cache.

llama.cpp maps the files; what is not in the page cache is read when a thread first touches it, a page fault at a time,
and the disk idles between two faults. Advice given before (``posix_fadvise(WILLNEED)``) starts many reads at once.

Advice is only that. Where the kernel refuses it, the model runs on, slower, and :attr:`ModelFiles.notices` says why.
"""

import ctypes
import mmap
import os
import re
import resource
import sys
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import psutil

from coderv2_local.larger_than_memory.direct_reads import open_all
from coderv2_local.larger_than_memory.weight_ranges import Range
from coderv2_local.memory_calls import memory_calls
from coderv2_local.placement.cgroups import memory_limit

PAGE = mmap.PAGESIZE
SUPPORTED = sys.platform == "linux"
UNSUPPORTED = "experts are read ahead on Linux only: here the system reads them when they are touched, which is slower"
NO_EXPERTS = "this file has no routed experts to read ahead: what is not in memory is read when it is touched"
_MAP_LINE = re.compile(r"([0-9a-f]+)-([0-9a-f]+) \S+ ([0-9a-f]+) ([0-9a-f]+):([0-9a-f]+) (\d+)")


class Mapping(NamedTuple):
    """A part of a file in the addresses of this process."""

    address: int
    length: int
    offset: int
    """Of its first byte in the file."""


class ModelFiles:
    """The files of a loaded model, opened once more to give advice about them.

    Args:
        paths: the files, as :attr:`WeightRanges.files` counts them.

    Raises:
        ReadError: one of them cannot be opened.
    """

    def __init__(self, paths: Iterable[Path]) -> None:
        self.paths = tuple(paths)
        self.notices: list[str] = []
        """What the kernel refused, a line each, once."""
        self.locked_bytes = 0
        self._fds: list[int] = []
        self._helper = ThreadPoolExecutor(1, thread_name_prefix="advice")
        self._fds = open_all(self.paths)
        self._windows = [read_ahead_bytes(fd) for fd in self._fds]
        self.mappings: list[list[Mapping]] = [[] for _ in self._fds]
        """Of each file, once :meth:`find_mappings` has looked."""

    def will_need(self, ranges: Iterable[Range]) -> int:
        """Start reading what is not in memory yet. Returns the bytes advised.

        Linux cuts one piece of advice off at its read-ahead size, so a range becomes several. Each call makes room for
        what it reads before it returns, which takes a core's time: two threads share the work.
        """
        calls = [
            (self._fds[r.file], at, min(self._windows[r.file], r.end - at))
            for r in ranges
            for at in range(r.start, r.end, self._windows[r.file])
        ]
        try:
            half = self._helper.submit(_advise, calls[1::2])
            _advise(calls[::2])
            half.result()
        except OSError as e:
            self._notice(f"the kernel takes no advice on what to read ahead ({e.strerror})")
            return 0
        return sum(length for _, _, length in calls)

    def in_memory(self, r: Range) -> bool:
        """Is every page of the range in memory? (Not asked by a read that may not wait: that would start a read.)"""
        return not self.missing([r])

    def find_mappings(self) -> None:
        """Look up where llama.cpp has mapped the files, once it has loaded them."""
        self.mappings = [mappings_of(fd) for fd in self._fds]

    def do_not_read_around(self, ranges: Iterable[Range]) -> None:
        """Page faults in these ranges read the page that is missing, and not megabytes of other experts around it."""
        for r in ranges:
            for address, length, _ in self._parts(r):
                if memory_calls().madvise(address, length, mmap.MADV_RANDOM):
                    self._notice(f"MADV_RANDOM failed ({os.strerror(ctypes.get_errno())})")

    def missing(self, ranges: Iterable[Range]) -> list[Range]:
        """What of these ranges is not in memory, page by page: of a large range, one call of mincore tells.

        Of a file that this user may not write, the kernel does not tell, and nothing seems to be missing.
        """
        found: list[Range] = []
        for r in ranges:
            for address, length, start in self._parts(r):
                pages = np.empty(length // PAGE, np.uint8)
                if memory_calls().mincore(address, length, pages.ctypes.data):
                    self._notice(f"what is in memory cannot be told ({os.strerror(ctypes.get_errno())})")
                    continue
                there = pages & 1
                if there.all():
                    continue
                edges = np.flatnonzero(np.diff(there, prepend=1, append=1)) * PAGE + start
                found += [Range(r.file, int(a), int(b)) for a, b in edges.reshape(-1, 2)]
        return found

    def _parts(self, r: Range) -> Iterator[tuple[int, int, int]]:
        """The whole pages of a range as they are mapped: (address, bytes, offset in the file)."""
        for address, length, offset in self.mappings[r.file]:
            start, end = max(r.start & -PAGE, offset), min(-(-r.end // PAGE) * PAGE, offset + length)
            if start < end:
                yield address + start - offset, end - start, start

    def lock(self, ranges: Iterable[Range]) -> bool:
        """Lock ranges of the mapping into memory, as far as the limit on locked memory allows: all of them or none.

        Returns:
            Whether they are locked.
        """
        wanted = list(ranges)
        if not self._may_lock(sum(r.length + 2 * PAGE for r in wanted)):
            return False
        self.will_need(wanted)
        for r in wanted:
            for address, length, _ in self._parts(r):
                if memory_calls().mlock(address, length):
                    self._notice(f"mlock failed ({os.strerror(ctypes.get_errno())})")
                    return False
            self.locked_bytes += r.length
        return True

    def _may_lock(self, count: int) -> bool:
        limit = resource.getrlimit(resource.RLIMIT_MEMLOCK)[0]
        if limit == resource.RLIM_INFINITY or count <= limit:
            return True
        return _has_capability(14)  # CAP_IPC_LOCK: the limit does not count

    def _notice(self, text: str) -> None:
        if text not in self.notices:
            self.notices.append(text)

    def close(self) -> None:
        """Close the files and end the helper thread. Safe to call twice."""
        self._helper.shutdown()
        while self._fds:
            os.close(self._fds.pop())

    def __del__(self) -> None:
        self.close()


def _advise(calls: Iterable[tuple[int, int, int]]) -> None:
    for fd, start, length in calls:
        os.posix_fadvise(fd, start, length, os.POSIX_FADV_WILLNEED)


def read_ahead_bytes(fd: int) -> int:
    """How much one piece of advice can read: the read-ahead size of the disk that the file is on."""
    device = os.fstat(fd).st_dev
    try:
        text = Path(f"/sys/class/bdi/{os.major(device)}:{os.minor(device)}/read_ahead_kb").read_text()
        return max(128 << 10, int(text) << 10)
    except (OSError, ValueError):
        return 128 << 10  # Linux's default


def mappings_of(fd: int) -> list[Mapping]:
    """Where this process has mapped the open file."""
    status, found = os.fstat(fd), []
    with open("/proc/self/maps") as f:
        for line in f:
            m = _MAP_LINE.match(line)
            if m and int(m[6]) == status.st_ino:
                start, end, offset, major, minor = (int(m[i], 16) for i in range(1, 6))
                if os.makedev(major, minor) == status.st_dev:
                    found.append(Mapping(start, end - start, offset))
    return found


def available_memory() -> int:
    """Bytes that this process can have, what the page cache holds included, since it gives way."""
    limit = memory_limit()
    free: int = psutil.virtual_memory().available
    return free if limit is None else min(free, limit[1])


def _has_capability(number: int) -> bool:
    with open("/proc/self/status") as f:
        effective = next((line for line in f if line.startswith("CapEff:")), "CapEff: 0")
    return bool(int(effective.split()[1], 16) >> number & 1)
