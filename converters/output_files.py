"""The files of a plan while they are written: under ``.partial`` names, few of them open at a time, synced together."""

import os
import threading
from collections import Counter, OrderedDict
from collections.abc import Sequence
from pathlib import Path

from converters.plan import OutputFile

OPEN_AT_ONCE = 16
"""Descriptors held: a split output may have more parts than a process may have open files (often 1024)."""

_FLAGS = os.O_RDWR | getattr(os, "O_BINARY", 0)


def partial_path(file: OutputFile) -> Path:
    """The name that an output file has until it is complete."""
    return file.path.with_name(file.path.name + ".partial")


def bytes_allocated(path: Path) -> int:
    """Bytes of a file that need no more room on the disk; 0 where there is none."""
    try:
        status = path.stat()
    except OSError:
        return 0
    return min(status.st_size, getattr(status, "st_blocks", 0) * 512)


class OutputFiles:
    """Written by many threads at once; a file is opened when a piece of it comes. Close it after use."""

    def __init__(self, files: Sequence[OutputFile]) -> None:
        self.files = files
        self._open: OrderedDict[int, int] = OrderedDict()  # number → descriptor, the least recently used first
        self._users: Counter[int] = Counter()
        self._lock = threading.Lock()
        self._lost: OSError | None = None

    def create(self) -> None:
        """Make all files anew, at their full size, with their headers on disk.

        Raises:
            OSError: one of them cannot be written.
        """
        for f in self.files:
            fd = os.open(partial_path(f), _FLAGS | os.O_CREAT | os.O_TRUNC, 0o666)
            try:
                os.ftruncate(fd, f.size)
                write_at(fd, 0, memoryview(f.header))
                os.fsync(fd)
            finally:
                os.close(fd)

    def write(self, number: int, position: int, data: memoryview) -> None:
        """Write all of `data` at byte `position` of file `number`.

        Raises:
            OSError: it cannot be written, or what was written to another file before cannot be synced.
        """
        with self._lock:
            if number not in self._open:
                self._close_idle(OPEN_AT_ONCE - 1)
                self._open[number] = os.open(partial_path(self.files[number]), _FLAGS)
            self._open.move_to_end(number)
            self._users[number] += 1
            fd = self._open[number]
        try:
            write_at(fd, position, data)
        finally:
            with self._lock:
                self._users[number] -= 1

    def sync(self) -> None:
        """Return once all that has been written is on disk.

        Raises:
            OSError: it is not. Nor will it ever be: the system drops what it could not write and says so once, so the
                next fsync would succeed. Every later call therefore raises the same error.
        """
        with self._lock:
            opened = list(self._open)
        for number in opened:
            with self._lock:
                fd = self._open.get(number)
                self._users[number] += 1
            try:
                if fd is not None:  # else it was synced as it was closed, to make room
                    self._fsync(fd)
            finally:
                with self._lock:
                    self._users[number] -= 1
        if self._lost:
            raise self._lost

    def close(self) -> None:
        """Close all files. No thread may be writing any more."""
        while self._open:
            os.close(self._open.popitem()[1])

    def _close_idle(self, left: int) -> None:
        """Close files that no thread is using, until so many are open; more stay where all are in use."""
        for number in [n for n in self._open if not self._users[n]][: max(0, len(self._open) - left)]:
            self._fsync(self._open[number])  # a failure to write is only told for sure while the file is open
            os.close(self._open.pop(number))

    def _fsync(self, fd: int) -> None:
        try:
            os.fsync(fd)
        except OSError as e:
            self._lost = self._lost or e
            raise


_seek_lock = threading.Lock()


def write_at(fd: int, position: int, data: memoryview) -> None:
    """Write all of `data` at byte `position` of an open file."""
    done = 0
    while done < len(data):
        if hasattr(os, "pwrite"):
            done += os.pwrite(fd, data[done:], position + done)
        else:  # no positioned write on this platform (Windows)
            with _seek_lock:
                os.lseek(fd, position + done, os.SEEK_SET)
                done += os.write(fd, data[done:])
