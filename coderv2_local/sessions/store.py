"""Conversations on disk: one file of JSON lines each, appended to and flushed with every event.

The first line says what the file is; each other line is an event of a conversation.
A line that a crash left unfinished at the end is dropped when the session is opened again; anything else that is wrong
is named by its line, and the file is left alone.
"""

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from io import FileIO
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from coderv2_local.sessions.conversation import Event
from coderv2_local.sessions.lines import FORMAT, parse, to_line
from quant.errors import CoderError, InputError

SUFFIX = ".jsonl"
MAX_BYTES = 500_000_000
NAME = re.compile(r"[\w][\w .+-]{0,99}")
NEW_NAME_LENGTH = 32


@dataclass(frozen=True)
class SessionInfo:
    """A session as a list shows it.

    Attributes:
        changed: seconds since the epoch.
        model: that it was begun with.
        turns: questions asked.
    """

    name: str
    changed: float
    model: str
    turns: int
    first_question: str


class Session:
    """A session that this process writes. Made by :class:`Sessions`; nothing is on disk before the first question.

    Attributes:
        name: of the session; "" until it has one.
        model: that it was begun with.
    """

    def __init__(self, folder: Path, model: str = "", name: str = "") -> None:
        self._folder = folder
        self.model = model
        self.name = name
        self._lock: FileLock | None = None
        self._file: FileIO | None = None
        self._waiting: list[Event] = []

    @property
    def path(self) -> Path:
        return self._folder / (self.name + SUFFIX)

    def write(self, event: Event) -> None:
        """Append an event and flush it to the disk.

        Raises:
            CoderError: it cannot be written. The conversation goes on, unsaved: the caller says so.
        """
        if self._file is None and not self.name and event["do"] != "ask":
            self._waiting.append(event)  # a session with no question is not worth a file
            return
        try:
            if self._file is None:
                self._begin(event.get("text", ""))
            for each in [*self._waiting, event]:
                self._append(each)
            self._waiting = []
        except OSError as error:
            raise CoderError(
                f"the session cannot be saved: {self.path}: {(error.strerror or str(error)).lower()}"
            ) from None

    def rename(self, name: str) -> None:
        """Give the session another name.

        Raises:
            InputError: not a name, or taken.
        """
        check_name(name)
        if name == self.name:
            return
        if (self._folder / (name + SUFFIX)).exists():
            raise InputError(f"there is a session named {name!r} already")
        if self._file is None:
            self.name = name
            return
        old_path, old_lock = self.path, self._lock
        self._lock = _lock(self._folder, name)
        self.name = name
        os.rename(old_path, self.path)
        if old_lock:
            old_lock.release()
            Path(old_lock.lock_file).unlink(missing_ok=True)

    def close(self) -> None:
        """Let go of the file. Safe to call twice."""
        if self._file:
            self._file.close()
            self._file = None
        if self._lock:
            self._lock.release()
            Path(self._lock.lock_file).unlink(missing_ok=True)
            self._lock = None

    def _begin(self, question: str) -> None:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not self.name:
            self.name = self._free_name(question)
        self._lock = _lock(self._folder, self.name)
        descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600)
        self._file = FileIO(descriptor, "a")
        now = datetime.now(timezone.utc).isoformat(timespec="seconds")
        self._append({"coder_session": FORMAT, "created": now, "model": self.model})

    def _continue(self, whole: int) -> None:
        """Open an existing file to go on after its first `whole` bytes."""
        self._file = FileIO(os.open(self.path, os.O_WRONLY | os.O_APPEND), "a")
        self._file.truncate(whole)

    def _append(self, event: Event) -> None:
        assert self._file
        view = memoryview(to_line(event))
        while view:
            view = view[self._file.write(view) or 0 :]
        os.fsync(self._file.fileno())

    def _free_name(self, question: str) -> str:
        base = datetime.now().strftime("%Y-%m-%d")
        for word in re.findall(r"[a-z0-9]+", question.lower()):
            if len(base) + len(word) >= NEW_NAME_LENGTH:
                break
            base += f"-{word}"
        names = (base if n == 1 else f"{base}-{n}" for n in range(1, 1_000_000))
        return next(name for name in names if not (self._folder / (name + SUFFIX)).exists())


class Sessions:
    """All sessions of a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def new(self, model: str = "") -> Session:
        """A session that gets its name, and its file, with the first question."""
        return Session(self.folder, model)

    def open(self, name: str) -> tuple[Session, list[Event], str]:
        """Open a session to go on with it.

        Returns:
            The session, its events, and a notice: "" or what was dropped at its end.

        Raises:
            InputError: no such session, in use by another process, or damaged.
        """
        events, whole, notice = self._events(name)
        session = Session(self.folder, str(events[0].get("model", "")), name)
        session._lock = _lock(self.folder, name)
        session._continue(whole)
        return session, events[1:], notice

    def read(self, name: str) -> list[Event]:
        """The events of a session. Raises InputError as :meth:`open`."""
        return self._events(name)[0][1:]

    def latest(self) -> str | None:
        """The name of the session that changed last."""
        return max(self._paths(), key=lambda p: p.stat().st_mtime, default=Path("")).stem or None

    def names(self) -> list[str]:
        """All names, the one that changed last first."""
        return [p.stem for p in sorted(self._paths(), key=lambda p: -p.stat().st_mtime)]

    def infos(self) -> Iterator[SessionInfo]:
        """What is there, the one that changed last first; damaged files are listed by name, with no turns."""
        for name in self.names():
            try:
                events, _, _ = self._events(name)
            except InputError:
                events = [{"model": "damaged"}]
            questions = [e["text"] for e in events if e.get("do") == "ask"]
            yield SessionInfo(
                name,
                (self.folder / (name + SUFFIX)).stat().st_mtime,
                str(events[0].get("model", "")),
                len(questions),
                questions[0] if questions else "",
            )

    def _paths(self) -> Sequence[Path]:
        return list(self.folder.glob("*" + SUFFIX)) if self.folder.is_dir() else []

    def _events(self, name: str) -> tuple[list[dict[str, Any]], int, str]:
        """The lines of a file as objects, the length of what is whole, and a notice."""
        check_name(name)
        path = self.folder / (name + SUFFIX)
        try:
            if path.stat().st_size > MAX_BYTES:
                raise InputError(f"{path} is larger than a session can be")
            data = path.read_bytes()
        except FileNotFoundError:
            raise InputError(f"there is no session named {name!r}", hint="`coder sessions` lists them") from None
        except OSError as error:
            raise InputError(f"{path}: {(error.strerror or str(error)).lower()}") from None
        whole = data.rfind(b"\n") + 1
        notice = "" if whole == len(data) else "the last entry was unfinished, and is dropped"
        events = parse(data[:whole], str(path))
        if not events:
            raise InputError(f"{path} is empty", hint="remove it")
        return events, whole, notice


def check_name(name: str) -> None:
    """Refuse what is no session name. Raises InputError."""
    if not NAME.fullmatch(name) or name.endswith((".", " ")):
        raise InputError(
            f"{name!r:.120} is no name for a session", hint="letters, digits, spaces and . + - _, at most 100"
        )


def _lock(folder: Path, name: str) -> FileLock:
    lock = FileLock(folder / f".{name}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise InputError(f"the session {name!r} is open in another window", hint="close it there first") from None
    return lock
