"""The undo journal: what each file was before a change, on disk before the change is made.

One folder a change, numbered in order::

    000007/record.json   what was changed, by digest, and where
    000007/before-0      the bytes of the first file before; before-1 …
    000007/done          the change was made whole

A folder gets its number, by renaming, only when all in it is on disk. One without `done` is a change that was
interrupted.
"""

import contextlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path

from coderv2_local.edits.lock import locked
from coderv2_local.edits.refusal import EditRefused
from coderv2_local.edits.text_files import digest_of

VERSION = 1
MAX_BYTES = 256_000_000
MAX_CHANGES = 1000
UNFINISHED = "new-"
NUMBERED = re.compile(r"\d{6,}", re.ASCII)


@dataclass(frozen=True)
class ChangedFile:
    """One file of a change.

    Attributes:
        path: relative to the change's root, with forward slashes.
        before, after: SHA-256 of its bytes; None where there was, or is, no file.
        mode: its permission bits before; None where there was no file.
        temporary: the name beside it that new bytes are written under.
    """

    path: str
    before: str | None
    after: str | None
    mode: int | None
    temporary: str


@dataclass(frozen=True)
class Change:
    """Files changed together.

    Attributes:
        number: its place in the journal; later changes have larger ones.
        root: the workspace.
        made_by: the command, such as "chat" or "fim".
        time: when, in UTC, ISO 8601.
        files, folders: what was changed; folders that were made for it, outermost first.
        whole: was it made to its end? False: interrupted.
    """

    number: int
    root: Path
    made_by: str
    time: str
    files: tuple[ChangedFile, ...]
    folders: tuple[str, ...]
    whole: bool


class Journal:
    """The journal in a folder of its own, shared by all workspaces."""

    def __init__(self, folder: Path, *, max_bytes: int = MAX_BYTES) -> None:
        """
        Args:
            folder: created when the first change is recorded; only its owner may read it.
            max_bytes: the oldest changes are dropped when there is more than this, or more than `MAX_CHANGES` of them.
        """
        self.folder = folder
        self.max_bytes = max_bytes

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes from changing files through this journal.

        Raises:
            Busy: another one does so now.
            EditRefused: the folder cannot be written.
        """
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise self._unusable(error) from None
        with locked(self.folder / "lock"):
            for left in self.folder.glob(UNFINISHED + "*"):
                shutil.rmtree(left, ignore_errors=True)
            yield

    def changes(self, *, root: Path | None = None, made_by: str | None = None) -> list[Change]:
        """The changes that can be taken back, oldest first; of one workspace or one command, if given.

        Raises:
            EditRefused: a record is damaged.
        """
        found = [self._load(number) for number in self._numbers()]
        return [c for c in found if root in (None, c.root) and made_by in (None, c.made_by)]

    def record(
        self, root: Path, made_by: str, files: list[ChangedFile], before: list[bytes | None], folders: list[str]
    ) -> Change:
        """Put a change that is about to be made on disk. To be called with the lock held.

        Raises:
            EditRefused: it is larger than the journal may be, or the disk is full.
        """
        size = sum(len(data or b"") for data in before)
        if size > self.max_bytes:
            raise EditRefused(
                f"the files to change hold {size} bytes, more than the undo journal keeps ({self.max_bytes})",
                hint="apply fewer files at once",
            )
        number = max(self._numbers(), default=0) + 1
        time = datetime.now(timezone.utc).isoformat(timespec="seconds")
        change = Change(number, root, made_by, time, tuple(files), tuple(folders), whole=False)
        fields = {**asdict(change), "version": VERSION, "root": str(root)}
        del fields["whole"]
        new = self.folder / f"{UNFINISHED}{number:06d}"
        try:
            new.mkdir(mode=0o700)
            for i, data in enumerate(before):
                if data is not None:
                    _write(new / f"before-{i}", data)
            _write(new / "record.json", json.dumps(fields, indent=1).encode("ascii"))
            _sync_folder(new)
            os.rename(new, self._folder_of(change))
            _sync_folder(self.folder)
        except OSError as error:
            raise self._unusable(error) from None
        return change

    def finish(self, change: Change) -> None:
        """Note that the change was made whole, and drop the oldest ones if there is too much now."""
        folder = self._folder_of(change)
        _write(folder / "done", b"")
        _sync_folder(folder)
        total = 0
        for place, number in enumerate(reversed(self._numbers())):
            each = self.folder / f"{number:06d}"
            total += sum(f.stat().st_size for f in each.iterdir())
            too_much = total > self.max_bytes or place >= MAX_CHANGES
            if too_much and number != change.number and (each / "done").exists():
                self._drop(each)

    def forget(self, change: Change) -> None:
        """Remove a change from the journal: it was taken back, or never made."""
        self._drop(self._folder_of(change))

    def before(self, change: Change, i: int) -> bytes | None:
        """The bytes of the change's file number `i` before; None where there was no file.

        Raises:
            EditRefused: the journal is damaged.
        """
        expected = change.files[i].before
        if expected is None:
            return None
        path = self.before_path(change, i)
        try:
            data = path.read_bytes()
        except OSError as error:
            raise self._unusable(error) from None
        if digest_of(data) != expected:
            raise EditRefused(
                f"{path} is damaged: it does not hold what {change.files[i].path} was", path=change.files[i].path
            )
        return data

    def before_path(self, change: Change, i: int) -> Path:
        """Where the bytes of file number `i` before the change are kept."""
        return self._folder_of(change) / f"before-{i}"

    def _numbers(self) -> list[int]:
        if not self.folder.is_dir():
            return []
        return sorted(int(p.name) for p in self.folder.iterdir() if NUMBERED.fullmatch(p.name))

    def _folder_of(self, change: Change) -> Path:
        return self.folder / f"{change.number:06d}"

    def _load(self, number: int) -> Change:
        folder = self.folder / f"{number:06d}"
        try:
            fields = json.loads((folder / "record.json").read_bytes())
            if fields["version"] != VERSION:
                raise ValueError(f"version {fields['version']}")
            return Change(
                number,
                Path(fields["root"]),
                str(fields["made_by"]),
                str(fields["time"]),
                tuple(ChangedFile(**file) for file in fields["files"]),
                tuple(fields["folders"]),
                (folder / "done").exists(),
            )
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise EditRefused(
                f"the undo journal's {folder} cannot be read: {error}",
                hint="move this folder away to undo earlier changes",
            ) from None

    def _drop(self, folder: Path) -> None:
        """Remove a record in one step, as far as a reader sees."""
        gone = self.folder / f"{UNFINISHED}{folder.name}"
        os.rename(folder, gone)
        _sync_folder(self.folder)
        shutil.rmtree(gone, ignore_errors=True)

    def _unusable(self, error: OSError) -> EditRefused:
        reason = (error.strerror or str(error)).lower()
        return EditRefused(f"the undo journal in {self.folder} cannot be used: {reason}", hint="no file was changed")


def _write(path: Path, data: bytes) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | getattr(os, "O_BINARY", 0)
    with open(os.open(path, flags, 0o600), "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(path: Path) -> None:
    if hasattr(os, "O_DIRECTORY"):
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
