"""One evaluated state as a file: which model and settings it belongs to, its token ids, the KV cache's bytes, a hash.

Layout: `MAGIC`, u32 length of the description, the description as JSON, the ids as i32, the bytes, and the SHA-256 of
all that. Numbers are little-endian. llama.cpp believes the bytes it is given: none reach it before the hash is right.
"""

import hashlib
import json
import os
import stat
import struct
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

MAGIC = b"CODERKV1"  # with the version of this layout
MAX_DESCRIPTION = 1 << 16
TEMPORARY = ".tmp"
_HASH_BYTES = 32


class UnusableState(Exception):
    """A state file that must not be loaded; the message says why, to follow "it is" or "it was"."""


@dataclass(frozen=True)
class State:
    """What an engine had evaluated.

    Attributes:
        tokens: the evaluated ids.
        data: (bytes,), as :meth:`Engine.state` gave them.
    """

    tokens: Sequence[int]
    data: npt.NDArray[np.uint8]


def file_size(state: State, belongs_to: Mapping[str, Any]) -> int:
    """Bytes that :func:`write_state` would write."""
    return len(_head(state, belongs_to)) + 4 * len(state.tokens) + len(state.data) + _HASH_BYTES


def write_state(path: Path, state: State, belongs_to: Mapping[str, Any]) -> None:
    """Write a state beside `path` under another name, flush it to the disk, and rename it: readable by its owner alone.

    Args:
        belongs_to: what must be equal where it is read again; plain JSON.

    Raises:
        OSError: the disk is full, or the folder cannot be written. `path` is as it was.
    """
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=TEMPORARY)
    try:
        found = hashlib.sha256()
        with os.fdopen(handle, "wb") as file:
            for part in (_head(state, belongs_to), np.asarray(state.tokens, "<i4").tobytes(), state.data.data):
                found.update(part)
                file.write(part)
            file.write(found.digest())
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary)
        raise


def read_state(path: Path, belongs_to: Mapping[str, Any], max_tokens: int) -> State:
    """Read and check a state.

    Args:
        belongs_to: what it must have been written with.
        max_tokens: how many tokens there is room for.

    Raises:
        FileNotFoundError: there is none.
        UnusableState: damaged, of another model or other settings, or too long.
    """
    try:
        # looked at once it is open: meanwhile another process may remove the file, or put one there
        with open(path, "rb", opener=_without_waiting) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise UnusableState("not a file")
            return _read(file, belongs_to, max_tokens)
    except FileNotFoundError:
        raise
    except (OSError, MemoryError) as error:
        raise UnusableState(f"unreadable ({getattr(error, 'strerror', None) or 'no memory for it'})") from None


def _without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))  # a pipe would wait for its writer


def _head(state: State, belongs_to: Mapping[str, Any]) -> bytes:
    text = json.dumps({"tokens": len(state.tokens), "bytes": len(state.data), "belongs_to": belongs_to}).encode()
    return MAGIC + struct.pack("<I", len(text)) + text


def _read(file: BinaryIO, belongs_to: Mapping[str, Any], max_tokens: int) -> State:
    size = os.fstat(file.fileno()).st_size
    start = file.read(len(MAGIC) + 4)
    if len(start) < len(MAGIC) + 4 or start[: len(MAGIC) - 1] != MAGIC[:-1]:
        raise UnusableState("damaged")
    if start[: len(MAGIC)] != MAGIC:
        raise UnusableState("made by another version of this program")
    length = struct.unpack_from("<I", start, len(MAGIC))[0]
    if length > MAX_DESCRIPTION:
        raise UnusableState("damaged")
    text = file.read(length)
    try:
        description = json.loads(text)
        n_tokens, n_bytes, owner = (description[key] for key in ("tokens", "bytes", "belongs_to"))
    except (ValueError, RecursionError, KeyError, TypeError):
        raise UnusableState("damaged") from None
    if type(n_tokens) is not int or type(n_bytes) is not int or n_tokens < 1 or n_bytes < 1:
        raise UnusableState("damaged")
    if size != len(start) + length + 4 * n_tokens + n_bytes + _HASH_BYTES:
        raise UnusableState("damaged")
    for key in (*belongs_to, *(owner if isinstance(owner, dict) else ())):
        if not isinstance(owner, dict) or owner.get(key) != belongs_to.get(key):
            raise UnusableState(f"made with another {key}")
    if n_tokens > max_tokens:
        raise UnusableState(f"longer ({n_tokens} tokens) than the context of {max_tokens}")
    found = hashlib.sha256(start + text)
    tokens, data, digest = np.empty(n_tokens, "<i4"), np.empty(n_bytes, np.uint8), np.empty(_HASH_BYTES, np.uint8)
    for part in (tokens, data, digest):
        if file.readinto(part.view(np.uint8).data) != part.nbytes:  # type: ignore[attr-defined]
            raise UnusableState("damaged")
        if part is not digest:
            found.update(part.data)
    if found.digest() != digest.tobytes():
        raise UnusableState("damaged")
    return State(tokens.tolist(), data)
