"""Reading parts of a model's files straight into memory, many at a time and past the page cache (``O_DIRECT``).

The page cache costs processor time for every page of 4 KiB: to find room for it, to list it, to map it, to reclaim it.
At the speed of a good disk that is more than a core can do. A direct read goes from the disk to where the weights are
wanted, whatever its size. File systems without direct reads are read through the page cache, and the pages dropped.
"""

import ctypes
import os
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from coderv2_local.larger_than_memory.weight_ranges import Range
from quant.errors import CoderError

READERS = 4
"""Reads at a time: what a disk needs to be busy, each being megabytes. More threads disturb those that compute."""
_DIRECT: int = getattr(os, "O_DIRECT", 0)


class ReadError(CoderError):
    """A file of the model cannot be opened or read."""


def open_all(paths: Iterable[Path], flags: int = 0) -> list[int]:
    """Open files to read, all of them or none.

    Raises:
        ReadError: one of them cannot be opened.
    """
    opened: list[int] = []
    try:
        for path in paths:
            opened.append(os.open(path, os.O_RDONLY | os.O_CLOEXEC | flags))
    except OSError as e:
        for fd in opened:
            os.close(fd)
        raise ReadError(f"cannot open {e.filename}: {e.strerror}") from None
    return opened


class DirectReader:
    """The files of a model, open for direct reads by a few threads.

    Args:
        paths: the files, as :attr:`WeightRanges.files` counts them.

    Attributes:
        direct: are they read past the page cache?

    Raises:
        ReadError: one of them cannot be opened.
    """

    def __init__(self, paths: Iterable[Path]) -> None:
        self.paths = tuple(paths)
        self.direct = bool(_DIRECT)
        self._fds: list[int] = []
        self._threads = ThreadPoolExecutor(READERS, thread_name_prefix="experts")
        try:
            self._fds = open_all(self.paths, _DIRECT)
        except ReadError:  # not on this file system; if it is something else, the next line says so
            self.direct = False
            self._fds = open_all(self.paths)

    def read(self, r: Range, address: int) -> Future[None]:
        """Begin to read a range, whole pages, to `address`, the beginning of a page.

        Returns:
            What to wait for; its ``result()`` raises ReadError.
        """
        return self._threads.submit(self._read, r.file, r.start, address, r.length)

    def _read(self, file: int, offset: int, address: int, length: int) -> None:
        fd, done = self._fds[file], 0
        target = memoryview((ctypes.c_ubyte * length).from_address(address)).cast("B")
        while done < length:
            try:
                got = os.preadv(fd, [target[done:]], offset + done)
            except OSError as e:
                where = f"bytes {offset + done} to {offset + length}"
                raise ReadError(f"cannot read {where} of {self.paths[file]}: {e.strerror}") from None
            if got == 0:
                raise ReadError(f"{self.paths[file]} has become shorter: it ends before byte {offset + length}")
            done += got
        if not self.direct:
            os.posix_fadvise(fd, offset, length, os.POSIX_FADV_DONTNEED)

    def close(self) -> None:
        """End the threads, after the reads they are at, and close the files. Safe to call twice."""
        self._threads.shutdown(cancel_futures=True)
        while self._fds:
            os.close(self._fds.pop())

    def __del__(self) -> None:
        self.close()
