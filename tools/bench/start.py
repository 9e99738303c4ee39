"""From opening the file to the first token: the engine beside `llama_cpp.Llama(...)` with its defaults, in one run.

    python tools/bench/start.py MODEL.gguf [--pairs 3] [--prompt 4] [--json]

Each start is a process of its own, the two by turns; the clock runs there, from after the imports until the first token
of a prompt of `--prompt` tokens is there. Before each start the file is read once, so that it is in the page cache, and
how much of it is there is reported. Llama's defaults repack the weights into private memory, which takes most of its
time and, for Lite at 4 bits, 6 GB.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))


def start_engine(path: Path, n_prompt: int) -> tuple[Any, dict[str, Any]]:
    """The engine, with its defaults."""
    from coderv2_local.engine import Engine
    from coderv2_local.sampling.sampler import SamplingOptions

    began = time.perf_counter()
    engine = Engine(path)
    loaded = time.perf_counter()
    next(engine.generate([engine.vocabulary.bos] * n_prompt, SamplingOptions(), 1), None)
    return engine, {"load_s": loaded - began, "first_token_s": time.perf_counter() - began}


def start_llama(path: Path, n_prompt: int) -> tuple[Any, dict[str, Any]]:
    """llama-cpp-python's high-level class, with its defaults."""
    from llama_cpp import Llama

    began = time.perf_counter()
    model = Llama(str(path), verbose=False)
    loaded = time.perf_counter()
    next(model.generate([model.token_bos()] * n_prompt, temp=0.0), None)
    return model, {"load_s": loaded - began, "first_token_s": time.perf_counter() - began}


STARTS = {"engine": start_engine, "Llama": start_llama}


def warm(path: Path) -> float:
    """Read the file, so that it is in memory. Returns how much of it is."""
    from coderv2_local.pages_in_memory import share_in_memory

    if share_in_memory([path]) != 1:
        with path.open("rb", buffering=0) as f:
            while f.read(64 << 20):
                pass
    return share_in_memory([path]) or 0.0


def child(name: str, path: Path, n_prompt: int) -> None:
    """One start, in this process; prints what was measured."""
    from coderv2_local.benchmark.process_counters import memory

    model, found = STARTS[name](path, n_prompt)
    used = memory()
    del model  # held until here: what it takes was asked for
    print(json.dumps(found | {"anonymous": used.anonymous if used else None}), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--prompt", type=int, default=4, help="tokens of the prompt")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--child", choices=STARTS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        child(args.child, args.model, args.prompt)
        return
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in STARTS}
    for n in range(args.pairs):
        for name in list(STARTS)[:: 1 if n % 2 == 0 else -1]:
            in_memory = warm(args.model)
            command = [sys.executable, __file__, str(args.model), "--prompt", str(args.prompt), "--child", name]
            began = time.perf_counter()
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            took = time.perf_counter() - began
            runs[name].append(json.loads(done.stdout) | {"in_memory_before": in_memory, "process_s": took})
    ratios = [b["first_token_s"] / a["first_token_s"] for a, b in zip(runs["engine"], runs["Llama"], strict=True)]
    ratio = {"median": statistics.median(ratios), "low": min(ratios), "high": max(ratios)}
    if args.json:
        print(json.dumps({"prompt": args.prompt, "runs": runs, "ratio": ratio}))
        return
    print(f"{args.model.name}, a prompt of {args.prompt} tokens, medians of {args.pairs}")
    for name, found in runs.items():
        load, first, before = (
            statistics.median(r[k] for r in found) for k in ("load_s", "first_token_s", "in_memory_before")
        )
        own = statistics.median(r["anonymous"] or 0 for r in found) / 1e9
        print(f"  {name:<8} loaded {load:7.2f} s  first token {first:7.2f} s  own memory {own:5.2f} GB", end="")
        print(f"  ({before:.0%} of the file in memory before)")
    print(f"  Llama / engine: {ratio['median']:.1f}x ({ratio['low']:.1f}–{ratio['high']:.1f})")


if __name__ == "__main__":
    main()
