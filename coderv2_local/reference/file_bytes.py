"""Bytes of a file, read and not mapped: pages of a map stay in this process's memory, and a model has many."""

from pathlib import Path

import numpy as np
import numpy.typing as npt

from quant import ggml
from quant.block_types import BlockType
from quant.errors import InputError

Floats = npt.NDArray[np.float32]


def read_rows(path: Path, start: int, kind: BlockType, rows: int, columns: int) -> Floats:
    """Rows of a stored matrix, widened to float32: (rows, columns).

    Args:
        path: the file.
        start: the byte at which the first row starts.
        kind: what the rows are stored as.

    Raises:
        InputError: the file cannot be read, or has become shorter.
    """
    return ggml.dequantize(read_bytes(path, start, rows * kind.row_bytes(columns)), kind).reshape(rows, columns)


def read_bytes(path: Path, start: int, count: int) -> npt.NDArray[np.uint8]:
    """Bytes of a file: (count,). A map of a file that shrinks would end the process.

    Raises:
        InputError: the file cannot be read, or has become shorter.
    """
    try:
        raw = np.fromfile(path, np.uint8, count, offset=start)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from None
    if raw.nbytes != count:
        raise InputError(f"{path} ends at byte {start + raw.nbytes}: it has shrunk while in use")
    return raw
