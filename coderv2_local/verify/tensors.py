"""Every tensor of a GGUF against its source: a damaged block is found even in an expert that no prompt visits."""

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from converters.gguf_header import TensorInfo, open_data
from converters.gguf_model import GgufModel
from converters.tensor_table import Wanted
from quant import ggml
from quant.block_types import WRITABLE, BlockType
from quant.errors import InputError

from .sources import Floats, Source
from .structure import expected_tensors

ERROR_RATIO = 4.0
"""A block may err so many times more than the same block requantized here: another quantizer, or importance weights,
choose other scales, but not that much worse ones."""
ERROR_FLOOR = 0.004
"""…and errors below this share of a tensor's own size are never held against a block."""
MIN_BLOCK = 32
BATCH_ROWS = 1 << 20
"""Elements that are compared at a time."""


@dataclass(frozen=True)
class BadTensor:
    """A part of a tensor that is not what its source says."""

    tensor: str
    part: int | None
    """Which expert, or which head; None for a tensor that is not stacked."""
    blocks: int
    """How many blocks are off."""
    of: int
    """How many blocks there are in this part."""
    worst: float
    """The largest error of a block, as a share of the size of the values in the part."""

    def __str__(self) -> str:
        where = self.tensor
        if self.part is not None:
            where += f", {'expert' if '_exps' in self.tensor else 'head'} {self.part}"
        return f"{where}: {self.blocks} of {self.of} blocks are off, the worst by {self.worst:.3g} of the values' size"


@dataclass(frozen=True)
class TensorComparison:
    """What comparing every tensor found."""

    parts: int
    identical: int
    """Parts whose bytes are exactly those of the source, quantized here."""
    bad: tuple[BadTensor, ...]
    missing: tuple[str, ...]
    extra: tuple[str, ...]


def compare_tensors(
    model: GgufModel, source: Source, *, threads: int = 1, on_progress: Callable[[int, int], None] | None = None
) -> TensorComparison:
    """Compare every tensor, an expert or a head at a time.

    Args:
        model: the file in question.
        source: what it was made from.
        threads: parts compared at a time; ggml quantizes without the GIL.
        on_progress: called with (parts done, parts).
    """
    table = list(expected_tensors(model.whole, source.config))
    known = {w.name for w in table}
    missing = tuple(w.name for w in table if w.name not in model.tensors)
    extra = tuple(name for name in model.tensors if name not in known)
    data = {part.path.name: open_data(part.path) for part in model.parts if part.tensors}
    work = [(w, i) for w in table if w.name in model.tensors for i in range(len(w.parts))]
    bad: list[BadTensor] = []
    identical = 0
    with ThreadPoolExecutor(threads) as pool:
        results = pool.map(lambda job: _compare_part(data, model.tensors[job[0].name], source, *job), work)
        for done, result in enumerate(results, 1):
            identical += result is None
            if isinstance(result, BadTensor):
                bad.append(result)
            if on_progress:
                on_progress(done, len(work))
    return TensorComparison(len(work), identical, tuple(bad), missing, extra)


def _compare_part(
    files: Mapping[str, npt.NDArray[np.uint8]], place: tuple[str, TensorInfo], source: Source, wanted: Wanted, part: int
) -> BadTensor | bool | None:
    """None when the bytes are the same, False when they are not but no block is off."""
    data, info = files[place[0]], place[1]
    if info.shape != wanted.shape:
        return BadTensor(info.name, None, 1, 1, float("inf"))
    expected = source.part(wanted.parts[part])
    rows, columns = expected.shape[0] if expected.ndim > 1 else 1, info.shape[-1]
    expected = expected.reshape(rows, columns)
    size = float(np.sqrt(np.mean(np.square(expected)))) or 1.0
    blocks = off = 0
    worst, same = 0.0, True
    step = max(1, BATCH_ROWS // columns)
    for row in range(0, rows, step):
        piece = expected[row : row + step]
        at = info.offset + (part * rows + row) * info.row_bytes
        raw = data[at : at + len(piece) * info.row_bytes]
        errors, limit = block_errors(raw, piece, info.type)
        if errors is None or limit is None:
            blocks += piece.size // _block(info.type, columns)
            continue
        same = False
        blocks += errors.size
        wrong = ~(errors <= np.maximum(limit * ERROR_RATIO, ERROR_FLOOR * size))  # NaN is wrong too
        off += int(wrong.sum())
        if wrong.any():
            worst = max(worst, float(np.nan_to_num(errors[wrong], nan=np.inf, posinf=np.inf).max()) / size)
    if off:
        stacked = part * wanted.shape[0] // len(wanted.parts)  # fused experts are two parts each
        return BadTensor(info.name, stacked if len(wanted.parts) > 1 else None, off, blocks, worst)
    return None if same else False


def block_errors(
    raw: npt.NDArray[np.uint8], expected: Floats, kind: BlockType
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]] | tuple[None, None]:
    """Root mean square error of each block: the file's, and that of the source quantized here.

    Returns:
        Two arrays (blocks,), or (None, None) when the bytes are the same. For types not written here the
        second is a tenth of the values.
    """
    flat = expected.reshape(-1)
    best_error = flat * np.float32(0.1)
    if kind.name in WRITABLE:
        again = ggml.quantize(expected, kind)
        if np.array_equal(again, raw):
            return None, None
        best_error = ggml.dequantize(again, kind) - flat
    try:
        stored = ggml.dequantize(raw, kind)
    except ggml.GgmlError as error:
        raise InputError(f"cannot compare tensors of type {kind.name}: {error.message}") from None
    block = _block(kind, expected.shape[-1])
    return _rms(stored - flat, block), _rms(best_error, block)


def _block(kind: BlockType, columns: int) -> int:
    """Elements that errors are averaged over: the type's block; for types without blocks 32, or a row."""
    if kind.block_size > 1:
        return kind.block_size
    return MIN_BLOCK if columns % MIN_BLOCK == 0 else columns


def _rms(error: Floats, block: int) -> npt.NDArray[np.float32]:
    with np.errstate(over="ignore", invalid="ignore"):
        out: npt.NDArray[np.float32] = np.sqrt(np.mean(np.square(error.reshape(-1, block)), axis=-1))
    return out
