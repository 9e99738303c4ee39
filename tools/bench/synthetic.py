"""Synthetic models of true size, for measurements: random weights in the shapes of Lite and of the 236B.

    python tools/bench/synthetic.py FOLDER [--only lite|236b] [--recipe q4_k_m] [--tokenizer DIR] [--layers N]

Writes FOLDER/lite-RECIPE.gguf (about 9.5 GB) and FOLDER/236b-RECIPE-sparse.gguf: 133 GB long, about 7 GB on disk, its
routed experts left as holes. Metadata, tensor names and types are the converter's own. The tokenizer folder holds the
published tokenizer.json and tokenizer_config.json; without it a vocabulary of the same size is made up.

Quantizing 16 billion random weights would take an hour, so one tile for each type and row length is quantized and
repeated. A tile has a prime number of blocks: no two rows of a matrix begin at the same block of it. Routers and norms
are drawn anew for each layer. So activations stay finite, and which experts a token takes depends on the token.
"""

import argparse
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from converters.config import ModelConfig, YarnConfig
from converters.metadata import Metadata, architecture_keys, encode_header, lay_out, text, tokenizer_keys, u32
from converters.tensor_table import tensor_table
from converters.tokenizer import CONTROL, FIM_TOKENS, NORMAL, UNUSED, TokenizerData, read_tokenizer
from converters.type_choice import TypeChoice
from quant import ggml
from quant.block_types import F32, BlockType
from quant.recipes import is_expert, recipe

LITE = ModelConfig(
    n_layers=27, hidden_size=2048, dense_ffn_size=10944, expert_ffn_size=1408, n_heads=16, q_lora_rank=None,
    kv_lora_rank=512, qk_nope_head_dim=128, qk_rope_head_dim=64, v_head_dim=128, n_routed_experts=64,
    n_shared_experts=2, n_experts_per_token=6, n_dense_layers=1, n_groups=1, n_groups_used=1, topk_method="greedy",
    norm_topk_prob=False, routed_scaling_factor=1.0, rms_norm_eps=1e-6, rope_theta=10000.0,
    yarn=YarnConfig(40.0, 32.0, 1.0, 0.707, 0.707, 4096), max_context=163840, vocab_size=102400,
    bos_token_id=100000, eos_token_id=100001, tie_word_embeddings=False,
)  # fmt: skip
FULL = replace(
    LITE, n_layers=60, hidden_size=5120, dense_ffn_size=12288, expert_ffn_size=1536, n_heads=128, q_lora_rank=1536,
    n_routed_experts=160, n_groups=8, n_groups_used=3, topk_method="group_limited_greedy", routed_scaling_factor=16.0,
    yarn=YarnConfig(40.0, 32.0, 1.0, 1.0, 1.0, 4096),
)  # fmt: skip

PRIMES = (251, 4_093, 65_521, 524_287)
"""How many blocks a tile may have."""
TILE_WEIGHTS = 1 << 24
"""Weights of a tile at most."""
EMBEDDING_SPREAD = 1.0
"""Standard deviation of the embedding. It outweighs what the layers add, so tokens keep their identity."""
ROUTER_SPREAD = 2.0
"""Standard deviation of the router's logits."""


def made_up_tokenizer(config: ModelConfig) -> TokenizerData:
    """A vocabulary of the right size: bytes, filler, and the special tokens in their published order."""
    visible = [chr(b) if 33 <= b <= 126 or 161 <= b <= 172 or b >= 174 else None for b in range(256)]
    spare = iter(range(256, 512))
    tokens = [v or chr(next(spare)) for v in visible] + [f"filler{i}" for i in range(256, config.vocab_size)]
    first = config.bos_token_id
    types = [NORMAL] * first + [UNUSED] * (config.vocab_size - first)
    special = [
        "<｜begin▁of▁sentence｜>",
        "<｜end▁of▁sentence｜>",
        *(FIM_TOKENS[k] for k in ("fim_suf", "fim_pre", "fim_mid")),
    ]
    for number, name in enumerate(special, first):
        tokens[number], types[number] = name, CONTROL
    fim = {"fim_suf": first + 2, "fim_pre": first + 3, "fim_mid": first + 4}
    return TokenizerData(tokens, types, ["a b"], "deepseek-llm", first, first + 1, None, True, False, fim, None)


class Tiles:
    """Quantized random blocks: a tile for each type and row length, made when first asked for."""

    def __init__(self, seed: int) -> None:
        self.random = np.random.default_rng(seed)
        self._made: dict[tuple[str, int, float], bytes] = {}

    def fill(self, kind: BlockType, columns: int, spread: float, nbytes: int) -> Iterator[memoryview]:
        """`nbytes` of rows of `columns` weights with standard deviation `spread`, in pieces."""
        key = (kind.name, columns, spread)
        if key not in self._made:
            possible = [p for p in PRIMES if p * kind.block_size <= TILE_WEIGHTS]
            blocks = next((p for p in possible if p * kind.block_bytes >= nbytes), possible[-1])
            values = self.random.standard_normal((blocks, kind.block_size), np.float32) * np.float32(spread)
            self._made[key] = ggml.quantize(values, kind).tobytes()
        tile = memoryview(self._made[key])
        at = int(self.random.integers(len(tile) // kind.block_bytes)) * kind.block_bytes
        while nbytes:
            piece = tile[at : at + nbytes]
            yield piece
            nbytes, at = nbytes - len(piece), 0


def write_model(path: Path, config: ModelConfig, recipe_name: str, tokenizer: Path | None, *, holes: bool) -> int:
    """Write a synthetic model.

    Args:
        path: of the GGUF. It carries this name only once it is complete.
        config: its shapes.
        recipe_name: as for ``coder convert -q``.
        tokenizer: folder with the published tokenizer; None makes one up.
        holes: leave the routed experts out, so that they read as zeros and take no room.

    Returns:
        Its length in bytes.
    """
    table, chosen = tensor_table(config), recipe(recipe_name)
    types = TypeChoice(config, chosen, None, None, table)
    heads = [(w.name, w.shape, types.choice(w).type) for w in table]
    data = read_tokenizer(tokenizer, config) if tokenizer else made_up_tokenizer(config)
    metadata: Metadata = {"general.architecture": text("deepseek2"), "general.name": text(f"synthetic {path.stem}")}
    metadata |= {"general.file_type": u32(chosen.file_type), **architecture_keys(config), **tokenizer_keys(data)}
    header, tiles = encode_header(metadata, heads), Tiles(seed=1)
    partial = path.with_name(path.name + ".part")
    with open(partial, "wb") as f:
        f.write(header)
        for info in lay_out(heads, len(header)):
            f.seek(info.offset)
            if is_expert(info.name) and holes:
                continue
            columns = info.shape[-1]
            if len(info.shape) == 1:
                f.write(tiles.random.uniform(0.8, 1.2, columns).astype(np.float32).tobytes())
            elif info.type is F32:
                spread = (ROUTER_SPREAD if "gate_inp" in info.name else 1.0) / columns**0.5
                f.write(tiles.random.normal(0, spread, info.shape).astype(np.float32).tobytes())
            else:
                spread = EMBEDDING_SPREAD if info.name == "token_embd.weight" else columns**-0.5
                for piece in tiles.fill(info.type, columns, spread, info.nbytes):
                    f.write(piece)
        last = lay_out(heads, len(header))[-1]
        f.truncate(-(-(last.offset + last.nbytes) // 32) * 32)
        f.flush()
        os.fsync(f.fileno())
    os.replace(partial, path)
    return path.stat().st_size


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", choices=("lite", "236b"))
    parser.add_argument("--recipe", default="q4_k_m")
    parser.add_argument("--tokenizer", type=Path, help="folder with the published tokenizer.json")
    parser.add_argument("--layers", type=int, help="fewer layers than the model has")
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    for name, config, holes in (("lite", LITE, False), ("236b", FULL, True)):
        if args.only in (None, name):
            path = args.folder / f"{name}-{args.recipe}{'-sparse' if holes else ''}.gguf"
            config = replace(config, n_layers=args.layers or config.n_layers)
            length = write_model(path, config, args.recipe, args.tokenizer, holes=holes)
            on_disk = path.stat().st_blocks * 512
            print(f"{path}: {length / 1e9:.1f} GB long, {on_disk / 1e9:.1f} GB on disk", flush=True)


if __name__ == "__main__":
    main()
