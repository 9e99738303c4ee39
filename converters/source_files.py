"""The files of a local source, watched: of a model that changes on the way, half would be the old one.

The fingerprint in the output samples the files, so that a copy of a checkpoint gives the same bytes. Here sizes and
times are compared: while a run reads, and from an interrupted run to the one that goes on.
"""

import contextlib
import os
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from quant.errors import InputError


class State(NamedTuple):
    """What tells a file from the one that it was: bytes, and when it was written, in nanoseconds since 1970."""

    size: int
    changed: int


class SourceFiles:
    """Files as they are when this is made."""

    def __init__(self, folder: Path, names: Iterable[str]) -> None:
        """Raises InputError: a file cannot be read."""
        self.folder = folder
        self.states = {name: self._state(name) for name in names}
        self._journal: Path | None = None
        self._known_until: int | None = None
        self._reads: Counter[str] = Counter()
        self._doubt_since: int | None = None

    def check(self, name: str) -> None:
        """What has been read of the file until now is what was there at the beginning.

        Raises:
            InputError: it may not be.
        """
        now = self._state(name)
        if now != self.states[name]:
            self._doubt_since = now.changed
            raise InputError(
                f"{self.folder / name} was changed while it was converted",
                hint="wait until nothing writes to it, then begin anew with --fresh",
            )

    def remember(self, journal: Path, reads: Iterable[str]) -> None:
        """What `begin` needs to know, before the journal is opened.

        Args:
            journal: of the conversion. Up to its time, what an interrupted run has read is known to be unchanged.
            reads: the file that each piece of the whole conversion is read from.
        """
        self._journal, self._reads = journal, Counter(reads)
        with contextlib.suppress(OSError):  # none: nothing was begun
            self._known_until = journal.stat().st_mtime_ns

    def begin(self, left: Iterable[str]) -> None:
        """Refuse to go on with files that are not what an interrupted run has read.

        Args:
            left: the file that each piece which is not done yet is read from.

        Raises:
            InputError: one was changed since, and some of what it held is in the output.
        """
        for name in sorted(self._reads - Counter(left)):
            if self._known_until is not None and self.states[name].changed >= self._known_until:
                self._doubt_since = self._known_until
                raise InputError(
                    f"{self.folder / name} was changed after an interrupted run had converted some of it",
                    hint="--fresh starts over",
                )

    def close(self) -> None:
        """If a file was changed, turn the journal's time back to where that was not so: `begin` will find it again."""
        if self._doubt_since is not None and self._journal is not None:
            with contextlib.suppress(OSError):  # there is no journal to go on with
                os.utime(self._journal, ns=(self._doubt_since, self._doubt_since))

    def newer_than(self, path: Path) -> list[str]:
        """The files that were written after `path` was."""
        written = path.stat().st_mtime_ns
        return sorted(name for name, state in self.states.items() if state.changed > written)

    def _state(self, name: str) -> State:
        try:
            status = os.stat(self.folder / name)
        except OSError as e:
            raise InputError(f"cannot read {self.folder / name}: {e.strerror or e}") from None
        return State(status.st_size, status.st_mtime_ns)
