"""Getting a model's files out of the page cache, for a start from the disk. Linux alone offers that."""

import os
from collections.abc import Iterable
from pathlib import Path

from coderv2_local.pages_in_memory import SUPPORTED


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
