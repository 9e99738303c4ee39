"""A checkpoint folder: safetensors shards, their headers checked before anything is read, their tensors read lazily.

The format (github.com/huggingface/safetensors): a little-endian u64 with the length of a JSON header, the header
``{name: {dtype, shape, data_offsets}}``, and the data, which the offsets must cover without gap or overlap.
Pickle files are never opened.
"""

import math
import mmap
import os
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
import numpy.typing as npt

from converters.json_file import parse_json_object, read_json_object
from quant.errors import InputError

HEADER_LIMIT = 100_000_000
"""Bytes of a shard's header; the same bound as the safetensors library's."""
INDEX_LIMIT = 256 << 20
INDEX_NAME = "model.safetensors.index.json"
SINGLE_NAME = "model.safetensors"
ITEM_SIZES = {"BF16": 2, "F16": 2, "F32": 4}
_OTHER_DTYPES = {"F64", "I64", "I32", "I16", "I8", "U64", "U32", "U16", "U8", "BOOL", "F8_E4M3", "F8_E5M2", "F8_E8M0"}
_PLAIN_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,200}\.safetensors")


class CheckpointError(InputError):
    """A shard or index is damaged, incomplete or not what it says it is."""


@dataclass(frozen=True)
class Stored:
    """Where a tensor lies: bytes `start`…`end` of the file `shard`."""

    shard: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


def parse_shard_header(shard: str, header: bytes, file_size: int) -> dict[str, Stored]:
    """Check a shard's JSON header against the size of its file.

    Args:
        shard: the file's name, for messages and for the result.
        header: the JSON text, without the eight bytes of its length.
        file_size: bytes of the whole file.

    Raises:
        CheckpointError: malformed, truncated, overlapping, with gaps, or with a dtype that weights do not have.
    """
    what = f"shard {shard}"
    data_start = 8 + len(header)
    found: dict[str, Stored] = {}
    for name, entry in parse_json_object(header, f"{what}: header").items():
        if name == "__metadata__":
            continue
        found[name] = _parse_entry(shard, name, entry, data_start)
    position = data_start
    for name, t in sorted(found.items(), key=lambda item: (item[1].start, item[1].end)):
        if t.end > file_size:
            raise CheckpointError(
                f"{what} is truncated: tensor {name} ends at byte {t.end}, the file at {file_size}",
                hint="download this shard again",
            )
        if t.start != position:
            kind = "overlaps the tensor before it" if t.start < position else "leaves a gap before it"
            raise CheckpointError(f"{what}: tensor {name} starts at byte {t.start} and {kind} (expected {position})")
        position = t.end
    if position != file_size:
        raise CheckpointError(f"{what}: {file_size - position} bytes after the last tensor belong to none")
    return found


def _parse_entry(shard: str, name: str, entry: Any, data_start: int) -> Stored:
    what = f"shard {shard}: tensor {name:.200}"
    if not isinstance(entry, Mapping):
        raise CheckpointError(f"{what}: its entry is not an object")
    dtype, shape, offsets = entry.get("dtype"), entry.get("shape"), entry.get("data_offsets")
    if dtype not in ITEM_SIZES:
        known = "not a known type" if dtype not in _OTHER_DTYPES else "not BF16, F16 or F32"
        raise CheckpointError(f"{what}: dtype {dtype!r:.40} is {known}", hint="use the published BF16 weights")
    if not _is_ints(shape) or len(shape) > 8:
        raise CheckpointError(f"{what}: shape {shape!r:.80} is not a short list of sizes")
    if not _is_ints(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise CheckpointError(f"{what}: data_offsets {offsets!r:.80} are not two rising offsets")
    need = math.prod(shape) * ITEM_SIZES[dtype]
    if offsets[1] - offsets[0] != need:
        has = offsets[1] - offsets[0]
        raise CheckpointError(f"{what}: shape {shape} of {dtype} needs {need} bytes, has {has}")
    return Stored(shard, dtype, tuple(shape), data_start + offsets[0], data_start + offsets[1])


def _is_ints(value: Any) -> TypeGuard[list[int]]:
    return isinstance(value, list) and all(type(v) is int and 0 <= v < 1 << 48 for v in value)


def read_shard_header(path: Path) -> bytes:
    """The JSON text of a shard's header.

    Raises:
        CheckpointError: missing, unreadable, too short, or with a header longer than the file or than the bound.
    """
    try:
        with open(path, "rb") as f:
            size = os.fstat(f.fileno()).st_size
            first = f.read(8)
            if len(first) < 8:
                raise CheckpointError(f"shard {path.name} has only {size} bytes", hint="download this shard again")
            (length,) = struct.unpack("<Q", first)
            if length > HEADER_LIMIT:
                raise CheckpointError(f"shard {path.name}: a header of {length} bytes, the bound is {HEADER_LIMIT}")
            if 8 + length > size:
                raise CheckpointError(
                    f"shard {path.name}: the header's {length} bytes run past the end of the file ({size} bytes)",
                    hint="download this shard again",
                )
            return f.read(length)
    except OSError as e:
        raise CheckpointError(f"cannot read shard {path.name}: {e.strerror or e}") from None


def read_index(path: Path) -> dict[str, str]:
    """Tensor name → shard file name, from a model.safetensors.index.json.

    Raises:
        CheckpointError: malformed, empty, or naming a shard by anything but a plain file name.
    """
    weight_map = read_json_object(path, INDEX_LIMIT).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{path.name}: weight_map is missing or empty")
    for name, shard in weight_map.items():
        if not isinstance(shard, str) or not _PLAIN_NAME.fullmatch(shard):
            raise CheckpointError(f"{path.name}: tensor {name:.200} is in {shard!r:.120}, not a plain shard name")
    return weight_map


class Checkpoint:
    """The tensors of a checkpoint, by their published names. Safe for reading from several threads."""

    def __init__(self, folder: Path, tensors: Mapping[str, Stored]) -> None:
        self.folder = folder
        self.tensors: dict[str, Stored] = dict(tensors)
        self._maps: dict[str, mmap.mmap] = {}

    @classmethod
    def open(cls, folder: Path) -> "Checkpoint":
        """Read the index and every shard's header in `folder`; no weights are read.

        Raises:
            CheckpointError: no shards, a damaged shard, or an index and headers that disagree.
        """
        if not folder.is_dir():
            raise CheckpointError(f"{folder} is not a folder", hint="give the folder that holds the shards")
        index = folder / INDEX_NAME
        weight_map = read_index(index) if index.exists() else None
        shards = sorted(set(weight_map.values())) if weight_map else [_single_shard(folder)]
        headers: dict[str, dict[str, Stored]] = {}
        for shard in shards:
            path = folder / shard
            if not path.is_file():
                raise CheckpointError(f"{index.name} names the shard {shard}, which is not in {folder}")
            headers[shard] = parse_shard_header(shard, read_shard_header(path), path.stat().st_size)
        return cls(folder, join_shards(headers, weight_map))

    @property
    def names(self) -> list[str]:
        """All tensor names, sorted."""
        return sorted(self.tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        """The tensor's shape, outermost dimension first."""
        return self._find(name).shape

    def dtype(self, name: str) -> str:
        """ "BF16", "F16" or "F32"."""
        return self._find(name).dtype

    def raw(self, name: str) -> npt.NDArray[np.uint8]:
        """The stored bytes, a read-only view of the memory-mapped shard, shape (bytes,)."""
        t = self._find(name)
        if t.start == t.end:  # an empty tensor at the end of a file cannot be viewed
            return np.empty(0, dtype=np.uint8)
        return np.frombuffer(self._map(t.shard), dtype=np.uint8, count=t.end - t.start, offset=t.start)

    def read_f32(self, name: str) -> npt.NDArray[np.float32]:
        """The tensor as float32, in its own shape; exact, since every stored type widens to float32 without loss."""
        t, raw = self._find(name), self.raw(name)
        if t.dtype == "BF16":
            values = (raw.view("<u2").astype(np.uint32) << 16).view(np.float32)
        elif t.dtype == "F16":
            values = raw.view("<f2").astype(np.float32)
        else:
            values = raw.view("<f4").astype(np.float32)
        return values.reshape(t.shape)

    def _find(self, name: str) -> Stored:
        try:
            return self.tensors[name]
        except KeyError:
            raise CheckpointError(f"{self.folder} has no tensor {name}") from None

    def _map(self, shard: str) -> mmap.mmap:
        mapped = self._maps.get(shard)
        if mapped is None:
            with open(self.folder / shard, "rb") as f:
                mapped = mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ)
            mapped = self._maps.setdefault(shard, mapped)  # another thread may have been faster
        return mapped


def join_shards(headers: Mapping[str, Mapping[str, Stored]], weight_map: Mapping[str, str] | None) -> dict[str, Stored]:
    """The tensors of all shards, once they are known to agree with the index.

    Raises:
        CheckpointError: a tensor in two shards, one the index does not know, or one that is not where the index says.
    """
    joined: dict[str, Stored] = {}
    for shard, tensors in headers.items():
        for name, t in tensors.items():
            if name in joined:
                raise CheckpointError(f"tensor {name} is in two shards: {joined[name].shard} and {shard}")
            if weight_map is not None and weight_map.get(name) != shard:
                said = weight_map.get(name)
                where = f"says it is in {said}" if said else "does not know it"
                raise CheckpointError(f"shard {shard} holds tensor {name:.200}, but the index {where}")
            joined[name] = t
    for name, shard in (weight_map or {}).items():
        if name not in joined:
            raise CheckpointError(f"tensor {name} is missing: the index says shard {shard} has it")
    return joined


def _single_shard(folder: Path) -> str:
    if (folder / SINGLE_NAME).is_file():
        return SINGLE_NAME
    shards = sorted(p.name for p in folder.glob("*.safetensors"))
    if len(shards) == 1:
        return shards[0]
    if shards:
        raise CheckpointError(f"{folder} has {len(shards)} shards but no {INDEX_NAME}", hint="download the index too")
    if any(folder.glob("*.bin")) or any(folder.glob("*.pt")):
        raise CheckpointError(
            f"{folder} has its weights in pickle files (.bin, .pt), which can run code and are never loaded",
            hint="use the safetensors files of the same model",
        )
    raise CheckpointError(f"{folder} has no *.safetensors", hint="a checkpoint folder holds *.safetensors files")
