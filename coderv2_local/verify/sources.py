"""What a GGUF is compared with: the checkpoint it was made from, another GGUF, or itself dequantized."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from converters.config import ModelConfig
from converters.expert_groups import Grouping, fits, grouping, with_grouping
from converters.gguf_config import config_of
from converters.gguf_model import GgufModel, open_gguf
from converters.json_file import read_json_object
from converters.metadata import tokenizer_keys
from converters.safetensors_shards import Checkpoint
from converters.tensor_table import Part, check_checkpoint, tensor_table
from converters.tokenizer import TOKENIZER_LIMIT, read_tokenizer
from quant.block_types import block_type
from quant.errors import InputError

from ..reference.checkpoint_weights import CheckpointWeights
from ..reference.file_bytes import read_rows
from ..reference.gguf_weights import GgufWeights
from ..reference.weights import Weights
from .structure import expected_tensors, problems

Floats = npt.NDArray[np.float32]


class Source(Protocol):
    """The weights that are taken to be right."""

    config: ModelConfig
    weights: Weights

    def part(self, part: Part, first: int = 0, rows: int | None = None) -> Floats:
        """One part of a GGUF tensor (one expert, one head, or all of it) as it should be: (rows, columns).

        Args:
            part: which.
            first: the first row wanted.
            rows: how many; all that follow without.
        """

    def tokens(self) -> list[str | None]:
        """The vocabulary, by id; None for ids that the source gives no text, [] if it has no vocabulary."""

    def tokenizer(self) -> Mapping[str, Any]:
        """The keys that a GGUF of this should have for its tokenizer; {} if it has none.

        Raises:
            TokenizerError: it cannot be used.
        """


class CheckpointSource:
    """A checkpoint folder."""

    def __init__(self, folder: Path) -> None:
        self.weights: Weights = CheckpointWeights.open(folder)
        self.config = self.weights.config
        self._checkpoint = Checkpoint.open(folder)
        check_checkpoint(self._checkpoint, self.config, tensor_table(self.config))

    def part(self, part: Part, first: int = 0, rows: int | None = None) -> Floats:
        """See :class:`Source`."""
        return _turned(self._rows, part, first, rows)

    def _rows(self, part: Part, first: int, rows: int) -> Floats:
        stored, columns = self._checkpoint.tensors[part.stored], part.stored_shape[-1]
        kind = block_type(stored.dtype)
        at = stored.start + (part.first_row + first) * kind.row_bytes(columns)
        return read_rows(self._checkpoint.folder / stored.shard, at, kind, rows, columns)

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

    def tokenizer(self) -> Mapping[str, Any]:
        """See :class:`Source`."""
        folder = self._checkpoint.folder
        if not (folder / "tokenizer.json").exists():
            return {}
        return {key: value.value for key, value in tokenizer_keys(read_tokenizer(folder, self.config)).items()}


class GgufSource:
    """A GGUF file, dequantized: of today's form or of an older one, whole or in parts.

    Args:
        model: the file.
        known: how its experts are grouped, for a file that does not tell.

    Raises:
        InputError: it lacks tensors, or has them in other shapes.
    """

    def __init__(self, model: GgufModel, known: Grouping | None = None) -> None:
        header = model.whole
        self.config = config_of(header)
        if known is not None and fits(self.config, known) and grouping(header.metadata).origin == "nothing":
            self.config = with_grouping(self.config, known)
        self.model = model
        self.weights: Weights = GgufWeights(self.config, model)
        if wrong := problems(header, self.config):
            raise InputError(f"{model.path}: {wrong[0]}", hint="nothing can be compared with this file")
        # Where each block of rows of a checkpoint lies in this file: (stored tensor, first row) → tensor, its row. Of
        # the key and value expansions only the first is looked up here, for the tensor's name: see _expansions.
        self._places: dict[tuple[str, int], tuple[str, int]] = {}
        for wanted in expected_tensors(header, self.config):
            row = 0
            for part in wanted.parts:
                self._places[part.stored, part.first_row] = wanted.name, row
                row += part.rows

    def part(self, part: Part, first: int = 0, rows: int | None = None) -> Floats:
        """See :class:`Source`."""
        return _turned(self._stored, part, first, rows)

    def _stored(self, part: Part, first: int, rows: int) -> Floats:
        if part.stored.endswith("kv_b_proj.weight"):
            return self._expansions(part)[first : first + rows]
        name, row = self._places[part.stored, part.first_row]
        return self._rows(name, row + first, rows)

    def _expansions(self, part: Part) -> Floats:
        """Rows of the key and value expansions in the order of a checkpoint, of whichever form they are here."""
        name, row = self._places[part.stored, 0]
        if name.endswith("attn_kv_b.weight"):
            return self._rows(name, row + part.first_row, part.rows)
        c, stem = self.config, name.removesuffix("k_b.weight")
        a_head = c.qk_nope_head_dim + c.v_head_dim
        end = part.first_row + part.rows
        heads = range(part.first_row // a_head, -(-end // a_head))
        pieces = []
        for h in heads:
            pieces.append(self._rows(stem + "k_b.weight", h * c.kv_lora_rank, c.kv_lora_rank).T)
            pieces.append(self._rows(stem + "v_b.weight", h * c.v_head_dim, c.v_head_dim))
        first = part.first_row - heads.start * a_head
        return np.concatenate(pieces)[first : first + part.rows]

    def _rows(self, name: str, first: int, rows: int) -> Floats:
        path, info = self.model.find(name)
        return read_rows(path, info.offset + first * info.row_bytes, info.type, rows, info.shape[-1])

    def tokens(self) -> list[str | None]:
        """See :class:`Source`."""
        found = self.model.metadata.get("tokenizer.ggml.tokens")
        return list(found) if isinstance(found, list) else []

    def tokenizer(self) -> Mapping[str, Any]:
        """See :class:`Source`."""
        return self.model.metadata


def _turned(read: Callable[[Part, int, int], Floats], part: Part, first: int, rows: int | None) -> Floats:
    """Rows of a part as GGUF has it. One that is transposed there is small, and read whole."""
    if part.transposed:
        values = read(part, 0, part.rows).T
        return np.ascontiguousarray(values[first : len(values) if rows is None else first + rows])
    return read(part, first, part.rows - first if rows is None else rows)


def open_source(path: Path, known: Grouping | None = None) -> CheckpointSource | GgufSource:
    """The checkpoint folder or the GGUF file at `path`.

    Args:
        path: a folder, a file, or the first part of a split file.
        known: how the experts are grouped, for a GGUF that does not tell.

    Raises:
        InputError: it is neither, or cannot be used.
    """
    return CheckpointSource(path) if path.is_dir() else GgufSource(open_gguf(path), known)
