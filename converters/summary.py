"""What a plan comes to: a row for each class of tensors, the bytes, the bits a weight, and the expected time."""

import math
import re
import time
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from converters.plan import Plan, PlannedTensor
from quant import ggml
from quant.block_types import BlockType

_CLASSES = (
    ("routed experts", re.compile(r"_exps\.")),
    ("shared experts", re.compile(r"_shexp\.")),
    ("router", re.compile(r"ffn_gate_inp\.")),
    ("norms", re.compile(r"_norm\.weight$")),
    ("attention", re.compile(r"\.attn_")),
    ("dense FFN", re.compile(r"\.ffn_")),
    ("embeddings", re.compile(r"^token_embd\.")),
    ("output", re.compile(r"^output\.")),
)
COPY_SPEED = 1.5e9
"""Bytes a second taken for copied tensors, which a disk limits and not the processor."""


@dataclass(frozen=True)
class Row:
    """The tensors of one class that share a type."""

    tensors: str
    """The class, for example "routed experts"."""
    count: int
    type: str
    weights: int
    bytes: int
    bits_a_weight: float
    note: str = ""


def class_of(name: str) -> str:
    """The class of a tensor, by its GGUF name."""
    return next((label for label, pattern in _CLASSES if pattern.search(name)), "other")


def rows(plan: Plan) -> list[Row]:
    """The plan, a row for each class, type and note, in the order of the classes."""
    groups: dict[tuple[str, str, str], list[PlannedTensor]] = {}
    for t in plan.tensors:
        groups.setdefault((class_of(t.wanted.name), t.info.type.name, t.note), []).append(t)
    order = [label for label, _ in _CLASSES] + ["other"]
    out = []
    for (label, kind, note), tensors in sorted(groups.items(), key=lambda g: (order.index(g[0][0]), g[0])):
        weights = sum(math.prod(t.info.shape) for t in tensors)
        size = sum(t.info.nbytes for t in tensors)
        out.append(Row(label, len(tensors), kind, weights, size, 8 * size / weights, note))
    return out


def expected_seconds(plan: Plan, threads: int) -> float:
    """The expected time, from a tenth of a second's trial of the quantizers that the plan uses on this machine.

    The disk is not measured: on one slower than the quantizers it takes longer.
    """
    work: dict[tuple[str, bool], int] = {}
    copied = 0
    for t in plan.tensors:
        if t.copied:
            copied += t.info.nbytes
        else:
            key = (t.info.type.name, t.importance is not None)
            work[key] = work.get(key, 0) + math.prod(t.info.shape)
    types = {t.info.type.name: t.info.type for t in plan.tensors}
    seconds = sum(n * _seconds_a_weight(types[name], weighted) for (name, weighted), n in work.items())
    return seconds / threads + copied / COPY_SPEED


def _seconds_a_weight(kind: BlockType, weighted: bool) -> float:
    values = np.random.default_rng(0).standard_normal((16, 2048), dtype=np.float32)
    importance = np.ones(2048, dtype=np.float32) if weighted else None
    out = ggml.quantize(values, kind, importance=importance)  # the first call sets tables up
    start, count = time.perf_counter(), 0
    while time.perf_counter() - start < 0.02:
        ggml.quantize(values, kind, out, importance=importance)
        count += values.size
    return (time.perf_counter() - start) / count


def as_json(plan: Plan, threads: int, bytes_on_disk: int) -> dict[str, Any]:
    """The plan for programs.

    Args:
        plan: the plan.
        threads: how many would work.
        bytes_on_disk: what an earlier, interrupted run has written already.
    """
    return {
        "source": plan.source,
        "recipe": plan.recipe,
        "files": [{"name": f.path.name, "bytes": f.size} for f in plan.files],
        "bytes": plan.total_bytes,
        "bytes_needed": max(0, plan.total_bytes - bytes_on_disk),
        "weights": plan.weights,
        "bits_a_weight": round(plan.bits_a_weight, 4),
        "expected_seconds": round(expected_seconds(plan, threads), 1),
        "threads": threads,
        "tensors": [asdict(row) for row in rows(plan)],
        "notices": list(plan.notices),
    }
