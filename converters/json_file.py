"""Untrusted JSON, read with bounds: size, encoding, nesting and doubled keys are checked; every failure is named."""

import json
import os
import stat
from pathlib import Path
from typing import Any

from quant.errors import InputError

CONFIG_LIMIT = 1 << 20
"""Bytes a config.json may have; published ones have 1–2 KB."""


def _no_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    out = dict(pairs)
    if len(out) != len(pairs):
        seen: set[str] = set()
        doubled = next(k for k, _ in pairs if k in seen or seen.add(k))  # type: ignore[func-returns-value]
        raise ValueError(f"the key {doubled!r} appears twice")
    return out


def parse_json_object(data: bytes, what: str) -> dict[str, Any]:
    """Parse `data` as one JSON object.

    Args:
        data: UTF-8 text.
        what: how messages call it, for example "shard x.safetensors: header".

    Raises:
        InputError: not UTF-8, not JSON, not an object, nested too deeply, or with a key that appears twice.
    """
    try:
        value = json.loads(data.decode("utf-8"), object_pairs_hook=_no_doubles)
    except UnicodeDecodeError as e:
        raise InputError(f"{what} is not UTF-8 (byte {e.start})") from None
    except RecursionError:
        raise InputError(f"{what} is nested too deeply") from None
    except ValueError as e:
        raise InputError(f"{what} is not valid JSON: {e}") from None
    if not isinstance(value, dict):
        raise InputError(f"{what} holds a JSON {type(value).__name__}, not an object")
    return value


def read_bounded(path: Path, limit: int) -> bytes:
    """The bytes of a file of at most `limit` bytes.

    Raises:
        InputError: missing, unreadable, a folder, or larger than `limit`.
    """
    check_regular(path)
    try:
        with open(path, "rb") as f:
            if os.fstat(f.fileno()).st_size > limit:
                raise InputError(f"{path} has more than {limit} bytes: too large for what it should hold")
            return f.read()
    except OSError as e:
        raise InputError(f"cannot read {path}: {e.strerror or e}") from None


def check_regular(path: Path) -> None:
    """Is it a plain file? Opening a pipe would wait for ever.

    Raises:
        InputError: missing, a folder, a pipe or a device.
    """
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        raise InputError(f"{path} does not exist") from None
    except (OSError, ValueError) as e:
        raise InputError(f"cannot read {path}: {e}") from None
    if not stat.S_ISREG(mode):
        raise InputError(f"{path} is not a file")


def read_json_object(path: Path, limit: int = CONFIG_LIMIT) -> dict[str, Any]:
    """Read and parse a JSON object from a file; errors as in `read_bounded` and `parse_json_object`."""
    return parse_json_object(read_bounded(path, limit), str(path))
