"""How far the speeds that `coder plan` expects are from those of the engine, on one file and this machine.

    python tools/bench/plan_speed.py MODEL.gguf [--rounds 4] [--prompt 480] [--tokens 24]

Each round measures the machine, then loads the model and evaluates a prompt of random tokens and some tokens one by
one: each half in a process of its own, so that neither disturbs the other. Run it on an idle machine.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from coderv2_local.engine import Engine
from coderv2_local.placement.load_wishes import LoadWishes
from coderv2_local.placement.memory_classes import memory_of_file
from coderv2_local.placement.place import load_options_for
from coderv2_local.placement.speed import expected_speed, measure_rates, types_of
from converters.gguf_header import read_header

CONTEXT = 4096


def placed(path: Path):
    """The model's bytes, and its placement with a short context."""
    header = read_header(path)
    memory = memory_of_file(header)
    wishes = LoadWishes(n_ctx=min(CONTEXT, memory.config.max_context))
    return memory, load_options_for(path, wishes, header=header)


def expect(path: Path) -> list[float | None]:
    """Tokens a second of a prompt and of an answer, as `coder plan` would say."""
    memory, placement = placed(path)
    speed = expected_speed(memory, placement, measure_rates(types_of(memory), placement.options.n_threads or 1, None))
    return [speed.prompt, speed.decode]


def run(path: Path, prompt: int, tokens: int) -> list[float]:
    """The same, measured: the first prompt after loading, and the median of the tokens."""
    _, placement = placed(path)
    with Engine(path, placement.options) as engine:
        ids = [int(i) for i in np.random.default_rng(0).integers(10, engine.vocabulary.size // 2, prompt + tokens)]
        began = time.perf_counter()
        engine.evaluate(ids[:prompt])
        seconds, times = time.perf_counter() - began, []
        for n in range(prompt, prompt + tokens):
            began = time.perf_counter()
            engine.evaluate(ids[: n + 1])
            times.append(time.perf_counter() - began)
    return [prompt / seconds, float(1 / np.median(times))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--prompt", type=int, default=480)
    parser.add_argument("--tokens", type=int, default=24)
    parser.add_argument("--half", choices=("expect", "run"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.half:
        print(json.dumps(expect(args.model) if args.half == "expect" else run(args.model, args.prompt, args.tokens)))
        return
    for _ in range(args.rounds):
        expected, measured = (
            json.loads(
                subprocess.run([sys.executable, *sys.argv, "--half", half], stdout=subprocess.PIPE, check=True).stdout
            )
            for half in ("expect", "run")
        )
        for what, e, m in zip(("prompt", "answer"), expected, measured, strict=True):
            print(f"{what}: {e:.1f} expected, {m:.1f} measured, {e / m - 1:+.0%}", flush=True)


if __name__ == "__main__":
    main()
