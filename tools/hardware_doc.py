"""Writes the tables of docs/hardware.md from the code that places models: what to expect of machines not at hand.

    python tools/hardware_doc.py [--check]

The tables stand between ``<!-- table NAME -->`` and ``<!-- end -->``; everything else of the page is written by hand.
"""

import argparse
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from coderv2_local.placement.family_plan import Row, candidates, pace_of, plan_row
from coderv2_local.placement.machine import Gpu, Machine
from coderv2_local.placement.reasons import gb
from coderv2_local.placement.speed import Rates
from coderv2_local.registry import known_model
from quant.block_types import block_type

PAGE = Path(__file__).resolve().parents[1] / "docs" / "hardware.md"
GIB = 1 << 30
OTHER_PROGRAMS = 3 * GIB
"""Taken of main memory by the system, a browser and an editor."""
SCREEN = GIB // 2
"""Taken of a GPU's memory."""
BANDWIDTH = {16: 50e9, 32: 60e9, 64: 65e9, 192: 150e9}
"""RAM in GiB → bytes a second of a laptop with soldered memory, two of desktops, one of a workstation."""
CORES = {16: 6, 32: 8, 64: 8, 192: 16}
DISK = 3e9
"""Bytes a second of a common NVMe disk, many reads in flight."""
STREAMED = {"Q4_K": 35e9, "Q5_0": 20e9, "Q5_K": 24e9, "Q6_K": 29e9, "Q8_0": 22e9, "BF16": 14e9}
COMPUTED = {"Q4_K": 102e9, "Q5_0": 45e9, "Q5_K": 95e9, "Q6_K": 74e9, "Q8_0": 56e9, "BF16": 57e9}
"""Weights a second of one core, of one token and in a batch: measured on one of AMD's cores with AVX-512."""


def machine(ram: int, vram: int = 0) -> Machine:
    """A machine of the tables."""
    gpus = (Gpu("GPU", f"{vram} GB", vram * GIB - SCREEN, vram * GIB),) if vram else ()
    return Machine(CORES[ram], 2 * CORES[ram], (), ram * GIB, ram * GIB - OTHER_PROGRAMS, gpus)


def rates(ram: int) -> Rates:
    """How fast it is taken to be: its cores, or its memory where that is slower."""
    decode = {t: min(CORES[ram] * w, BANDWIDTH[ram] * 8 / block_type(t).bits) for t, w in STREAMED.items()}
    return Rates(decode, {t: CORES[ram] * w for t, w in COMPUTED.items()}, DISK)


def row(name: str, recipe: str, ram: int, vram: int = 0, n_ctx: int | None = None) -> Row:
    """A model on a machine of the tables."""
    (candidate,) = candidates([known_model(name)], [recipe])
    return plan_row(candidate, machine(ram, vram), rates(ram), n_ctx)


def without_gpu() -> Iterator[list[str]]:
    """RAM × model."""
    yield ["RAM", "model", "runs", "context", "prompt", "answer"]
    for ram in (16, 32, 64, 192):
        for name, recipe in (("lite", "moe-4"), ("lite", "moe-8"), ("236b", "moe-4")):
            yield [f"{ram} GB", f"{name}, {recipe}", *_outcome(row(name, recipe, ram))]


def with_gpu() -> Iterator[list[str]]:
    """GPU × model, the main memory that goes with it."""
    yield ["GPU", "RAM", "model", "on the GPU", "runs", "context", "prompt", "answer"]
    cases = [(v, 32, "lite", r) for r in ("moe-4", "moe-8") for v in (8, 16, 24)]
    cases += [(v, ram, "236b", "moe-4") for ram in (64, 192) for v in (8, 16, 24)]
    for vram, ram, name, recipe in cases:
        r = row(name, recipe, ram, vram)
        yield [f"{vram} GB", f"{ram} GB", f"{name}, {recipe}", _on_gpu(r), *_outcome(r)]


def by_class() -> Iterator[list[str]]:
    """Model and recipe → bytes by class."""
    yield ["model", "recipe", "every token passes", "experts", "KV cache at 16K, at 128K", "buffers"]
    for name in ("lite", "236b"):
        for recipe in ("moe-4", "moe-8", "q4_k_m", "q6_k"):
            short, long = (row(name, recipe, 192, n_ctx=n).classes for n in (16_384, 131_072))
            dense = gb(sum(short[k] for k in ("dense", "embedding", "output")))
            buffers = gb(short["compute"] + short["runtime"])
            yield [name, recipe, dense, gb(short["experts"]), f"{gb(short['kv'])}, {gb(long['kv'])}", buffers]


def _outcome(r: Row) -> list[str]:
    if r.placement is None:
        return ["no: " + r.refusal.split(" of memory")[0].split(" needs ")[-1] + " at once", "–", "–", "–"]
    assert r.speed
    assert r.speed.prompt
    assert r.speed.decode
    return [r.where, f"{r.n_ctx // 1024}K", pace_of(r.speed.prompt), pace_of(r.speed.decode)]


def _on_gpu(r: Row) -> str:
    if r.placement is None or not r.placement.options.n_gpu_layers:
        return "nothing"
    options, config = r.placement.options, r.candidate.memory.config
    if options.n_gpu_layers <= config.n_layers:
        return f"{options.n_gpu_layers - 1} of {config.n_layers} layers, no experts"
    kept = config.n_moe_layers - len(options.cpu_expert_layers)
    if kept == config.n_moe_layers:
        return "everything"
    return f"all layers, experts of {kept} of {config.n_moe_layers}" if kept else "all layers, no experts"


TABLES = {"without a GPU": without_gpu, "with a GPU": with_gpu, "by class": by_class}


def filled(page: str) -> str:
    """The page with its tables made anew."""

    def table(found: "re.Match[str]") -> str:
        head, *rows = TABLES[found[1]]()
        lines = [head, ["---"] * len(head), *rows]
        return f"<!-- table {found[1]} -->\n" + "".join(f"| {' | '.join(line)} |\n" for line in lines) + "<!-- end -->"

    return re.sub(r"<!-- table (.+?) -->\n.*?<!-- end -->", table, page, flags=re.S)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="say whether the page is up to date, and change nothing")
    args = parser.parse_args()
    page = PAGE.read_text(encoding="utf-8")
    if args.check:
        sys.exit(0 if filled(page) == page else f"{PAGE} is out of date: run python tools/hardware_doc.py")
    PAGE.write_text(filled(page), encoding="utf-8")


if __name__ == "__main__":
    main()
