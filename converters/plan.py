"""The plan of a conversion: every tensor's type, file and offset, decided before a weight is read."""

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from gguf import GGUFValueType
from gguf.constants import Keys

from converters.gguf_header import TensorInfo
from converters.metadata import Metadata, Value, aligned, encode_header, lay_out
from converters.store import Store
from converters.tensor_table import Wanted
from quant.block_types import BlockType
from quant.errors import InputError
from quant.ggml import Floats
from quant.recipes import Choice

PIECE_ELEMENTS = 1 << 21
"""About how many weights a piece of work has: 4 MB of BF16, 8 MB of float32, so memory is a few MB a thread."""


@dataclass(frozen=True)
class PlannedTensor:
    """A tensor of the output."""

    wanted: Wanted
    info: TensorInfo
    file: int
    """Which of the output files it is in."""
    source_type: BlockType
    note: str = ""
    importance: Floats | None = field(default=None, compare=False)
    """A weight for each column, shape (parts, columns) or (1, columns) for all parts alike."""

    @property
    def copied(self) -> bool:
        """Are its bytes those of the source?"""
        return self.info.type == self.source_type and not any(p.transposed for p in self.wanted.parts)


@dataclass(frozen=True)
class Piece:
    """A unit of work: rows `first_row`…`first_row + rows` of one part of one tensor."""

    tensor: int
    part: int
    first_row: int
    rows: int


@dataclass(frozen=True)
class OutputFile:
    """One file of the output."""

    path: Path
    header: bytes
    size: int


@dataclass(frozen=True)
class Plan:
    """What will be written. Two runs with equal plans write equal bytes."""

    files: tuple[OutputFile, ...]
    tensors: tuple[PlannedTensor, ...]
    pieces: tuple[Piece, ...]
    source: str
    """How messages call the source."""
    recipe: str
    notices: tuple[str, ...] = ()
    """What the user should know: substitutions, repairs, experts without calibration."""

    @property
    def total_bytes(self) -> int:
        """Bytes of all output files."""
        return sum(f.size for f in self.files)

    @property
    def weights(self) -> int:
        """How many weights the model has."""
        return sum(math.prod(t.info.shape) for t in self.tensors)

    @property
    def bits_a_weight(self) -> float:
        """Bits a weight, over all tensors."""
        return 8 * sum(t.info.nbytes for t in self.tensors) / max(1, self.weights)

    @property
    def digest(self) -> str:
        """Identifies the plan: the headers, which carry the source's fingerprint, and the order of the pieces."""
        h = hashlib.sha256()
        for f in self.files:
            h.update(f.header + f.size.to_bytes(8, "little"))
        for p in self.pieces:
            h.update(b"%d %d %d %d;" % (p.tensor, p.part, p.first_row, p.rows))
        return h.hexdigest()


def make_plan(
    destination: Path,
    table: Sequence[Wanted],
    store: Store,
    metadata: Metadata,
    choose: Callable[[Wanted], Choice],
    *,
    source: str,
    recipe: str,
    importance: Callable[[Wanted], Floats | None] = lambda wanted: None,
    split_bytes: int | None = None,
    notices: Sequence[str] = (),
) -> Plan:
    """Decide everything about the output.

    Args:
        destination: the file to write; with `split_bytes`, the name that the parts' names are made from.
        table: the tensors, in the order of the file.
        store: where they come from.
        metadata: all keys, complete.
        choose: the type for a tensor.
        source, recipe: for messages and the digest.
        importance: the importance weights for a tensor.
        split_bytes: start a new file before tensors would exceed this.
        notices: passed on.
    """
    chosen = [choose(w) for w in table]
    groups = _split([(w, c) for w, c in zip(table, chosen, strict=True)], split_bytes)
    files: list[OutputFile] = []
    tensors: list[PlannedTensor] = []
    for number, group in enumerate(groups):
        heads = [(w.name, w.shape, c.type) for w, c in group]
        keys = _keys_of_file(metadata, number, len(groups), len(table))
        header = encode_header(keys, heads)
        placed = lay_out(heads, len(header))
        for (wanted, choice), info in zip(group, placed, strict=True):
            kind = store.stored_type(wanted.parts[0].stored)
            weights = None if choice.type.is_float else importance(wanted)
            tensors.append(PlannedTensor(wanted, info, number, kind, choice.note, weights))
        end = aligned(placed[-1].offset + placed[-1].nbytes) if placed else len(header)
        files.append(OutputFile(_file_path(destination, number, len(groups)), header, end))
    pieces = _cut(tensors, store)
    return Plan(tuple(files), tuple(tensors), tuple(pieces), source, recipe, tuple(notices))


def _split(table: list[tuple[Wanted, Choice]], split_bytes: int | None) -> list[list[tuple[Wanted, Choice]]]:
    if split_bytes is None:
        return [table]
    groups: list[list[tuple[Wanted, Choice]]] = [[]]
    size = 0
    for wanted, choice in table:
        nbytes = math.prod(wanted.shape[:-1]) * choice.type.row_bytes(wanted.shape[-1])
        if groups[-1] and size + nbytes > split_bytes:
            groups.append([])
            size = 0
        groups[-1].append((wanted, choice))
        size += nbytes
    if len(groups) > 9999:
        raise InputError(f"--split-size would make {len(groups)} files", hint="choose a larger size")
    return groups


def _keys_of_file(metadata: Metadata, number: int, count: int, n_tensors: int) -> Metadata:
    if count == 1:
        return metadata
    # The first file carries everything, the others only what says where they belong, as llama.cpp reads them.
    keys = dict(metadata) if number == 0 else {"general.architecture": metadata["general.architecture"]}
    keys[Keys.Split.LLM_KV_SPLIT_NO] = Value(number, GGUFValueType.UINT16)
    keys[Keys.Split.LLM_KV_SPLIT_COUNT] = Value(count, GGUFValueType.UINT16)
    keys[Keys.Split.LLM_KV_SPLIT_TENSORS_COUNT] = Value(n_tensors, GGUFValueType.INT32)
    return keys


def _file_path(destination: Path, number: int, count: int) -> Path:
    if count == 1:
        return destination
    return destination.with_name(f"{destination.stem}-{number + 1:05d}-of-{count:05d}.gguf")


def _cut(tensors: Sequence[PlannedTensor], store: Store) -> list[Piece]:
    """Pieces in the order in which the source lies on disk."""
    pieces: list[tuple[str, int, Piece]] = []
    for i, t in enumerate(tensors):
        for j, part in enumerate(t.wanted.parts):
            file, start = store.location(part.stored)
            columns = part.stored_shape[-1]
            step = part.rows if part.transposed else max(1, PIECE_ELEMENTS // columns)
            row_bytes = t.source_type.row_bytes(columns)
            for row in range(0, part.rows, step):
                at = start + (part.first_row + row) * row_bytes
                pieces.append((file, at, Piece(i, j, row, min(step, part.rows - row))))
    pieces.sort(key=lambda entry: (entry[0], entry[1], entry[2].tensor))
    return [piece for _, _, piece in pieces]
