"""How many bytes a model takes, by class: weights that every token passes, experts, KV cache, buffers.

From a file's header, or from a config and a recipe where there is no file yet. Nothing is loaded. What llama.cpp
allocates for these shapes was measured (llama-cpp-python 0.3.36); a test holds the formulas against its own report.
"""

import math
import re
from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from coderv2_local.loadable import with_all_parts
from coderv2_local.placement.load_options import KvType
from converters.config import ModelConfig
from converters.gguf_config import config_of
from converters.gguf_header import GgufHeader
from converters.tensor_table import tensor_table
from converters.type_choice import TypeChoice
from quant.block_types import block_type
from quant.recipes import is_expert, recipe

Kind = Literal["dense", "experts", "embedding", "output"]
"""`dense` is what every token passes in a layer: attention, shared experts, router, norms, a dense layer's FFN."""
NO_LAYER = -1
KV_BYTES = {"f16": 2, "f32": 4}
KV_STEP = 256
"""llama.cpp rounds a context up to a multiple of this."""
PROGRAM = 48 << 20
"""Anonymous memory of the program itself, at most: 34 MiB before a model is loaded, more as it works. With the embedded
model, whose tables, cache and buffers take at most 18, `coder chat` on a terminal grew to 62 over some answers, `coder
serve` to 58, `coder bench` to 52.
"""
BYTES_A_TOKEN_NAME = 550
"""Anonymous memory for each entry of the vocabulary: llama.cpp's tables and the header's list."""
_LAYER = re.compile(r"blk\.(\d+)\.")


@dataclass(frozen=True)
class Weights:
    """The tensors of one kind and type in one layer; outside the layers, `layer` is NO_LAYER."""

    kind: Kind
    layer: int
    type: str
    nbytes: int


@dataclass(frozen=True)
class ModelMemory:
    """What a model takes.

    Attributes:
        config: its numbers.
        weights: all of them, by kind, layer and type.
        mla: is ``kv_b`` split, so that the KV cache holds one latent vector a token and layer?
    """

    config: ModelConfig
    weights: tuple[Weights, ...]
    mla: bool = True

    def nbytes(self, kind: Kind, layers: Collection[int] | None = None) -> int:
        """Bytes of the weights of one kind, in all layers or in some."""
        return sum(w.nbytes for w in self.weights if w.kind == kind and (layers is None or w.layer in layers))

    @cached_property
    def total(self) -> int:
        """Bytes of all weights."""
        return sum(w.nbytes for w in self.weights)

    @property
    def expert_layers(self) -> range:
        """The layers that have routed experts."""
        return range(self.config.n_dense_layers, self.config.n_layers)

    @property
    def key_width(self) -> int:
        """Numbers in a key of the KV cache: with MLA one latent vector with its rotary part, for all heads."""
        c = self.config
        return c.kv_lora_rank + c.qk_rope_head_dim if self.mla else c.qk_head_dim

    def kv_bytes(self, n_ctx: int, kv_type: KvType = "f16", n_layers: int | None = None) -> int:
        """Bytes of the KV cache for `n_ctx` tokens, in all layers or in `n_layers` of them."""
        c = self.config
        width = self.key_width if self.mla else c.n_heads * (c.qk_head_dim + c.v_head_dim)
        return padded(n_ctx) * width * KV_BYTES[kv_type] * (c.n_layers if n_layers is None else n_layers)

    def compute_bytes(self, n_ctx: int, n_ubatch: int, *, flash_attention: bool = True) -> int:
        """Bytes of llama.cpp's compute buffer: what the widest stage of the graph needs for each token of a batch."""
        c, n_tokens = self.config, min(n_ubatch, padded(n_ctx))
        mask = 2 * padded(n_ctx)
        # llama.cpp gives the logits the mask's place where that is large, and leaves a gap
        logits = 4 * (c.vocab_size + (10 if mask >= 4 * c.hidden_size else 3) * c.hidden_size)
        if self.mla:
            heads = c.n_heads * (c.qk_head_dim + 2 * c.kv_lora_rank + c.qk_rope_head_dim + c.v_head_dim)
        else:
            heads = c.n_heads * (3 * c.qk_head_dim + c.qk_nope_head_dim + 2 * c.v_head_dim)
        attention = 4 * (heads + 4 * c.hidden_size) + mask
        values = 0
        if not flash_attention:  # each head's weights for all of the context, and the latent vectors turned over
            attention += 4 * c.n_heads * padded(n_ctx) + mask
            values = 2 * c.kv_lora_rank * padded(n_ctx) if self.mla else 0
        experts = 4 * (2 * c.n_experts_per_token * (c.expert_ffn_size + c.hidden_size) + 2 * c.hidden_size) + mask
        return max(n_tokens * max(logits, experts), n_tokens * attention + values)

    @property
    def runtime_bytes(self) -> int:
        """Bytes of the program itself, with the vocabulary."""
        return PROGRAM + self.config.vocab_size * BYTES_A_TOKEN_NAME


def padded(n_ctx: int) -> int:
    """The context that llama.cpp makes of `n_ctx`."""
    return math.ceil(n_ctx / KV_STEP) * KV_STEP


def memory_of_file(header: GgufHeader) -> ModelMemory:
    """What the model in a file takes; of a split file, in all its parts.

    Raises:
        InputError: of another architecture, or damaged.
    """
    whole = with_all_parts(header, header.path)
    mla = not any(name.endswith(".attn_kv_b.weight") for name in whole.tensors)
    tensors = ((name, info.type.name, info.nbytes) for name, info in whole.tensors.items())
    return ModelMemory(config_of(whole), _classes(tensors), mla)


def memory_of_recipe(config: ModelConfig, recipe_name: str) -> ModelMemory:
    """What a model will take once it is converted.

    Raises:
        InputError: there is no such recipe.
    """
    table = tensor_table(config)
    types = TypeChoice(config, recipe(recipe_name), None, None, table)
    chosen = ((w.name, w.shape, types.choice(w).type) for w in table)
    return ModelMemory(
        config, _classes((name, t.name, math.prod(s[:-1]) * t.row_bytes(s[-1])) for name, s, t in chosen)
    )


def weights_in(nbytes: float, type_name: str) -> float:
    """How many weights of a type there are in some bytes."""
    kind = block_type(type_name)
    return nbytes / kind.block_bytes * kind.block_size


def _classes(tensors: Iterable[tuple[str, str, int]]) -> tuple[Weights, ...]:
    sums: Counter[tuple[Kind, int, str]] = Counter()
    for name, type_name, nbytes in tensors:
        found = _LAYER.match(name)
        kind: Kind = "dense"
        if is_expert(name):
            kind = "experts"
        elif name == "token_embd.weight":
            kind = "embedding"
        elif not found:
            kind = "output"
        sums[kind, int(found[1]) if found else NO_LAYER, type_name] += nbytes
    return tuple(Weights(*key, nbytes) for key, nbytes in sums.items())


SMALL_MODEL = 100_000_000  # bytes


def is_small(model: ModelMemory) -> bool:
    """Is a token computed in so short a time that one thread does it best? Threads meet some 300 times in a token, and
    where another program keeps a core busy, each meeting takes as long as the system lets that program run.
    """
    return model.total < SMALL_MODEL
