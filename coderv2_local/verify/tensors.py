"""Every tensor of a GGUF against its source, also of an expert that no prompt visits.

`blocks` says how far a block and a part may be from what they should be, docs/verify.md what is found so and what not.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from converters.gguf_header import TensorInfo
from converters.gguf_model import GgufModel
from converters.tensor_table import Wanted

from ..reference.file_bytes import read_bytes
from .blocks import PartErrors
from .sources import Source
from .structure import expected_tensors

BATCH = 1 << 20
"""Elements that are compared at a time: more would cost memory and no time."""


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
    """The largest error of a block, as a share of the size of the values in the part; of the part if that is off."""
    why: str = ""
    """What is wrong with the part as a whole, in words, where no single block is off."""

    def __str__(self) -> str:
        where = self.tensor
        if self.part is not None:
            where += f", {'expert' if '_exps' in self.tensor else 'head'} {self.part}"
        if self.why:
            return f"{where}: {self.why}"
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

    Raises:
        InputError: a file cannot be read or has become shorter, or has a type that cannot be widened.
    """
    table = list(expected_tensors(model.whole, source.config))
    known = {w.name for w in table}
    missing = tuple(w.name for w in table if w.name not in model.tensors)
    extra = tuple(name for name in model.tensors if name not in known)
    work = [(w, i) for w in table if w.name in model.tensors for i in range(len(w.parts))]
    bad: list[BadTensor] = []
    identical = 0
    with ThreadPoolExecutor(threads) as pool:
        results = pool.map(lambda job: _compare_part(*model.find(job[0].name), source, *job), work)
        for done, result in enumerate(results, 1):
            identical += result is None
            if isinstance(result, BadTensor):
                bad.append(result)
            if on_progress:
                on_progress(done, len(work))
    return TensorComparison(len(work), identical, tuple(bad), missing, extra)


def _compare_part(path: Path, info: TensorInfo, source: Source, wanted: Wanted, part: int) -> BadTensor | bool | None:
    """None when the bytes are the same, False when they are not but nothing is off."""
    stacked = part * wanted.shape[0] // len(wanted.parts) if len(wanted.parts) > 1 else None  # fused: two parts each
    if info.shape != wanted.shape:
        return BadTensor(info.name, None, 1, 1, float("inf"))
    rows, columns = info.n_rows // len(wanted.parts), info.shape[-1]
    step = max(1, BATCH // columns)
    errors = PartErrors(info.type)
    for row in range(0, rows, step):
        expected = source.part(wanted.parts[part], row, min(step, rows - row)).reshape(-1, columns)
        at = info.offset + (part * rows + row) * info.row_bytes
        errors.add(read_bytes(path, at, len(expected) * info.row_bytes), expected)
    off, worst = errors.bad_blocks()
    if off:
        return BadTensor(info.name, stacked, off, errors.blocks, worst)
    if why := errors.fault():
        return BadTensor(info.name, stacked, errors.blocks, errors.blocks, errors.error, why)
    return None if errors.same else False
