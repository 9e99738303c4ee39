"""Where it is faster to evaluate 64 tokens than 48: llama.cpp's flash attention on the CPU works in tiles.

From 64 tokens on it takes the cached keys a tile at a time, for 64 tokens together. A batch of fewer tokens goes
through all of the cache for each token by itself, two to four times as slow a token. Far into a context that is most of
the work. So a batch that is nearly a tile is filled up with the last tokens of what is evaluated already: they are
evaluated once more, and the whole is done sooner.

Measured with llama-cpp-python 0.3.36 on two cores with AVX-512, milliseconds:

============================  =========  =========  ==========
model, tokens in the cache    48 tokens  64 tokens  filled from
============================  =========  =========  ==========
tiny, 1600, one thread        101.6      39.1       42 tokens
tiny, 1600, two threads       51.5       37.5       42 tokens
tiny, 200, two threads        13.5       12.3       55 tokens
Lite, 1000, two threads       2675       2813       57 tokens
Lite, 4000, two threads       5448       4918       47 tokens
============================  =========  =========  ==========
"""

from coderv2_local.loadable import with_all_parts
from coderv2_local.placement.load_options import LoadOptions
from converters.gguf_config import config_of
from converters.gguf_header import GgufHeader

TILE = 64
"""Tokens from which on the cache is read in tiles."""
ROW_COST, TILE_COST = 1.8, 1.0
"""What a multiplication in the attention costs against one with the weights, token by token and in a tile. Measured:
1.8 to 2.4, and 0.8 to 1.5."""


class AttentionTiles:
    """Where the evaluation of a sequence is best begun.

    Args:
        header: of the model's file.
        options: how it is loaded. Only on the CPU, with flash attention, and with all experts in memory (more tokens
            need more of them) is anything evaluated again.
    """

    def __init__(self, header: GgufHeader, options: LoadOptions) -> None:
        header = with_all_parts(header, header.path)
        c = config_of(header)
        batch = min(options.n_batch, options.n_ubatch or options.n_batch)
        elsewhere = options.n_gpu_layers or options.stream_experts
        old = any(name.endswith(".attn_kv_b.weight") for name in header.tensors)  # keys and values apart, and smaller
        self._pays = bool(options.flash_attention and not elsewhere and not old and batch >= TILE)
        width = c.kv_lora_rank + c.qk_rope_head_dim
        attention = c.n_heads * (width + c.kv_lora_rank)
        heads = c.n_heads * (c.qk_head_dim + c.kv_lora_rank / c.hidden_size * (c.qk_nope_head_dim + c.v_head_dim))
        projections = c.hidden_size * (heads + width + c.n_heads * c.v_head_dim)
        experts = c.expert_ffn_size * (c.n_shared_experts + c.n_experts_per_token)
        ffn = 3 * c.hidden_size * (c.n_dense_layers * c.dense_ffn_size + (c.n_layers - c.n_dense_layers) * experts)
        self._share = c.n_layers * attention / (c.n_layers * projections + ffn)

    def begin(self, shared: int, total: int) -> int:
        """Where to begin, for a sequence of `total` tokens of which the first `shared` are evaluated.

        Returns:
            `shared`, or less where the tokens between are worth evaluating once more.
        """
        new = total - shared
        if new >= TILE or total < TILE or not self._pays:
            return shared
        depth = shared * self._share
        one_by_one = new * (1 + ROW_COST * depth)
        return total - TILE if TILE * (1 + TILE_COST * depth) < one_by_one else shared
