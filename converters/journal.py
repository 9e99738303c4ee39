"""The journal of a conversion: which pieces are safely on disk, so that an interrupted run can go on.

A text file beside the output: the plan's digest on the first line, then a piece's number on each. A line is written
only after the data it stands for have been synced; a torn last line is ignored. The file is locked while a run is
writing, and the lock dies with the process. It is removed only by who holds the lock.
"""

import contextlib
import os
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import IO

from quant.errors import CoderError

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

_HEAD = "coder convert journal 1 "
_UNCHECKED = "unchecked"
_NUMBER = re.compile(r"[0-9]{1,9}")


class Busy(CoderError):
    """Another process is writing the same output."""


class Journal:
    """An open, locked journal."""

    def __init__(self, path: Path, digest: str, n_pieces: int) -> None:
        """Open or create the journal at `path`; `done` holds the pieces of an earlier run with the same plan.

        Raises:
            Busy: another process holds it.
            OSError: it cannot be opened or read.
        """
        self.path = path
        self._file = _open_locked(path)
        self._file.seek(0)
        data = self._file.read()
        self._whole_lines = data.rfind(b"\n") + 1
        lines = data.decode("ascii", "replace").split("\n")
        self.resumed = len(lines) > 1 and lines[0] == _HEAD + digest
        """Is there an earlier run of the same plan to go on from?"""
        self.done: set[int] = set()
        if self.resumed:
            self.done = {int(n) for n in lines[1:-1] if _NUMBER.fullmatch(n) and int(n) < n_pieces}
        self.unchecked = self.resumed and _UNCHECKED in lines[1:-1]
        """May NaN and infinite weights be among what is done?"""
        torn = len(lines) == 1 and (_HEAD + digest).startswith(lines[0])
        self.foreign = not self.resumed and not torn
        """Is there an earlier run, but of another plan?"""
        self._digest = digest

    def start(self, done: Iterable[int] = (), *, unchecked: bool = False) -> None:
        """Forget what was there and begin for this plan, with the pieces in `done`."""
        self.done, self.unchecked = set(done), unchecked
        self._file.truncate(0)
        self._write(f"{_HEAD}{self._digest}\n" + f"{_UNCHECKED}\n" * unchecked + _as_lines(sorted(self.done)))

    def go_on(self, *, unchecked: bool = False) -> None:
        """Continue an earlier run: drop a torn line, which would become a number with the next line's end."""
        self._file.truncate(self._whole_lines)
        if unchecked and not self.unchecked:
            self.unchecked = True
            self._write(f"{_UNCHECKED}\n")

    def add(self, pieces: list[int]) -> None:
        """Note pieces whose data have been synced."""
        self.done.update(pieces)
        self._write(_as_lines(pieces))

    def close(self, *, remove: bool) -> None:
        """Release the lock, and with `remove` delete the journal."""
        if remove and sys.platform != "win32":
            self.path.unlink(missing_ok=True)  # before the lock goes, so that nobody opens what is about to vanish
        self._file.close()
        if remove and sys.platform == "win32":
            with contextlib.suppress(OSError):  # another run has opened it meanwhile: it is theirs now
                self.path.unlink()

    def _write(self, text: str) -> None:
        self._file.write(text.encode("ascii"))
        self._file.flush()
        os.fsync(self._file.fileno())


def _as_lines(pieces: Iterable[int]) -> str:
    return "".join(f"{n}\n" for n in pieces)


def _open_locked(path: Path) -> IO[bytes]:
    """The file at `path`, made if need be, and locked.

    Raises:
        Busy: another process holds it.
        OSError: it cannot be opened.
    """
    while True:
        file: IO[bytes] = open(path, "a+b")  # noqa: SIM115 - held for the run, closed by Journal.close()
        try:
            _lock(file)
        except OSError:
            file.close()
            raise Busy(f"another coder convert is writing {path.stem}", hint="wait for it, or stop it") from None
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                return file
        file.close()  # who held it removed it between our opening and locking: this lock would keep nobody out


def _lock(file: IO[bytes]) -> None:
    if sys.platform == "win32":
        file.seek(0)
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
    else:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
