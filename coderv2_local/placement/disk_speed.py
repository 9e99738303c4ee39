"""How fast the disk under a file reads, several reads in flight, past the page cache. Nothing is written."""

import errno
import mmap
import os
import random
import sys
import threading
import time
from collections.abc import Iterable
from pathlib import Path

from quant.errors import CoderError

PIECE = 1 << 20
"""Bytes of a read, about one matrix of an expert."""
READERS = 16
SMALLEST = 256 << 20
"""Of smaller files too little would be read to measure anything."""
NEEDS_LINUX = "that takes Linux, where a file can be read past the page cache"


def large_file(folders: Iterable[Path]) -> Path | None:
    """The largest model or checkpoint file in some folders that is large enough to measure with."""
    found = [p for folder in folders for ending in ("gguf", "safetensors") for p in folder.glob(f"*.{ending}")]
    sizes = [(p.stat().st_size, p) for p in found if p.is_file()]
    return max((pair for pair in sizes if pair[0] >= SMALLEST), default=(0, None))[1]


class DiskUnmeasuredError(CoderError):
    """Why the speed of a disk cannot be known."""


def read_speed(path: Path, seconds: float = 0.4) -> float | None:
    """What :func:`measured_speed` finds, or None where it cannot be known."""
    try:
        return measured_speed(path, seconds)
    except DiskUnmeasuredError:
        return None


def measured_speed(path: Path, seconds: float = 0.4) -> float:
    """Bytes a second of random reads of 1 MiB, 16 in flight.

    Args:
        path: a large file on the disk, a model for example.
        seconds: how long to read.

    Raises:
        DiskUnmeasuredError: a small or unreadable file, or a system without direct reads (all but Linux).
    """
    if sys.platform != "linux":
        raise DiskUnmeasuredError(NEEDS_LINUX)
    try:
        size = path.stat().st_size
        if size < SMALLEST:
            raise DiskUnmeasuredError(f"{path.name} is too small, that takes {SMALLEST / 1e6:.0f} MB or more")
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECT)
    except OSError as error:
        if error.errno == errno.EINVAL:
            raise DiskUnmeasuredError(f"{path.name} lies on a file system without direct reads") from None
        raise DiskUnmeasuredError(f"{path.name}: {(error.strerror or str(error)).lower()}") from None
    try:
        speed = _measure(descriptor, size, seconds)
    finally:
        os.close(descriptor)
    if speed is None:
        raise DiskUnmeasuredError(f"nothing could be read from {path.name}")
    return speed


def disk_under(path: Path | None, folders: Iterable[Path]) -> float:
    """The speed of the disk under `path`, or without one under the largest file in some folders.

    Raises:
        DiskUnmeasuredError: as :func:`measured_speed` does, or there is no file to measure with.
    """
    path = path or large_file(folders)
    if path is None:
        if sys.platform != "linux":
            raise DiskUnmeasuredError(NEEDS_LINUX)
        kind = f"a .gguf or .safetensors file of {SMALLEST / 1e6:.0f} MB or more"
        raise DiskUnmeasuredError(f"that takes {kind}, in this folder or among the installed models")
    return measured_speed(path)


def _measure(descriptor: int, size: int, seconds: float) -> float | None:
    counts = [0] * READERS
    began = time.perf_counter()

    def work(reader: int) -> None:
        place = random.Random(reader)
        with mmap.mmap(-1, PIECE) as buffer:  # direct reads want memory aligned to a page
            while time.perf_counter() - began < seconds:
                try:
                    # a sparse file's holes cost no reading: look for data behind the place
                    at = os.lseek(descriptor, place.randrange(size - PIECE), os.SEEK_DATA) // PIECE * PIECE
                    counts[reader] += os.preadv(descriptor, [buffer], at)
                except OSError:
                    return

    threads = [threading.Thread(target=work, args=(i,), daemon=True) for i in range(READERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(counts) / (time.perf_counter() - began) or None
