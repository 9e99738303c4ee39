"""The journal of a conversion: which pieces are safely on disk, so that an interrupted run can go on.

A text file beside the output: the plan's digest on the first line, then a piece's number on each. A line is written
only after the data it stands for have been synced; a torn last line is ignored. The file is locked while a run is
writing, and the lock dies with the process.
"""

import os
import sys
from pathlib import Path
from typing import IO

from quant.errors import CoderError

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

_HEAD = "coder convert journal 1 "


class Busy(CoderError):
    """Another process is writing the same output."""


class Journal:
    """An open, locked journal."""

    def __init__(self, path: Path, digest: str, n_pieces: int) -> None:
        """Open or create the journal at `path`; `done` holds the pieces of an earlier run with the same plan.

        Raises:
            Busy: another process holds it.
        """
        self.path = path
        self._file: IO[bytes] = open(path, "a+b")  # noqa: SIM115 - held for the run, closed by close()
        try:
            _lock(self._file)
        except OSError:
            self._file.close()
            raise Busy(f"another coder convert is writing {path.stem}", hint="wait for it, or stop it") from None
        self._file.seek(0)
        lines = self._file.read().decode("ascii", "replace").split("\n")
        self.resumed = lines[0] == _HEAD + digest
        """Is there an earlier run of the same plan to go on from?"""
        self.done: set[int] = set()
        if self.resumed:
            self.done = {int(n) for n in lines[1:-1] if n.isascii() and n.isdigit() and int(n) < n_pieces}
        torn = len(lines) == 1 and (_HEAD + digest).startswith(lines[0])
        self.foreign = not self.resumed and not torn
        """Is there an earlier run, but of another plan?"""
        self._digest = digest

    def start(self) -> None:
        """Forget what was there and begin for this plan."""
        self.done.clear()
        self._file.truncate(0)
        self._write(f"{_HEAD}{self._digest}\n")

    def go_on(self) -> None:
        """Continue an earlier run: end a torn line, so that the next number stands alone."""
        self._write("\n")

    def add(self, pieces: list[int]) -> None:
        """Note pieces whose data have been synced."""
        self.done.update(pieces)
        self._write("".join(f"{n}\n" for n in pieces))

    def close(self, *, remove: bool) -> None:
        """Release the lock, and with `remove` delete the journal."""
        if remove and sys.platform != "win32":
            self.path.unlink(missing_ok=True)  # before the lock goes, so that nobody opens what is about to vanish
        self._file.close()
        if remove and sys.platform == "win32":
            self.path.unlink(missing_ok=True)

    def _write(self, text: str) -> None:
        self._file.write(text.encode("ascii"))
        self._file.flush()
        os.fsync(self._file.fileno())


def _lock(file: IO[bytes]) -> None:
    if sys.platform == "win32":
        file.seek(0)
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
    else:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
