"""What of a model's files is in the page cache, and how to get it out of there. Linux alone offers both."""

import ctypes
import mmap
import os
import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np

SUPPORTED = sys.platform == "linux"
_IN_MEMORY = 1  # the lowest bit of what mincore writes for a page
_MAP_FAILED = ctypes.c_void_p(-1).value
_PROT_NONE = 0


def drop(paths: Iterable[Path]) -> None:
    """Ask the kernel to forget what it holds of some files. :func:`share_in_memory` tells whether it did.

    Pages that a program has mapped stay, and so do those not written to the disk yet; the latter are written first.

    Raises:
        OSError: a file cannot be opened.
    """
    if not SUPPORTED:
        return
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)


def share_in_memory(paths: Iterable[Path]) -> float | None:
    """How much of some files is in memory, 0 to 1.

    Returns:
        None where it cannot be known: another system, or files that this user could not write (the kernel then says of
        every page that it is there; mm/mincore.c, ``can_do_mincore``).
    """
    if not SUPPORTED:
        return None
    there = pages = 0
    for path in paths:
        found = _pages_in_memory(path)
        if found is None:
            return None
        there += found[0]
        pages += found[1]
    return there / pages if pages else None


def _pages_in_memory(path: Path) -> tuple[int, int] | None:
    """(pages in memory, pages) of one file."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        return None
    try:
        status = os.fstat(descriptor)
        if os.geteuid() not in (0, status.st_uid) and not os.access(path, os.W_OK):
            return None
        if not status.st_size:
            return 0, 0
        return _ask(descriptor, status.st_size)
    finally:
        os.close(descriptor)


def _ask(descriptor: int, size: int) -> tuple[int, int] | None:
    libc = _libc()
    # without any access rights: nothing can be read in by having it mapped
    address = libc.mmap(None, size, _PROT_NONE, mmap.MAP_SHARED, descriptor, 0)
    if address == _MAP_FAILED:
        return None
    try:
        state = np.zeros(-(-size // mmap.PAGESIZE), np.uint8)
        if libc.mincore(address, size, state.ctypes.data):
            return None
        return int(np.count_nonzero(state & _IN_MEMORY)), len(state)
    finally:
        libc.munmap(address, size)


def _libc() -> ctypes.CDLL:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_longlong]
    libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    libc.mincore.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p]
    return libc
