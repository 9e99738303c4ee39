"""How much of a file is in the page cache. Linux alone tells (mincore(2))."""

import ctypes
import mmap
import os
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

import numpy as np

from coderv2_local.memory_calls import FAILED, memory_calls

Found = TypeVar("Found")

SUPPORTED = sys.platform == "linux"
SAMPLES = 512
"""Pages that :func:`all_in_memory` looks at: of a file of 10 GB, one every 20 MB."""
_IN_MEMORY = 1  # the lowest bit of what mincore writes for a page
_PROT_NONE = 0


def share_in_memory(paths: Iterable[Path]) -> float | None:
    """How much of some files is in memory, 0 to 1. Every page is looked at: 0.2 s for 10 GB.

    Returns:
        None where it cannot be known: another system, or files that this user could not write (the kernel then says of
        every page that it is there; mm/mincore.c, ``can_do_mincore``).
    """
    there = pages = 0
    for path in paths:
        found = _of_mapped(path, _count)
        if found is None:
            return None
        there += found[0]
        pages += found[1]
    return there / pages if pages else None


def all_in_memory(path: Path) -> bool:
    """Does it look as if all of the file were in memory? Some pages tell, in a millisecond; False where none can."""
    return bool(_of_mapped(path, _every_sample))


def _of_mapped(path: Path, ask: Callable[[int, int], Found | None]) -> Found | None:
    """What `ask` finds of a mapped file, given its address and its size; None where the kernel would not tell."""
    if not SUPPORTED:
        return None
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        return None
    try:
        status = os.fstat(descriptor)
        if not status.st_size or (os.geteuid() not in (0, status.st_uid) and not os.access(path, os.W_OK)):
            return None
        # without any access rights: nothing can be read in by having it mapped
        address = memory_calls().mmap(None, status.st_size, _PROT_NONE, mmap.MAP_SHARED, descriptor, 0)
        if address == FAILED:
            return None
        try:
            return ask(address, status.st_size)
        finally:
            memory_calls().munmap(address, status.st_size)
    finally:
        os.close(descriptor)


def _count(address: int, size: int) -> tuple[int, int] | None:
    """(pages in memory, pages)."""
    state = np.zeros(-(-size // mmap.PAGESIZE), np.uint8)
    if memory_calls().mincore(address, size, state.ctypes.data):
        return None
    return int(np.count_nonzero(state & _IN_MEMORY)), len(state)


def _every_sample(address: int, size: int) -> bool:
    last, state = (size - 1) // mmap.PAGESIZE, ctypes.c_uint8()
    for page in {last * i // (SAMPLES - 1) for i in range(SAMPLES)}:
        failed = memory_calls().mincore(address + page * mmap.PAGESIZE, 1, ctypes.byref(state))
        if failed or not state.value & _IN_MEMORY:
            return False
    return True
