"""One process at a time changes files and their journal. The lock dies with its process."""

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from coderv2_local.edits.refusal import Busy

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock file at `path`.

    Raises:
        Busy: another process holds it.
    """
    fd = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o600)
    try:
        try:
            if sys.platform == "win32":
                msvcrt.locking(fd, msvcrt.LK_NBLCK, 1)
            else:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise Busy("another coder is applying or undoing edits", hint="try again in a moment") from None
        yield
    finally:
        os.close(fd)
