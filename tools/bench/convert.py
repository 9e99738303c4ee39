"""`coder convert` against llama.cpp's two steps, on a synthetic checkpoint with Lite's true shapes.

    python tools/bench/convert.py WORK --llama-cpp DIR --their-python PYTHON --tokenizer DIR [--layers 3]

DIR holds convert_hf_to_gguf.py (the llama-cpp-python source distribution has it under vendor/llama.cpp); PYTHON has
torch and transformers; the tokenizer folder holds the published tokenizer.json and tokenizer_config.json. WORK needs
about 15 GB. Every run ends with a sync, which counts. Sources are in the page cache for both sides. Compare ratios
within one run: seconds depend on the machine and on what else it does.
"""

import argparse
import json
import os
import shutil
import struct
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from converters.config import ModelConfig  # noqa: E402 - found once the path is set
from converters.job import Options, plan_source  # noqa: E402
from converters.tensor_table import stored_shapes, tensor_table  # noqa: E402
from quant import ggml  # noqa: E402

LITE: dict[str, Any] = {
    "architectures": ["DeepseekV2ForCausalLM"], "model_type": "deepseek_v2", "hidden_size": 2048,
    "intermediate_size": 10944, "moe_intermediate_size": 1408, "num_attention_heads": 16, "num_key_value_heads": 16,
    # 0 and not null: llama.cpp's converter then writes the key that its quantizer insists on for other than 27 layers
    "q_lora_rank": 0, "kv_lora_rank": 512, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128,
    "n_routed_experts": 64, "n_shared_experts": 2, "num_experts_per_tok": 6, "first_k_dense_replace": 1,
    "n_group": 1, "topk_group": 1, "topk_method": "greedy", "norm_topk_prob": False, "routed_scaling_factor": 1.0,
    "scoring_func": "softmax", "hidden_act": "silu", "rms_norm_eps": 1e-6, "rope_theta": 10000,
    "rope_scaling": {"type": "yarn", "factor": 40, "beta_fast": 32, "beta_slow": 1, "mscale": 0.707,
                     "mscale_all_dim": 0.707, "original_max_position_embeddings": 4096},
    "max_position_embeddings": 163840, "vocab_size": 102400, "bos_token_id": 100000, "eos_token_id": 100001,
    "tie_word_embeddings": False, "torch_dtype": "bfloat16",
}  # fmt: skip

THEIR_CONVERTER = """
import runpy, sys
root = sys.argv.pop(1)
sys.path[:0] = [root, root + "/gguf-py"]
from conversion.base import TextModel
TextModel.get_vocab_base_pre = lambda self, tokenizer: "deepseek-llm"  # newer tokenizer libraries hash differently
sys.argv[0] = root + "/convert_hf_to_gguf.py"
runpy.run_path(sys.argv[0], run_name="__main__")
"""
THEIR_QUANTIZER = """
import sys, llama_cpp as l
p = l.llama_model_quantize_default_params()
p.ftype, p.nthread = 15, int(sys.argv[3])
sys.exit(l.llama_model_quantize(sys.argv[1].encode(), sys.argv[2].encode(), p))
"""
OURS = "from cli.convert import convert; import typer; a = typer.Typer(); a.command()(convert); a()"


@dataclass
class Measured:
    """One process, to its end and a sync."""

    seconds: float
    anonymous: int
    """Most bytes of anonymous memory at any time."""
    written: int
    """Bytes that it caused to be written to disk."""


def write_checkpoint(folder: Path, n_layers: int, tokenizer: Path, *, holes: bool = False) -> Path:
    """BF16 shards of about 2 GB. With `holes` the weights are zeros that take no room, to look at memory only."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(LITE | {"num_hidden_layers": n_layers}))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(tokenizer / name, folder / name)
    config = ModelConfig.from_dict(LITE | {"num_hidden_layers": n_layers})
    shapes = list(stored_shapes(tensor_table(config)).items())
    sizes = [2 * int(np.prod(shape)) for _, shape in shapes]
    n_shards = max(2, round(sum(sizes) / 2e9))
    values = np.random.default_rng(1).standard_normal(1 << 24, dtype=np.float32) * 0.02
    block = (values.view(np.uint32) >> 16).astype("<u2").tobytes()
    shards: list[list[int]] = [[] for _ in range(n_shards)]
    done = 0
    for i, size in enumerate(sizes):
        shards[min(n_shards - 1, done * n_shards // sum(sizes))].append(i)
        done += size
    weight_map = {}
    for number, members in enumerate(shards):
        shard = f"model-{number + 1:05d}-of-{n_shards:06d}.safetensors"
        header, at = {}, 0
        for i in members:
            name, shape = shapes[i]
            header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [at, at + sizes[i]]}
            weight_map[name] = shard
            at += sizes[i]
        text = json.dumps(header).encode()
        with open(folder / shard, "wb") as f:
            f.write(struct.pack("<Q", len(text)) + text)
            if holes:
                f.truncate(8 + len(text) + at)
                continue
            left = at
            while left:
                left -= f.write(block[: min(left, len(block))])
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return folder


def measure(command: list[str]) -> Measured:
    """Run a process, watch its memory, sync at the end."""
    environment = dict(os.environ, PYTHONPATH=str(ROOT), NO_COLOR="1")
    os.sync()
    start = time.monotonic()
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    errors: list[bytes] = []
    assert process.stderr is not None
    reader = threading.Thread(target=lambda: errors.extend(process.stderr or ()))
    reader.start()
    anonymous = written = 0
    while process.poll() is None:
        try:
            status = Path(f"/proc/{process.pid}/status").read_text()
            io = Path(f"/proc/{process.pid}/io").read_text()
            anonymous = max(anonymous, 1024 * int(status.split("RssAnon:")[1].split()[0]))
            written = max(written, int(io.split("\nwrite_bytes:")[1].split()[0]))
        except (OSError, IndexError):
            pass  # it has just ended
        time.sleep(0.02)
    os.sync()
    seconds = time.monotonic() - start
    reader.join()
    if process.returncode:
        raise SystemExit(b"".join(errors[-20:]).decode() + f"\n{command[:4]} failed")
    return Measured(seconds, anonymous, written)


def quantizers_alone(source: Path, recipe: str, threads: int) -> float:
    """Seconds that the plan's quantizers need on all cores, with the data in cache: measured on a part of the work."""
    work: dict[str, int] = {}
    job = plan_source(source, source / "unused.gguf", Options(recipe))
    types = {t.info.type.name: t.info.type for t in job.plan.tensors}
    for t in job.plan.tensors:
        work[t.info.type.name] = work.get(t.info.type.name, 0) + int(np.prod(t.info.shape))
    values = (np.random.default_rng(2).standard_normal((64, 2048), dtype=np.float32) * 0.02).astype(np.float32)
    total = 0.0
    for name, weights in work.items():
        rounds = max(1, min(weights, max(1 << 22, weights // 10)) // values.size)

        def some(n: int, kind: Any = types[name]) -> None:
            out = ggml.quantize(values, kind)
            for _ in range(n):
                ggml.quantize(values, kind, out)

        with ThreadPoolExecutor(threads) as pool:
            start = time.monotonic()
            list(pool.map(some, [-(-rounds // threads)] * threads))
            total += (time.monotonic() - start) * weights / (-(-rounds // threads) * threads * values.size)
    return total


def disk_alone(path: Path, size: int) -> float:
    """Seconds to write `size` bytes and sync them."""
    block = os.urandom(1 << 24)
    os.sync()
    start = time.monotonic()
    with open(path, "wb") as f:
        while f.tell() < size:
            f.write(block[: size - f.tell()])
    os.sync()
    seconds = time.monotonic() - start
    path.unlink()
    return seconds


def compare(a: argparse.Namespace, source: Path, recipe: str, limit: float) -> None:
    """One recipe on both sides, and the two bounds."""
    ours, theirs, between = (a.work / f"{n}.gguf" for n in ("ours", "theirs", "between"))
    converter = [a.their_python, "-c", THEIR_CONVERTER, str(a.llama_cpp), str(source), "--outtype"]
    if recipe == "q8_0":
        steps = [measure([*converter, "q8_0", "--outfile", str(theirs)])]
    else:
        quantize = [sys.executable, "-c", THEIR_QUANTIZER, str(between), str(theirs), str(a.threads)]
        steps = [measure([*converter, "bf16", "--outfile", str(between)]), measure(quantize)]
    command = [sys.executable, "-c", OURS, str(source), str(ours), "-q", recipe, "--threads", str(a.threads)]
    mine = measure(command)
    size = ours.stat().st_size
    their_seconds = sum(s.seconds for s in steps)
    bound_cpu, bound_disk = quantizers_alone(source, recipe, a.threads), disk_alone(a.work / "disk", size)
    print(f"\n{recipe}: output {size / 1e9:.2f} GB, {a.threads} threads")
    print(f"  theirs {their_seconds:7.1f} s  ({' + '.join(f'{s.seconds:.1f}' for s in steps)}), "
          f"anonymous {max(s.anonymous for s in steps) / 2**20:.0f} MiB, "
          f"written {sum(s.written for s in steps) / size:.2f} × output")  # fmt: skip
    print(f"  ours   {mine.seconds:7.1f} s, anonymous {mine.anonymous / 2**20:.0f} MiB, "
          f"written {mine.written / size:.2f} × output")  # fmt: skip
    print(f"  ratio  {mine.seconds / their_seconds:7.2f}  (limit {limit})")
    print(f"  bounds: quantizers alone {bound_cpu:.1f} s (ours {mine.seconds / bound_cpu:.2f} ×, theirs "
          f"{their_seconds / bound_cpu:.2f} ×), disk alone {bound_disk:.1f} s (ours {mine.seconds / bound_disk:.2f} ×)",
          flush=True)  # fmt: skip
    for path in (ours, theirs, between):
        path.unlink(missing_ok=True)


def memory_by_layers(a: argparse.Namespace) -> None:
    """Peak anonymous memory for few and for many layers."""
    for n in (a.layers, 2 * a.layers):
        source = write_checkpoint(a.work / f"holes-{n}", n, a.tokenizer, holes=True)
        out = a.work / "holes.gguf"
        command = [sys.executable, "-c", OURS, str(source), str(out), "-q", "q8_0", "--threads", str(a.threads)]
        print(f"  {n} layers: anonymous {measure(command).anonymous / 2**20:.0f} MiB", flush=True)
        out.unlink()
        shutil.rmtree(source)


def main() -> None:
    """Make the checkpoint, run both sides, print ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("--llama-cpp", type=Path, required=True)
    parser.add_argument("--their-python", required=True)
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--only", choices=["q8_0", "q4_k_m", "memory"])
    a = parser.parse_args()
    a.work.mkdir(parents=True, exist_ok=True)
    if a.only in (None, "q8_0", "q4_k_m"):
        source = write_checkpoint(a.work / "checkpoint", a.layers, a.tokenizer)
        size = sum(p.stat().st_size for p in source.glob("*.safetensors"))
        print(f"checkpoint: Lite's shapes, {a.layers} layers, {size / 1e9:.2f} GB of BF16", flush=True)
        for recipe, limit in (("q8_0", 0.5), ("q4_k_m", 0.85)):
            if a.only in (None, recipe):
                compare(a, source, recipe, limit)
        shutil.rmtree(source)
    if a.only in (None, "memory"):
        print("\nmemory and layers (q8_0, weights of zeros):")
        memory_by_layers(a)


if __name__ == "__main__":
    main()
