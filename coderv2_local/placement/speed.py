"""The speed to expect of a placement, from what a token reads and computes and how fast this machine does both.

A token passes every dense tensor and the experts chosen for it. In main memory the time is that of ggml's own matrix
products, measured on this machine for the file's types; on a GPU it is bytes over an assumed bandwidth; what is not in
memory is bytes over the disk's measured speed. docs/hardware.md says how far the answers are off.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Literal

from coderv2_local.placement.layout import layers_on_gpu
from coderv2_local.placement.memory_classes import ModelMemory, Weights, weights_in
from coderv2_local.placement.place import Placement
from quant.block_types import BlockType, block_type
from quant.ggml_cpu import multiply_rate

DECODE_SHARE = 0.7
"""Of the speed of one large product, what a whole token reaches: its products are small, and threads wait between."""
PROMPT_SHARE = 0.5
"""The same for a batch of a prompt, the first one after loading."""
SECONDS_A_LAYER, SECONDS_A_LAYER_IN_A_BATCH = 80e-6, 12e-6
"""Of a token: norms, attention over a short context, waiting. What a very small model's speed consists of."""
PROMPT_TOKENS = 48
"""Tokens that share an expert in a batch of 512: in Lite, 512 · 6 of 64."""
LARGE_MATRIX, SMALL_MATRIX = 96 << 20, 2 << 20
"""Bytes: more than the processor's caches hold, so that memory is measured; less, so that arithmetic is."""
GPU_BANDWIDTH = 300e9 * 0.5
"""Bytes a second: a mid-range GPU's memory, half of it reached. Assumed, not measured."""
GPU_ARITHMETIC = 10e12
"""Weights a second in a batch. Assumed, not measured."""
BUS = 12e9
"""Bytes a second from main memory to a GPU: a batch's experts are copied there. Assumed, not measured."""
FAULTS_SHARE = 0.1
"""Of the disk's speed, what page faults reach, one read at a time."""
Place = Literal["gpu", "bus", "main"]
"""Where weights are computed: `bus`, in main memory, but in a batch on the GPU, copied there."""
IGNORED_SHARE = 0.02
"""Types that hold less than this share of what a token reads are not measured."""


@dataclass(frozen=True)
class Rates:
    """How fast a machine is.

    Attributes:
        decode: weights a second of one token, by type, all threads together.
        prompt: the same in a batch, each weight counted for each token.
        disk: bytes a second, several reads in flight; None where it was not measured.
    """

    decode: Mapping[str, float]
    prompt: Mapping[str, float]
    disk: float | None = None


@dataclass(frozen=True)
class Speed:
    """Tokens a second, and why.

    Attributes:
        prompt: of a prompt's evaluation; None where the disk's share is not known.
        decode: of an answer; likewise.
        reasons: what the time goes into.
    """

    prompt: float | None
    decode: float | None
    reasons: tuple[str, ...]


def measure_rates(types: Collection[str], threads: int, disk: float | None) -> Rates:
    """Measure ggml's products of some types here, about 0.15 s each.

    Args:
        types: names of block types.
        threads: that will work.
        disk: bytes a second, from `disk_speed`.

    Raises:
        GgmlError: ggml's CPU library cannot be used.
    """
    kinds = [block_type(t) for t in types]

    def stream(kind: BlockType) -> float:
        # on a busy machine threads wait for each other: what one reaches alone is the least
        alone = multiply_rate(kind, 1, 1, nbytes=LARGE_MATRIX, seconds=0.02)
        return max(alone, multiply_rate(kind, 1, threads, nbytes=LARGE_MATRIX, seconds=0.05))

    def compute(kind: BlockType) -> float:
        return threads * multiply_rate(kind, PROMPT_TOKENS, 1, nbytes=SMALL_MATRIX, seconds=0.03)

    decode = {kind.name: stream(kind) for kind in kinds}
    prompt = {kind.name: compute(kind) for kind in kinds}
    return Rates(decode, prompt, disk)


def types_of(model: ModelMemory) -> set[str]:
    """The types that make up what a token reads, those of a small share left out."""
    read: dict[str, float] = {}
    for w in model.weights:
        read[w.type] = read.get(w.type, 0) + bytes_a_token(model, w)
    whole = sum(read.values())
    return {t for t, n in read.items() if n >= IGNORED_SHARE * whole}


def bytes_a_token(model: ModelMemory, w: Weights) -> float:
    """Bytes of some weights that one token reads: of the experts those it is sent to, of the embedding one row."""
    c = model.config
    if w.kind == "experts":
        return w.nbytes * c.n_experts_per_token / c.n_routed_experts
    return w.nbytes / c.vocab_size if w.kind == "embedding" else w.nbytes


def expected_speed(model: ModelMemory, placement: Placement, rates: Rates) -> Speed:
    """The speed to expect in a short context; attention over many thousands of tokens takes more."""
    options, layout, n_layers = placement.options, placement.layout, model.config.n_layers
    n_ubatch = options.n_ubatch or options.n_batch
    by_place: dict[Place, list[Weights]] = {"gpu": [], "bus": [], "main": []}
    for w in model.weights:
        by_place[_place(w, model, placement)].append(w)
    from_main = [w for w in by_place["bus"] + by_place["main"] if w.type in rates.decode]
    gpu_bytes, main_bytes = (sum(bytes_a_token(model, w) for w in ws) for ws in (by_place["gpu"], from_main))

    products = sum(_weights(model, w) / rates.decode[w.type] for w in from_main) / DECODE_SHARE
    on_gpu = gpu_bytes / GPU_BANDWIDTH
    rest = n_layers * SECONDS_A_LAYER
    in_batch = [w for w in from_main if w in by_place["main"] and w.kind != "output"]  # only the last token has logits
    batch = sum(_weights(model, w) / rates.prompt[w.type] for w in in_batch) / PROMPT_SHARE
    batch += sum(_weights(model, w) for w in by_place["gpu"] + by_place["bus"]) / GPU_ARITHMETIC
    batch += sum(w.nbytes for w in by_place["bus"]) / BUS / n_ubatch
    batch += n_layers * SECONDS_A_LAYER_IN_A_BATCH
    parts = [f"{products * 1e3:.3g} ms for {main_bytes / 1e9:.2f} GB in main memory"] if main_bytes else []
    if gpu_bytes:
        parts.append(f"{on_gpu * 1e3:.3g} ms for {gpu_bytes / 1e9:.2f} GB on the GPU (its speed is assumed)")
    missed = 0.0
    if layout.uncached:
        if not rates.disk:
            return Speed(None, None, ("experts come from a disk whose speed is not known",))
        disk = rates.disk * (1 if options.stream_experts else FAULTS_SHARE)
        share = layout.uncached / layout.experts
        nbytes = share * sum(bytes_a_token(model, w) for w in by_place["bus"] + by_place["main"] if w.kind == "experts")
        missed = nbytes / disk
        batch += layout.uncached / disk / n_ubatch
        parts.append(f"{missed * 1e3:.3g} ms for {nbytes / 1e9:.2f} GB from disk at {disk / 1e9:.2g} GB a second")
    decode = products + on_gpu + rest + missed
    parts.append(f"{rest * 1e3:.2g} ms for the rest")
    return Speed(1 / batch, 1 / decode, (f"a token takes {decode * 1e3:.3g} ms: {', '.join(parts)}",))


def _place(w: Weights, model: ModelMemory, placement: Placement) -> Place:
    options = placement.options
    if w.kind == "output" and options.n_gpu_layers:
        return "gpu"
    if w.layer in layers_on_gpu(model, options.n_gpu_layers):
        return "bus" if w.kind == "experts" and w.layer in options.cpu_expert_layers else "gpu"
    return "main"


def _weights(model: ModelMemory, w: Weights) -> float:
    """How many weights one token is multiplied with."""
    return weights_in(bytes_a_token(model, w), w.type)
