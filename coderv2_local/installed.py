"""What models are on this machine: an entry for each, a small JSON file under ``CODER_HOME/models``.

An entry lies beside the file that it describes: ``lite-moe-4.json`` and ``lite-moe-4.gguf``. So two programs that
change two models never meet, and a damaged entry harms nobody else. When a model was last used is its entry's
modification time, which costs nothing to record.
"""

import json
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from coderv2_local.atomic_file import write_atomically
from coderv2_local.home import home, home_folder
from quant.errors import CoderError, InputError

FOLDER = "models"
VERSION = 1
MAX_ENTRY = 100_000
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
OWNED_FILE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}\.gguf")
LARGEST = 1 << 60


@dataclass(frozen=True)
class Installed:
    """A model on this machine.

    Attributes:
        name: what users type; several of one name are told apart as ``name:recipe``.
        recipe: what it was made with, or the type of most of its weights.
        files: its file, or all parts of a split one: bare names under `models`, or absolute paths.
        size: bytes of all of them.
        context: the longest context that it was made for, in tokens.
        roles: which commands it suits: "chat", "fim".
        source: where it came from, for people.
        added: seconds since 1970.
        used: when it was last used, in seconds since 1970; 0 for never.
    """

    name: str
    recipe: str
    files: tuple[str, ...]
    size: int
    context: int
    roles: tuple[str, ...] = ()
    source: str = ""
    added: float = 0.0
    used: float = field(default=0.0, compare=False)

    @property
    def key(self) -> str:
        """The stem of its entry's name."""
        return key_of(self.name, self.recipe)

    @property
    def owned(self) -> bool:
        """Does its file belong to this program, which then may delete it?"""
        return not any(os.path.isabs(f) for f in self.files)

    @property
    def paths(self) -> list[Path]:
        """Its files."""
        return [folder() / f for f in self.files]

    @property
    def path(self) -> Path:
        """The file to load."""
        return self.paths[0]

    @property
    def missing(self) -> bool:
        """Is a file of it gone?"""
        return not all(p.is_file() for p in self.paths)

    @property
    def full_name(self) -> str:
        """The name that means this one and no other."""
        return f"{self.name}:{self.recipe}"


@dataclass(frozen=True)
class Damaged:
    """An entry that cannot be read."""

    path: Path
    why: str


def folder() -> Path:
    """Where models and their entries lie. It need not exist yet."""
    return home() / FOLDER


def key_of(name: str, recipe: str) -> str:
    """The stem of the files of a model."""
    return f"{name}-{recipe}"


def check_name(name: str) -> None:
    """Raise InputError for a name that cannot be a model's."""
    if not NAME.fullmatch(name):
        raise InputError(
            f"{name!r:.80} cannot be a model's name", hint="letters, digits, hyphens, dots and underscores, 64 at most"
        )


def entries() -> list[Installed | Damaged]:
    """All entries, in the order of their names. What is no longer there has none."""
    try:
        paths = sorted(p for p in folder().iterdir() if p.suffix == ".json" and not p.name.startswith("."))
    except OSError:  # no folder, or none that may be read: nothing is installed
        return []
    return [_read(path) for path in paths]


def installed() -> list[Installed]:
    """The entries that can be read, the newest of each name first."""
    return sorted((e for e in entries() if isinstance(e, Installed)), key=lambda e: (e.name, -e.added))


def find(name: str, among: Sequence[Installed] | None = None) -> Installed | None:
    """The model that `name` or ``name:recipe`` means. Of several, the newest whose files are there."""
    wanted, _, recipe = name.partition(":")
    found = [e for e in (installed() if among is None else among) if e.name == wanted and recipe in ("", e.recipe)]
    return next((e for e in found if not e.missing), found[0] if found else None)


def write(entry: Installed) -> None:
    """Add an entry, or replace it.

    Raises:
        CoderError: it cannot be written.
    """
    check_name(entry.name)
    data = {"version": VERSION} | asdict(entry)
    del data["used"]
    path = home_folder(FOLDER) / f"{entry.key}.json"
    try:
        write_atomically(path, json.dumps(data, indent=1).encode())
        os.utime(path, (entry.added, entry.added))
    except OSError as error:
        raise CoderError(f"{path}: {(error.strerror or str(error)).lower()}") from None


def note_use(path: Path) -> None:
    """Remember that the model in `path` is used now, if it has an entry."""
    for entry in installed():
        if path.absolute() in entry.paths:
            with suppress(OSError):  # a folder that cannot be written: the date stays as it was
                os.utime(folder() / f"{entry.key}.json")


def remove(entry: Installed) -> None:
    """Delete an entry, and its files where they are this program's.

    Raises:
        CoderError: something cannot be deleted.
    """
    try:
        for path in entry.paths if entry.owned else ():
            path.unlink(missing_ok=True)
        (folder() / f"{entry.key}.json").unlink(missing_ok=True)
    except OSError as error:
        raise CoderError(f"{error.filename}: {(error.strerror or str(error)).lower()}") from None


@contextmanager
def locked(key: str) -> Iterator[None]:
    """Be the only one who changes the files of `key`. The lock dies with its process.

    Raises:
        CoderError: somebody else changes them, or the folder cannot be written.
    """
    from filelock import FileLock, Timeout

    path = home_folder(FOLDER) / f".{key}.lock"
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise CoderError(
            f"another coder is busy with {key}: it is being pulled or removed", hint="wait until it has ended"
        ) from None
    except OSError as error:
        raise CoderError(
            f"{path.parent}: {(error.strerror or str(error)).lower()}",
            hint="set CODER_HOME to a folder that you can write to",
        ) from None
    try:
        yield
    finally:
        lock.release()


def _read(path: Path) -> Installed | Damaged:
    try:
        status = path.stat()
        if status.st_size > MAX_ENTRY:
            return Damaged(path, "larger than an entry can be")
        data = json.loads(path.read_text(encoding="utf-8"))
        entry = _checked(data, status.st_mtime)
    except OSError as error:
        return Damaged(path, (error.strerror or str(error)).lower())
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        return Damaged(path, f"not an entry: {error!s:.100}")
    if path.stem != entry.key:
        return Damaged(path, f"the entry of {entry.key}")
    return entry


def _checked(data: Any, modified: float) -> Installed:
    """An entry from JSON. What it says is not believed: a file that is owned must lie in the folder itself."""
    if not isinstance(data, dict) or data.get("version") != VERSION:
        raise ValueError("unknown version")
    name, recipe, source = (_text(data, key) for key in ("name", "recipe", "source"))
    if not (NAME.fullmatch(name) and NAME.fullmatch(recipe)):
        raise ValueError("no name")
    files, roles = (data[key] for key in ("files", "roles"))
    if not isinstance(files, list) or not files or not all(isinstance(f, str) for f in files + roles):
        raise ValueError("no files")
    for f in files:
        if "\0" in f or not (os.path.isabs(f) or OWNED_FILE.fullmatch(f)):
            raise ValueError(f"{f!r} is not in the folder")
    size, context, added = data["size"], data["context"], data["added"]
    if not all(type(n) in (int, float) and 0 <= n < LARGEST for n in (size, context, added)):
        raise ValueError("a number is missing")
    used = modified if modified > added + 1 else 0.0
    return Installed(name, recipe, tuple(files), int(size), int(context), tuple(roles), source, float(added), used)


def _text(data: dict[str, Any], key: str) -> str:
    value = data[key]
    if not isinstance(value, str):
        raise TypeError(f"{key} is no text")
    return value
