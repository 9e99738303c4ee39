"""What exact routing costs a decoded token, on layers of the 236B's true shapes held in memory.

    python tools/bench/routing_cost.py [--layers 3] [--tokens 40] [--threads N] [--file PATH]

Writes a GGUF with one dense layer and the rest mixture layers of the 236B's shapes (random Q4_0 blocks, about 2.2 GB a
mixture layer, small vocabulary), loads it once, and decodes the same tokens in two contexts by turns: with llama.cpp's
own routing and no callback, and with exact routing. Prints the median decode time of each and the difference.
"""

import argparse
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from coderv2_local.engine import Engine
from coderv2_local.placement.load_options import LoadOptions
from coderv2_local.routing import install_taps
from converters.config import ModelConfig, YarnConfig
from converters.metadata import architecture_keys, encode_header, i32s, text, texts, u32
from converters.tensor_table import tensor_table
from quant import ggml
from quant.block_types import F32, block_type
from quant.cores import usable_cores

SHAPES_236B = ModelConfig(
    n_layers=60, hidden_size=5120, dense_ffn_size=12288, expert_ffn_size=1536, n_heads=128, q_lora_rank=1536,
    kv_lora_rank=512, qk_nope_head_dim=128, qk_rope_head_dim=64, v_head_dim=128, n_routed_experts=160,
    n_shared_experts=2, n_experts_per_token=6, n_dense_layers=1, n_groups=8, n_groups_used=3,
    topk_method="group_limited_greedy", norm_topk_prob=False, routed_scaling_factor=16.0, rms_norm_eps=1e-6,
    rope_theta=10000.0, yarn=YarnConfig(40.0, 32.0, 1.0, 0.707, 0.707, 4096), max_context=163840, vocab_size=512,
    bos_token_id=510, eos_token_id=511, tie_word_embeddings=False,
)  # fmt: skip


def write_model(path: Path, layers: int) -> int:
    """Write the GGUF; returns its size in bytes."""
    c = replace(SHAPES_236B, n_layers=layers)
    quantized, rng = block_type("Q4_0"), np.random.default_rng(1)
    tensors = [
        (w.name, w.shape, F32 if len(w.shape) == 1 or "gate_inp" in w.name else quantized) for w in tensor_table(c)
    ]
    tokens = [f"<{i}>" for i in range(c.vocab_size)]
    metadata = {"general.architecture": text("deepseek2")} | architecture_keys(c)
    metadata |= {"tokenizer.ggml.model": text("gpt2"), "tokenizer.ggml.pre": text("deepseek-llm")}
    metadata |= {"tokenizer.ggml.tokens": texts(tokens), "tokenizer.ggml.merges": texts(["a b"])}
    metadata |= {"tokenizer.ggml.token_type": i32s([1] * c.vocab_size)}
    metadata |= {"tokenizer.ggml.bos_token_id": u32(c.bos_token_id), "tokenizer.ggml.eos_token_id": u32(c.eos_token_id)}
    pattern = rng.normal(0, 1 / 64, (1 << 12, 1024)).astype(np.float32)
    tile = ggml.quantize(pattern, quantized).tobytes()
    with open(path, "wb") as f:
        f.write(encode_header(metadata, tensors))
        for name, shape, kind in tensors:
            if kind is F32:
                values = rng.normal(0, 2 / shape[-1] ** 0.5, shape) if "gate_inp" in name else np.ones(shape)
                f.write(values.astype(np.float32).tobytes())
            else:
                left = int(np.prod(shape[:-1])) * kind.row_bytes(shape[-1])
                while left:
                    left -= f.write(tile[:left])
            f.write(b"\0" * (-f.tell() % 32))
        return f.tell()


def decode_times(engines: dict[str, Engine], tokens: int) -> dict[str, list[float]]:
    """Decode the same random tokens in every engine, a token by turns."""
    rng = np.random.default_rng(2)
    ids = rng.integers(0, 500, tokens + 5).tolist()
    times: dict[str, list[float]] = {name: [] for name in engines}
    for n in range(1, len(ids)):
        order = list(engines.items())
        for name, engine in order if n % 2 else reversed(order):
            start = time.perf_counter()
            engine.evaluate(ids[:n])
            if n > 4:
                times[name].append(time.perf_counter() - start)
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=40)
    parser.add_argument("--threads", type=int, default=usable_cores())
    parser.add_argument("--file", type=Path, help="where to put the model; a temporary file by default")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = args.file or Path(folder) / "layers.gguf"
        if not path.exists():
            print(f"{write_model(path, args.layers) / 1e9:.1f} GB written", flush=True)
        options = LoadOptions(n_ctx=256, n_threads=args.threads)
        stock = Engine(path, options)
        (tap,) = install_taps(stock.header.metadata)
        exact = Engine(path, options, taps=[tap])
        times = decode_times({"stock": stock, "exact": exact}, args.tokens)
        moe = args.layers - 1
        pairs = [1e3 * (e - s) for s, e in zip(times["stock"], times["exact"], strict=True)]
        a, b = (1e3 * statistics.median(times[name]) for name in ("stock", "exact"))
        print(f"{args.layers} layers ({moe} with experts), {args.threads} threads, {len(pairs)} tokens")
        print(f"decode, median: stock {a:.2f} ms, exact {b:.2f} ms: {(b - a) / a:+.2%}")
        pair = statistics.median(pairs)
        print(f"difference a layer: of medians {(b - a) / moe:.3f} ms, median of pairs {pair / moe:.3f} ms")
        stock.close()
        exact.close()


if __name__ == "__main__":
    main()
