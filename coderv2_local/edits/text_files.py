"""Bytes of a source file ↔ text, so that what is not edited keeps its bytes: encoding, byte order mark, line ends.

UTF-8 with or without a byte order mark and UTF-16 with one are read. Anything else is refused by name: Latin-1 cannot
be told from its many relatives, and a wrong guess would write wrong bytes. A line ends with LF or CRLF; a CR alone is
text.
"""

import codecs
import hashlib
import unicodedata
from dataclasses import dataclass
from pathlib import Path

from coderv2_local.edits.refusal import EditRefused, TooLarge
from coderv2_local.stream import REORDERING

MAX_FILE_BYTES = 10_000_000
MARKS = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"))
HARMLESS_CONTROLS = "\t\n\r\f"


@dataclass(frozen=True)
class TextFormat:
    """How a text is written as bytes: `mark` (the byte order mark, or none), then the text in `encoding`."""

    encoding: str = "utf-8"
    mark: bytes = b""


@dataclass(frozen=True)
class FileText:
    """A file as it was read.

    Attributes:
        text: without the byte order mark, line ends untouched.
        format: what `encode` needs to give the same bytes again.
        digest: SHA-256 of the bytes, in hex.
    """

    text: str
    format: TextFormat
    digest: str


def digest_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def decode(data: bytes, name: str) -> FileText:
    """The text of a file called `name`. `encode` gives back exactly `data`.

    Raises:
        TooLarge: more than `MAX_FILE_BYTES`.
        EditRefused: binary, or in an encoding that is not read here.
    """
    if len(data) > MAX_FILE_BYTES:
        raise too_large(name)
    mark, encoding = next((m for m in MARKS if data.startswith(m[0])), (b"", "utf-8"))
    try:
        text = data[len(mark) :].decode(encoding)
    except UnicodeDecodeError as error:
        if b"\0" in data and not mark:
            raise _binary(name) from None
        raise EditRefused(
            f"{name} is not {encoding.upper()} text (byte {error.start + len(mark)})",
            path=name,
            hint="convert it to UTF-8 first, for example with iconv",
        ) from None
    if "\0" in text:
        raise _binary(name)
    return FileText(text, TextFormat(encoding, mark), digest_of(data))


def too_large(name: str) -> TooLarge:
    return TooLarge(
        f"{name} is larger than {MAX_FILE_BYTES // 1_000_000} MB", path=name, hint="edit it by hand, or split it"
    )


def read_text(path: Path) -> FileText:
    """The text of a file that the user named, wherever it is.

    Raises:
        EditRefused: missing, unreadable, not a file, too large, binary, or in another encoding.
    """
    try:
        if path.exists() and not path.is_file():
            raise EditRefused(f"{path} is not a file", path=str(path))
        with open(path, "rb") as file:
            return decode(file.read(MAX_FILE_BYTES + 1), str(path))
    except OSError as error:
        raise EditRefused(f"{path}: {(error.strerror or str(error)).lower()}", path=str(path)) from None


def encode(text: str, format: TextFormat, name: str) -> bytes:
    """The bytes of a file called `name`.

    Raises:
        EditRefused: the text has no bytes in this encoding (a lone surrogate).
    """
    try:
        return format.mark + text.encode(format.encoding)
    except UnicodeEncodeError as error:
        raise EditRefused(
            f"{name} cannot hold {_code_point(text[error.start])} in {format.encoding.upper()}",
            path=name,
            hint="ask for the text without it",
        ) from None


def check_visible(old: str, new: str, name: str) -> None:
    """Refuse an edit that adds what a diff on the screen cannot show: control characters, marks that reorder text.

    What the file has already may stay and move.

    Raises:
        EditRefused: naming such a character and its line.
    """
    for c in sorted(c for c in set(new) if _is_hidden(c)):
        if new.count(c) > old.count(c):
            had = set(old.split("\n"))
            lines = enumerate(new.split("\n"), start=1)
            where = next((f" into line {i}" for i, line in lines if c in line and line not in had), "")
            raise EditRefused(
                f"{name}: the edit puts {_code_point(c)}, which cannot be seen,{where or ' into the file'}",
                path=name,
                hint="ask for an escape sequence in its place",
            )


def split_lines(text: str) -> list[str]:
    """The lines with their ends; only the last may have none. Joined, they are `text`."""
    lines = text.split("\n")
    return [line + "\n" for line in lines[:-1]] + ([lines[-1]] if lines[-1] else [])


def body(line: str) -> str:
    """A line without its end."""
    return line[: len(line) - len(line_end(line))]


def line_end(line: str) -> str:
    return "\r\n" if line.endswith("\r\n") else "\n" if line.endswith("\n") else ""


def usual_line_end(lines: list[str]) -> str:
    """The most frequent line end; LF where there is none."""
    crlf = sum(line.endswith("\r\n") for line in lines)
    return "\r\n" if crlf > sum(line.endswith("\n") for line in lines) - crlf else "\n"


def _is_hidden(c: str) -> bool:
    return (unicodedata.category(c) == "Cc" and c not in HARMLESS_CONTROLS) or c in REORDERING


def _code_point(c: str) -> str:
    return f"U+{ord(c):04X}"


def _binary(name: str) -> EditRefused:
    return EditRefused(f"{name} is binary", path=name, hint="only text files are edited")
