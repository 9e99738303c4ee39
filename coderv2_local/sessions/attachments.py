"""Files that a conversation has in its context: read when they are added, read again when they change."""

import glob
import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from quant.errors import InputError

MAX_BYTES = 4_000_000
MAX_FILES = 200  # of one pattern


@dataclass(frozen=True)
class Attachment:
    """A file's text as the model is shown it.

    Attributes:
        name: the path as shown, relative to the folder the conversation runs in where it lies inside.
        text: its content, line ends as they are.
        digest: of the bytes, to see a change.
    """

    name: str
    text: str
    digest: str

    def block(self, is_new_version: bool = False) -> str:
        """The file in Markdown: its name, then its text in a fence that no line of it closes."""
        from coderv2_local.languages import fence_name

        longest = max(map(len, re.findall("`+", self.text)), default=0)
        fence = "`" * max(3, longest + 1)
        says = f"`{self.name}` has changed. It now reads:" if is_new_version else f"`{self.name}`:"
        return f"{says}\n{fence}{fence_name(self.name)}\n{self.text.rstrip(chr(10))}\n{fence}"


def expand(pattern: str, root: Path) -> list[Path]:
    """The files that a path or a pattern (``src/*.py``, ``**/*.rs``) names, sorted; folders are not files.

    Raises:
        InputError: nothing is there, or too many.
    """
    path = root / Path(pattern).expanduser()
    if path.is_dir():
        raise InputError(f"{pattern} is a folder", hint=f"name files: {pattern.rstrip('/')}/*.py")
    if path.exists() or not glob.has_magic(pattern):
        return [path]
    found = sorted(p for p in map(Path, glob.iglob(str(path), recursive=True)) if p.is_file())
    if not found:
        raise InputError(f"{pattern}: no file matches")
    if len(found) > MAX_FILES:
        raise InputError(f"{pattern} names {len(found)} files", hint=f"at most {MAX_FILES} at once: be more specific")
    return found


def attach(path: Path, root: Path) -> Attachment:
    """Read a file for the context.

    Raises:
        InputError: missing, unreadable, too large, a folder, or no text. The message names it.
    """
    name = shown_name(path, root)
    try:
        if not path.is_file():
            raise InputError(f"{name}: no such file" if not path.exists() else f"{name} is not a regular file")
        if path.stat().st_size > MAX_BYTES:
            raise InputError(f"{name} is larger than {MAX_BYTES // 1_000_000} MB: no context here holds it")
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{name}: {(error.strerror or str(error)).lower()}") from None
    if b"\0" in data:
        raise InputError(f"{name} is a binary file")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{name} is not UTF-8 text (byte {error.start})", hint="convert it to UTF-8 first") from None
    return Attachment(name, text, hashlib.blake2b(data, digest_size=16).hexdigest())


def changed(attachments: Sequence[Attachment], root: Path) -> tuple[list[Attachment], list[str]]:
    """Read again what has changed on the disk.

    Returns:
        The new versions, and the names of files that can no longer be read (they stay as they were).
    """
    new, lost = [], []
    for old in attachments:
        try:
            now = attach(root / old.name, root)
        except InputError:
            lost.append(old.name)
            continue
        if now.digest != old.digest:
            new.append(now)
    return new, lost


def shown_name(path: Path, root: Path) -> str:
    """The path relative to `root` where it lies inside, with forward slashes."""
    absolute = path if path.is_absolute() else root / path
    try:
        return absolute.relative_to(root).as_posix()
    except ValueError:
        return absolute.as_posix()
