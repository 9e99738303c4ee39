"""One piece of work: stored rows → float32 → the type that the plan gives them."""

import threading

import numpy as np
import numpy.typing as npt

from converters.plan import Piece, Plan, PlannedTensor
from converters.store import Store
from quant import ggml
from quant.block_types import BlockType
from quant.errors import InputError
from quant.scales import overflows

SLICE_ELEMENTS = 1 << 17
"""Weights that are widened and quantized at a time: 512 KB of float32, which stays in a core's own cache."""

_EXPONENTS: dict[str, tuple[type[np.unsignedinteger], int]] = {
    "BF16": (np.uint16, 0x7F80),
    "F16": (np.uint16, 0x7C00),
    "F32": (np.uint32, 0x7F800000),
}


class NonFiniteError(InputError):
    """A weight is NaN or infinite."""


class Producer:
    """Makes the bytes of pieces. One instance serves all threads; each has its own buffers."""

    def __init__(self, plan: Plan, store: Store, *, allow_nonfinite: bool = False) -> None:
        self.plan, self.store, self.allow_nonfinite = plan, store, allow_nonfinite
        self._local = threading.local()

    def position(self, piece: Piece) -> tuple[int, int]:
        """Which output file the piece belongs to, and at which byte."""
        t = self.plan.tensors[piece.tensor]
        columns = t.info.shape[-1]
        rows_a_part = t.info.n_rows // len(t.wanted.parts)
        row = piece.part * rows_a_part + (0 if t.wanted.parts[piece.part].transposed else piece.first_row)
        return t.file, t.info.offset + row * t.info.type.row_bytes(columns)

    def make(self, piece: Piece) -> ggml.Bytes:
        """The output bytes of the piece, valid until this thread makes the next one.

        Raises:
            NonFiniteError: a weight is NaN or infinite, or too large for the type that it gets.
            InputError: the source cannot be read any more.
        """
        t = self.plan.tensors[piece.tensor]
        part = t.wanted.parts[piece.part]
        columns = part.stored_shape[-1]
        row_bytes = t.source_type.row_bytes(columns)
        raw = self._buffer("raw", piece.rows * row_bytes)
        self.store.read(part.stored, (part.first_row + piece.first_row) * row_bytes, raw)
        if t.source_type.is_float and not self.allow_nonfinite:
            self._check_finite(raw, t.source_type, part.stored)
        if t.copied:
            return raw
        if part.transposed:
            values = self._widen(raw, t, part.stored, piece.rows * columns)
            turned = np.ascontiguousarray(values.reshape(piece.rows, columns).T)
            out = self._buffer("out", turned.shape[0] * t.info.type.row_bytes(turned.shape[1]))
            return self._quantize(turned, t, piece.part, out)
        out = self._buffer("out", piece.rows * t.info.type.row_bytes(columns))
        step = max(1, SLICE_ELEMENTS // columns)
        out_row = t.info.type.row_bytes(columns)
        for row in range(0, piece.rows, step):
            n = min(step, piece.rows - row)
            some = raw[row * row_bytes : (row + n) * row_bytes]
            values = self._widen(some, t, part.stored, n * columns)
            self._quantize(values.reshape(n, columns), t, piece.part, out[row * out_row : (row + n) * out_row])
        return out

    def _widen(self, raw: ggml.Bytes, t: PlannedTensor, stored: str, count: int) -> ggml.Floats:
        values = ggml.dequantize(raw, t.source_type, self._floats(count))
        if not t.source_type.is_float and not self.allow_nonfinite and not np.isfinite(values).all():
            raise NonFiniteError(
                f"tensor {stored} has blocks whose scale is NaN or infinite",
                hint="the file is damaged; --allow-nonfinite converts it all the same",
            )
        return values

    def _quantize(self, values: ggml.Floats, t: PlannedTensor, part: int, out: ggml.Bytes) -> ggml.Bytes:
        weights = None
        if t.importance is not None:
            weights = t.importance[part if len(t.importance) > 1 else 0]
        ggml.quantize(values, t.info.type, out, importance=weights)
        if self.allow_nonfinite:
            return out
        if t.info.type.name == "F16":
            self._check_finite(out, t.info.type, t.wanted.name)
        elif not t.info.type.is_float and overflows(values, out, t.info.type):
            raise NonFiniteError(
                f"tensor {t.wanted.name} has weights that are too large for {t.info.type.name}",
                hint="the source is damaged, or needs -q bf16; --allow-nonfinite converts it all the same",
            )
        return out

    def _check_finite(self, raw: ggml.Bytes, kind: BlockType, name: str) -> None:
        dtype, exponent = _EXPONENTS[kind.name]
        words: npt.NDArray[np.unsignedinteger] = raw.view(dtype)
        masked = self._buffer("masked", min(len(raw), 1 << 18)).view(dtype)
        for start in range(0, len(words), len(masked)):
            piece = words[start : start + len(masked)]
            np.bitwise_and(piece, dtype(exponent), out=masked[: len(piece)])
            if masked[: len(piece)].max() == exponent:
                raise NonFiniteError(
                    f"tensor {name} has weights that are NaN, infinite or too large for {kind.name}",
                    hint="the checkpoint is damaged; --allow-nonfinite converts it all the same",
                )

    def _buffer(self, name: str, size: int) -> ggml.Bytes:
        buffer: ggml.Bytes | None = getattr(self._local, name, None)
        if buffer is None or len(buffer) < size:
            buffer = np.empty(size, dtype=np.uint8)
            setattr(self._local, name, buffer)
        return buffer[:size]

    def _floats(self, count: int) -> ggml.Floats:
        return self._buffer("floats", 4 * count).view(np.float32)
