"""Importance matrices: which columns matter, measured by llama.cpp's ``llama-imatrix`` on calibration text.

Two formats: GGUF (``<tensor>.in_sum2`` with ``<tensor>.counts``) and the older binary one that most published files
have. Both hold sums of squared activations, for each column of a tensor and, for stacked experts, for each expert.
"""

import hashlib
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from converters.gguf_header import dequantize, open_data, read_header
from converters.json_file import check_regular, read_bounded
from converters.tensor_table import Wanted
from quant.errors import InputError
from quant.ggml import Floats
from quant.recipes import is_expert

FILE_LIMIT = 4 << 30
LEAST, MOST = 1e-30, 1e20
"""Mean squares of activations: below, a column was as good as never used; above, float32 sums over a row overflow."""
TOO_MANY_UNHIT = 0.1
"""Share of a layer's experts without calibration above which the layer's experts go up one type."""


class ImatrixError(InputError):
    """The importance file is damaged or belongs to another model."""


@dataclass(frozen=True)
class Importance:
    """One tensor's weights, and which of its slices the calibration never reached."""

    values: Floats
    """Shape (slices, columns); ones where a slice was not reached."""
    unhit: npt.NDArray[np.bool_]
    """Shape (slices,)."""


class Imatrix:
    """The importance weights of a whole model."""

    def __init__(self, path: Path, entries: dict[str, tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]]) -> None:
        """`entries`: tensor name → mean squares, flat, and counts, one a slice (empty if the file does not say)."""
        self.path, self.entries = path, entries

    @classmethod
    def read(cls, path: Path) -> "Imatrix":
        """Read a file of either format.

        Raises:
            ImatrixError: damaged, empty, or with values that are not finite, negative or larger than `MOST`.
        """
        check_regular(path)
        try:
            with open(path, "rb") as f:
                magic = f.read(4)
        except OSError as e:
            raise ImatrixError(f"cannot read {path}: {e.strerror or e}") from None
        entries = _read_gguf(path) if magic == b"GGUF" else _read_binary(path)
        if not entries:
            raise ImatrixError(f"{path} holds no importance values")
        for name, (values, _) in entries.items():
            if not ((values >= 0) & (values <= MOST)).all():  # NaN fails this too
                raise ImatrixError(f"{path}: the values of {name:.200} are not all finite, positive and up to {MOST:g}")
        return cls(path, entries)

    @property
    def digest(self) -> str:
        """Identifies the contents."""
        h = hashlib.sha256()
        for name in sorted(self.entries):
            values, counts = self.entries[name]
            h.update(name.encode() + values.tobytes() + counts.tobytes())
        return h.hexdigest()

    def find(self, wanted: Wanted) -> Importance | None:
        """The weights for a tensor, or None where the file has none that apply.

        Raises:
            ImatrixError: it has some, but of another size: they are from another model.
        """
        columns, parts = wanted.shape[-1], len(wanted.parts)
        name = wanted.name
        if name not in self.entries and name.endswith(".attn_v_b.weight"):
            name = name.replace("attn_v_b", "attn_kv_b")  # both halves of kv_b multiply the same latent vector
            parts = 1
        if name not in self.entries:
            return None
        values, counts = self.entries[name]
        if len(values) not in (columns, columns * parts):
            raise ImatrixError(
                f"{self.path}: {name} has {len(values)} values, the tensor {parts} × {columns}",
                hint="this importance file is for another model",
            )
        table = values.reshape(-1, columns).astype(np.float32)
        unhit = counts <= 0 if len(counts) == len(table) else np.zeros(len(table), dtype=np.bool_)
        # The binary format has no counts: what was never reached is all zeros there, an expert perhaps all ones.
        unhit = unhit | (table < LEAST).all(axis=1)
        if is_expert(wanted.name):
            unhit = unhit | (table == 1).all(axis=1)
        table[unhit] = 1.0
        return Importance(table, unhit)


def _read_gguf(path: Path) -> dict[str, tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]]:
    header = read_header(path)
    if header.metadata.get("general.type") != "imatrix":
        raise ImatrixError(f"{path} is a GGUF file, but not an importance matrix")
    data = open_data(path)
    out = {}
    for name, info in header.tensors.items():
        if not name.endswith(".in_sum2"):
            continue
        base = name.removesuffix(".in_sum2")
        counts_info = header.tensors.get(f"{base}.counts")
        if counts_info is None:
            raise ImatrixError(f"{path}: {base} has sums but no counts")
        sums = dequantize(data, info).reshape(-1, info.shape[-1])
        counts = dequantize(data, counts_info).reshape(-1)
        if len(counts) != len(sums):
            raise ImatrixError(f"{path}: {base} has {len(sums)} rows of sums but {len(counts)} counts")
        with np.errstate(invalid="ignore"):  # inf / inf: what is not finite is refused by its reader
            means = np.where(counts[:, None] > 0, sums / np.maximum(counts, 1)[:, None], 1.0)
        out[base] = (means.astype(np.float32).reshape(-1), counts)
    return out


def _read_binary(path: Path) -> dict[str, tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]]:
    data = read_bounded(path, FILE_LIMIT)
    at = 0

    def number(what: str, high: int) -> int:
        nonlocal at
        if at + 4 > len(data):
            raise ImatrixError(f"{path} ends in the middle, at byte {at}", hint="is it an importance file at all?")
        (value,) = struct.unpack_from("<i", data, at)
        at += 4
        if not 0 <= value <= high:
            raise ImatrixError(f"{path}: {what} is {value} at byte {at - 4}", hint="is it an importance file at all?")
        return int(value)

    out = {}
    for _ in range(number("the number of entries", 1 << 18)):
        length = number("a name's length", 1 << 10)
        name = data[at : at + length].decode("utf-8", "replace")
        at += length
        calls = number("a count of calls", (1 << 31) - 1)
        count = number("a count of values", 1 << 28)
        if at + 4 * count > len(data):
            raise ImatrixError(f"{path} is truncated in {name:.200}")
        values = np.frombuffer(data, dtype="<f4", count=count, offset=at).astype(np.float32)
        at += 4 * count
        out[name] = (values / np.float32(max(calls, 1)), np.empty(0, dtype=np.float32))
    return out
