"""What lies where when a model is loaded in one particular way: bytes on the GPUs, in private and in mapped memory."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from coderv2_local.placement.load_options import LoadOptions
from coderv2_local.placement.load_wishes import LoadWishes
from coderv2_local.placement.machine import Gpu, Machine
from coderv2_local.placement.memory_classes import ModelMemory

GPU_RESERVE = 512 << 20
"""Left free on each GPU: the driver's own context and the screen."""
MAIN_RESERVE = 512 << 20
"""Left free in main memory, beyond what other programs hold now."""
HOST_ACTIVATIONS = 8
"""Rows of the model's width that a batch needs in main memory when all layers are on a GPU."""


@dataclass(frozen=True)
class Layout:
    """Bytes by place.

    Attributes:
        gpu: on all GPUs: weights, KV cache and buffers.
        private: anonymous main memory: KV cache, compute buffers, the program; copies of the weights where repacked.
        dense: of the mapped file, what every token reads from main memory.
        experts: of the mapped file, the routed experts that are computed from main memory.
        room: what main memory has left for the mapped file.
        gpu_room: what the GPUs have.
    """

    gpu: int
    private: int
    dense: int
    experts: int
    room: int
    gpu_room: int

    @property
    def possible(self) -> bool:
        """Does main memory hold at least what every token reads, and do the GPUs hold what is put there?"""
        return self.dense <= self.room and self.fits_gpu

    @property
    def fits_gpu(self) -> bool:
        """Do the GPUs hold what is put there? Nothing fits everywhere."""
        return self.gpu <= self.gpu_room

    @property
    def uncached(self) -> int:
        """Bytes of the experts for which main memory has no room: they come from disk."""
        return min(self.experts, max(0, self.dense + self.experts - self.room))


def lay_out(model: ModelMemory, machine: Machine, options: LoadOptions) -> Layout:
    """What lies where under `options`, whose `n_ctx` is set."""
    c, n_ubatch = model.config, options.n_ubatch or options.n_batch
    gpu_layers = layers_on_gpu(model, options.n_gpu_layers)
    cpu_layers = set(range(c.n_layers)) - set(gpu_layers)
    moved = cpu_layers | set(options.cpu_expert_layers)
    dense = model.nbytes("embedding") + model.nbytes("dense", cpu_layers)
    experts = model.nbytes("experts", moved)
    gpu = model.nbytes("dense", gpu_layers) + model.nbytes("experts", set(gpu_layers) - moved)
    gpu += model.kv_bytes(options.n_ctx, options.kv_type, len(gpu_layers))
    private = model.runtime_bytes + model.kv_bytes(options.n_ctx, options.kv_type, len(cpu_layers))
    compute = model.compute_bytes(options.n_ctx, n_ubatch, flash_attention=options.flash_attention)
    if options.n_gpu_layers:
        gpu += model.nbytes("output") + compute * max(1, len(machine.gpus))
        private += HOST_ACTIVATIONS * 4 * c.hidden_size * n_ubatch
    else:
        dense += model.nbytes("output")
    if cpu_layers:
        private += compute
    if options.repack:
        private += dense + experts
    taken = private + (gpu if any(g.shared for g in machine.gpus) else 0)
    return Layout(gpu, private, dense, experts, machine.available - MAIN_RESERVE - taken, gpu_budget(machine.gpus))


def layers_on_gpu(model: ModelMemory, n_gpu_layers: int) -> range:
    """The layers that llama.cpp puts on GPUs: the last ones; the output counts as one layer more."""
    n = model.config.n_layers
    return range(max(0, n + 1 - n_gpu_layers), n)


def gpu_budget(gpus: Sequence[Gpu]) -> int:
    """Bytes of all GPUs that may be filled."""
    return sum(max(0, g.free - GPU_RESERVE) for g in gpus)


def fill_gpus(model: ModelMemory, machine: Machine, options: LoadOptions, wishes: LoadWishes) -> LoadOptions:
    """`options` with as much on the GPUs as fits: the dense part and KV cache of all layers first, then experts.

    Experts fill what is left from the last layer on. Where not even the dense part of all layers fits, the last layers
    are taken whose dense part does. What the user has decided of this is kept: also where it does not fit, which
    :attr:`Layout.possible` tells.
    """
    n, asked = model.config.n_layers, wishes.n_gpu_layers

    def candidate(n_gpu_layers: int, kept: Collection[int]) -> LoadOptions:
        """With the experts of the layers `kept` on the GPUs, too, unless the user has named those that are not."""
        on_gpu = [i for i in model.expert_layers if i in layers_on_gpu(model, n_gpu_layers)]
        if wishes.cpu_expert_layers is None:
            experts = tuple(i for i in on_gpu if i not in kept)
        else:
            experts = tuple(i for i in on_gpu if i in wishes.cpu_expert_layers)
        return replace(options, n_gpu_layers=n_gpu_layers, cpu_expert_layers=experts)

    def fits(chosen: LoadOptions) -> bool:
        return lay_out(model, machine, chosen).fits_gpu

    counts = range(n + 1, 1, -1) if asked is None else [min(asked, n + 1)]
    for n_gpu_layers in counts:
        least = candidate(n_gpu_layers, ())
        if fits(least):
            fuller = (candidate(n_gpu_layers, range(first, n)) for first in model.expert_layers)
            return next(filter(fits, fuller), least)
    return replace(options, n_gpu_layers=0, cpu_expert_layers=()) if asked is None else least
