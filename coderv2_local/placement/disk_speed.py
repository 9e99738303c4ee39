"""How fast the disk under a file reads, several reads in flight, past the page cache. Nothing is written."""

import mmap
import os
import random
import sys
import threading
import time
from collections.abc import Iterable
from pathlib import Path

PIECE = 1 << 20
"""Bytes of a read, about one matrix of an expert."""
READERS = 16
SMALLEST = 256 << 20
"""Of smaller files too little would be read to measure anything."""


def large_file(folders: Iterable[Path]) -> Path | None:
    """The largest model or checkpoint file in some folders that is large enough to measure with."""
    found = [p for folder in folders for ending in ("gguf", "safetensors") for p in folder.glob(f"*.{ending}")]
    sizes = [(p.stat().st_size, p) for p in found if p.is_file()]
    return max((pair for pair in sizes if pair[0] >= SMALLEST), default=(0, None))[1]


def read_speed(path: Path, seconds: float = 0.4) -> float | None:
    """Bytes a second of random reads of 1 MiB, 16 in flight.

    Args:
        path: a large file on the disk, a model for example.
        seconds: how long to read.

    Returns:
        None where it cannot be known: a small or unreadable file, or a system without direct reads (all but Linux).
    """
    if sys.platform != "linux":
        return None
    try:
        size = path.stat().st_size
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECT)
    except OSError:
        return None
    try:
        if size < SMALLEST:
            return None
        return _measure(descriptor, size, seconds)
    finally:
        os.close(descriptor)


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
