"""Reading GGUF headers: bounded, lazy, and safe on hostile files.

Layout (ggml's docs/gguf.md): "GGUF", u32 version, u64 tensor count, u64 key count, the keys with their values, then
for each tensor its name, dimensions (innermost first), type and offset, then padding to the alignment, then the data.
Every count and length is held against the bytes that are left before anything is made from it.
"""

import math
import mmap
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from converters.json_file import check_regular
from quant import ggml
from quant.block_types import BlockType, block_type_by_id
from quant.errors import InputError

MAX_KEYS = 1 << 16
MAX_TENSORS = 1 << 18
MAX_TEXT = 1 << 26
MAX_ARRAY = 1 << 22
MAX_ALIGNMENT = 1 << 16

# GGUF value types: number → struct code
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_TEXT, _ARRAY = 8, 9


class GgufError(InputError):
    """Not a GGUF file, or a damaged one."""


@dataclass(frozen=True)
class TensorInfo:
    """One tensor of a GGUF file."""

    name: str
    shape: tuple[int, ...]
    """Outermost dimension first, as numpy has it."""
    type: BlockType
    offset: int
    """From the start of the file, in bytes."""
    nbytes: int

    @property
    def row_bytes(self) -> int:
        """Bytes of one row, that is of the innermost dimension."""
        return self.type.row_bytes(self.shape[-1])

    @property
    def n_rows(self) -> int:
        """How many rows there are, over all outer dimensions."""
        return math.prod(self.shape[:-1])


@dataclass(frozen=True)
class GgufHeader:
    """What a GGUF file says about itself."""

    path: Path
    version: int
    metadata: Mapping[str, Any]
    """Key → int, float, bool, str, or a list of one of them."""
    value_types: Mapping[str, tuple[int, int | None]]
    """Key → GGUF's number of the value's type, and of the elements' type where it is an array."""
    tensors: dict[str, TensorInfo]
    """In the order of the file."""
    data_offset: int
    file_size: int

    @property
    def architecture(self) -> str:
        """``general.architecture``, or "" if the file does not say."""
        value = self.metadata.get("general.architecture", "")
        return value if isinstance(value, str) else ""


def read_header(path: Path) -> GgufHeader:
    """Read and check the header of the GGUF file at `path`.

    Raises:
        GgufError: not a GGUF file, truncated, or with counts, names, shapes or offsets that cannot be.
    """
    check_regular(path)
    try:
        with open(path, "rb") as f:
            magic = f.read(4)
            if magic != b"GGUF":
                what = "is empty" if not magic else f"is not a GGUF file (it starts with {magic!r})"
                raise GgufError(f"{path} {what}")
            with mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ) as data:
                return _parse(path, data)
    except OSError as e:
        raise GgufError(f"cannot read {path}: {e.strerror or e}") from None


class _Cursor:
    """A position in the mapped file that refuses to go past its end."""

    def __init__(self, path: Path, data: mmap.mmap) -> None:
        self.path, self.data, self.size, self.at = path, data, len(data), 4

    def fail(self, message: str) -> GgufError:
        return GgufError(f"{self.path}: {message}")

    def need(self, count: int, what: str) -> None:
        if count > self.size - self.at:
            raise GgufError(f"{self.path} is truncated: {what} at byte {self.at} runs past its {self.size} bytes")

    def scalar(self, code: str, what: str) -> Any:
        size = struct.calcsize("<" + code)
        self.need(size, what)
        if code == "?":
            value: Any = self.data[self.at] != 0
        else:
            (value,) = struct.unpack_from("<" + code, self.data, self.at)
        self.at += size
        return value

    def text(self, what: str, limit: int = MAX_TEXT) -> str:
        length = self.scalar("Q", what)
        if length > limit:
            raise self.fail(f"{what} at byte {self.at} claims {length} bytes")
        self.need(length, what)
        raw = self.data[self.at : self.at + length]
        self.at += length
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError:
            raise self.fail(f"{what} at byte {self.at - length} is not UTF-8") from None

    def value(self, kind: int, key: str) -> tuple[Any, int | None]:
        if kind in _SCALARS:
            return self.scalar(_SCALARS[kind], key), None
        if kind == _TEXT:
            return self.text(key), None
        if kind != _ARRAY:
            raise self.fail(f"key {key} has the unknown value type {kind}")
        element, count = self.scalar("I", key), self.scalar("Q", key)
        if count > MAX_ARRAY:
            raise self.fail(f"key {key} claims {count} elements")
        if element == _TEXT:
            return self._texts(count, key), element
        if element not in _SCALARS:
            raise self.fail(f"key {key} is an array of the unknown or nested type {element}")
        code = _SCALARS[element]
        size = struct.calcsize("<" + code)
        self.need(count * size, key)
        dtype = np.dtype("u1") if code == "?" else np.dtype("<" + code)
        values = np.frombuffer(self.data, dtype=dtype, count=count, offset=self.at)
        listed = (values != 0).tolist() if code == "?" else values.tolist()
        del values  # a view would keep the map open
        self.at += count * size
        return listed, element

    def _texts(self, count: int, key: str) -> list[str]:
        # The one loop that runs 100 000 times: plain bytes and local names.
        self.need(8 * count, key)
        data, at, size, texts = self.data, self.at, self.size, []
        from_bytes = int.from_bytes
        try:
            for _ in range(count):
                start = at + 8
                at = start + from_bytes(data[at:start], "little")
                if at > size:
                    raise GgufError(f"{self.path} is truncated: {key} at byte {start} runs past its {size} bytes")
                texts.append(data[start:at].decode("utf-8"))
        except UnicodeDecodeError:
            raise self.fail(f"{key}: element {len(texts)} is not UTF-8") from None
        self.at = at
        return texts


def _parse(path: Path, data: mmap.mmap) -> GgufHeader:
    c = _Cursor(path, data)
    version = c.scalar("I", "version")
    if version not in (2, 3):
        swapped = version & 0xFFFF == 0
        why = "is for big-endian machines" if swapped else f"has GGUF version {version}; known are 2 and 3"
        raise GgufError(f"{path} {why}")
    n_tensors, n_keys = c.scalar("Q", "tensor count"), c.scalar("Q", "key count")
    if n_keys > MAX_KEYS or n_tensors > MAX_TENSORS:
        raise c.fail(f"{n_keys} keys and {n_tensors} tensors are more than any model has")
    metadata: dict[str, Any] = {}
    types: dict[str, tuple[int, int | None]] = {}
    for _ in range(n_keys):
        key = c.text("a key's name", 1 << 16)
        if key in metadata:
            raise c.fail(f"key {key} appears twice")
        kind = c.scalar("I", key)
        metadata[key], element = c.value(kind, key)
        types[key] = (kind, element)
    alignment = metadata.get("general.alignment", 32)
    if type(alignment) is not int or not 1 <= alignment <= MAX_ALIGNMENT or alignment & (alignment - 1):
        raise c.fail(f"general.alignment is {alignment!r:.40}, not a power of two up to {MAX_ALIGNMENT}")
    raw = [_tensor_head(c) for _ in range(n_tensors)]
    data_offset = -(-c.at // alignment) * alignment
    tensors = _place(c, raw, data_offset, alignment)
    return GgufHeader(path, version, metadata, types, tensors, data_offset, c.size)


def _tensor_head(c: _Cursor) -> tuple[str, tuple[int, ...], BlockType, int]:
    name = c.text("a tensor's name", 1 << 10)
    n_dims = c.scalar("I", name)
    if not 1 <= n_dims <= 4:
        raise c.fail(f"tensor {name} has {n_dims} dimensions; 1 to 4 are possible")
    shape = tuple(c.scalar("Q", name) for _ in range(n_dims))[::-1]
    number, offset = c.scalar("I", name), c.scalar("Q", name)
    kind = block_type_by_id(number)
    if kind is None:
        raise c.fail(f"tensor {name} has the unknown type {number}")
    if min(shape) < 1 or math.prod(shape) >= 1 << 50:
        raise c.fail(f"tensor {name} has the impossible shape {shape}")
    if not kind.fits(shape[-1]):
        raise c.fail(f"tensor {name}: rows of {shape[-1]} are not whole blocks of {kind.name}")
    return name, shape, kind, offset


def _place(
    c: _Cursor, raw: list[tuple[str, tuple[int, ...], BlockType, int]], data_offset: int, alignment: int
) -> dict[str, TensorInfo]:
    tensors: dict[str, TensorInfo] = {}
    for name, shape, kind, offset in raw:
        nbytes = math.prod(shape[:-1]) * kind.row_bytes(shape[-1])
        if name in tensors:
            raise c.fail(f"tensor {name} appears twice")
        if offset % alignment:
            raise c.fail(f"tensor {name} starts at {offset}, which is not aligned to {alignment}")
        end = data_offset + offset + nbytes
        if end > c.size:
            raise GgufError(
                f"{c.path} is truncated: tensor {name} ends at byte {end}, the file at {c.size}",
                hint="download or convert the file again",
            )
        tensors[name] = TensorInfo(name, shape, kind, data_offset + offset, nbytes)
    before: TensorInfo | None = None
    for t in sorted(tensors.values(), key=lambda t: t.offset):
        if before is not None and t.offset < before.offset + before.nbytes:
            raise c.fail(f"tensors {before.name} and {t.name} overlap")
        before = t
    return tensors


def open_data(path: Path) -> npt.NDArray[np.uint8]:
    """The whole file as a read-only memory map of bytes, for `dequantize`."""
    return np.memmap(path, dtype=np.uint8, mode="r")


def dequantize(
    source: Path | npt.NDArray[np.uint8], info: TensorInfo, rows: slice = slice(None)
) -> npt.NDArray[np.float32]:
    """Rows of a tensor as float32.

    Args:
        source: the file, or its bytes as `open_data` gives them (cheaper for many calls).
        info: the tensor.
        rows: which rows, counted over all outer dimensions together; all of them by default.

    Returns:
        float32, in the tensor's shape when all rows are asked for, else (rows, columns).

    Raises:
        GgufError: a step other than 1.
    """
    start, stop, step = rows.indices(info.n_rows)
    if step != 1:
        raise GgufError(f"rows of {info.name} can only be read in order")
    data = open_data(source) if isinstance(source, Path) else source
    at = info.offset + start * info.row_bytes
    raw = data[at : at + max(0, stop - start) * info.row_bytes]
    values = ggml.dequantize(raw, info.type)
    whole = (start, stop) == (0, info.n_rows)
    return values.reshape(info.shape if whole else (-1, info.shape[-1]))
