"""What a GGUF is compared with: the checkpoint it was made from, another GGUF, or itself dequantized."""

from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from converters.config import ModelConfig
from converters.gguf_header import GgufHeader, dequantize, open_data, read_header
from converters.json_file import read_json_object
from converters.safetensors_shards import Checkpoint
from converters.tensor_table import Wanted, check_checkpoint, tensor_table
from converters.tokenizer import TOKENIZER_LIMIT
from quant import ggml
from quant.block_types import block_type
from quant.errors import InputError

from ..reference.checkpoint_weights import CheckpointWeights
from ..reference.gguf_config import config_of
from ..reference.gguf_weights import GgufWeights
from ..reference.weights import Weights

Floats = npt.NDArray[np.float32]


class Source(Protocol):
    """The weights that are taken to be right."""

    config: ModelConfig
    weights: Weights

    def part(self, wanted: Wanted, part: int) -> Floats:
        """One part of a GGUF tensor (one expert, one head, or all of it) as it should be: (rows, columns)."""

    def tokens(self) -> list[str | None]:
        """The vocabulary, by id; None for ids that the source gives no text, [] if it has no vocabulary."""


class CheckpointSource:
    """A checkpoint folder."""

    def __init__(self, folder: Path) -> None:
        self.weights: Weights = CheckpointWeights.open(folder)
        self.config = self.weights.config
        self._checkpoint = Checkpoint.open(folder)
        check_checkpoint(self._checkpoint, self.config, tensor_table(self.config))

    def part(self, wanted: Wanted, part: int) -> Floats:
        """See :class:`Source`."""
        p = wanted.parts[part]
        kind, columns = block_type(self._checkpoint.dtype(p.stored)), p.stored_shape[-1]
        row = kind.row_bytes(columns)
        raw = self._checkpoint.raw(p.stored)[p.first_row * row : (p.first_row + p.rows) * row]
        values = ggml.dequantize(raw, kind).reshape(p.rows, columns)
        return np.ascontiguousarray(values.T) if p.transposed else values

    def tokens(self) -> list[str | None]:
        """See :class:`Source`: what tokenizer.json has. Rows that only pad the embedding have no text there."""
        path = self._checkpoint.folder / "tokenizer.json"
        if not path.exists():
            return []
        found = read_json_object(path, TOKENIZER_LIMIT)
        model, added = found.get("model"), found.get("added_tokens")
        vocabulary = model.get("vocab") if isinstance(model, dict) else None
        pairs = list(vocabulary.items()) if isinstance(vocabulary, dict) else []
        pairs += (
            [(t.get("content"), t.get("id")) for t in added if isinstance(t, dict)] if isinstance(added, list) else []
        )
        by_id = {i: text for text, i in pairs if type(i) is int and isinstance(text, str)}
        return [by_id.get(i) for i in range(self.config.vocab_size)]


class GgufSource:
    """A GGUF file, dequantized."""

    def __init__(self, header: GgufHeader) -> None:
        self.config = config_of(header)
        self.header = header
        self.weights: Weights = GgufWeights(self.config, header)
        self._data = open_data(header.path)

    def part(self, wanted: Wanted, part: int) -> Floats:
        """See :class:`Source`. A file that holds the key and value expansions unsplit, or gate and up fused, has no
        tensor of that name: InputError."""
        info = self.header.tensors.get(wanted.name)
        if info is None or info.shape != wanted.shape:
            what = "is missing" if info is None else f"has shape {info.shape}, not {wanted.shape}"
            raise InputError(f"{self.header.path}: tensor {wanted.name} {what}")
        rows = info.n_rows // len(wanted.parts)
        return dequantize(self._data, info, slice(part * rows, (part + 1) * rows)).reshape(rows, info.shape[-1])

    def tokens(self) -> list[str | None]:
        """See :class:`Source`."""
        found = self.header.metadata.get("tokenizer.ggml.tokens")
        return list(found) if isinstance(found, list) else []


def open_source(path: Path) -> CheckpointSource | GgufSource:
    """The checkpoint folder or the GGUF file at `path`.

    Raises:
        InputError: it is neither, or cannot be used.
    """
    return CheckpointSource(path) if path.is_dir() else GgufSource(read_header(path))
