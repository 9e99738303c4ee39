"""How a model is put on a machine: context, GPU layers, experts, threads, batches; each decision with its reason.

:func:`place` decides from numbers alone, so that it can be asked about machines that are not at hand. What the user
has decided is taken as it is; only what cannot work is refused.
"""

from dataclasses import dataclass, replace
from pathlib import Path

from coderv2_local.placement.layout import Layout, fill_gpus, gpu_budget, lay_out
from coderv2_local.placement.load_options import DEFAULT_BATCH, LoadOptions
from coderv2_local.placement.load_wishes import NO_WISHES, LoadWishes
from coderv2_local.placement.machine import Machine, this_machine
from coderv2_local.placement.memory_classes import ModelMemory, is_small, memory_of_file
from coderv2_local.placement.reasons import gb, reasons
from converters.gguf_header import GgufHeader, read_header
from quant.errors import CoderError, InputError

CONTEXTS = (32_768, 16_384, 8_192, 4_096, 2_048)
"""The usual contexts, where the user asks for none; the first only where memory is plentiful."""
SMALL_SHARE = 0.1
"""A context or a batch that takes at most this share of the memory takes nothing that matters."""
LARGE_BATCHES = (2_048, 1_024)
"""A prompt's batch reads nearly every expert: where reading is slow, the fewer batches the better."""
AVX512_STEP = 64
"""Numbers of a key that ggml's AVX-512 code multiplies at once; what is left over it takes one by one."""


class PlacementError(CoderError):
    """The model does not fit this machine, however it is placed."""


@dataclass(frozen=True)
class Placement:
    """How to load a model, and why so.

    Attributes:
        options: for the engine.
        layout: the bytes that come of it.
        reasons: a line for each decision.
    """

    options: LoadOptions
    layout: Layout
    reasons: tuple[str, ...]


def load_options_for(path: Path, wishes: LoadWishes = NO_WISHES, *, header: GgufHeader | None = None) -> Placement:
    """Place the model in a file on this machine.

    Args:
        path: of the GGUF.
        wishes: what the user has decided.
        header: of the file, where it has been read already.

    Raises:
        InputError: no such file, not a model of this family, or a context longer than the model's.
        PlacementError: the model does not fit.
    """
    return place(memory_of_file(header or read_header(path)), this_machine(), wishes, name=path.name)


def place(
    model: ModelMemory, machine: Machine, wishes: LoadWishes = NO_WISHES, *, name: str = "the model"
) -> Placement:
    """Decide how `model` is put on `machine`.

    Args:
        model: its bytes by class.
        machine: what there is.
        wishes: what the user has decided.
        name: how messages call the model.

    Raises:
        InputError: a wish that the model cannot meet.
        PlacementError: what every token needs does not fit, or what the user wants on the GPUs.
    """
    options = _settle(_context(model, machine, wishes), model, machine, wishes)
    layout = lay_out(model, machine, options)
    if options.repack and (layout.uncached or not layout.possible):
        placed = place(
            model, machine, replace(wishes, repack=False), name=name
        )  # nothing else gives way to a refused copy
        return replace(placed, reasons=reasons(model, machine, wishes, placed.options, placed.layout))
    if not layout.possible:
        raise _does_not_fit(model, machine, wishes, options, layout, name)
    stream = layout.uncached > 0 if wishes.stream_experts is None else wishes.stream_experts
    options = replace(options, stream_experts=stream, expert_memory=wishes.expert_memory if stream else None)
    return Placement(options, layout, reasons(model, machine, wishes, options, layout))


def _settle(n_ctx: int, model: ModelMemory, machine: Machine, wishes: LoadWishes) -> LoadOptions:
    """Everything but the context: GPU layers, experts, batches."""
    n_batch = wishes.n_batch or max(DEFAULT_BATCH, wishes.n_ubatch or 0)
    plain = LoadOptions(
        n_ctx=n_ctx,
        n_threads=wishes.n_threads or (1 if is_small(model) else machine.cores),
        n_batch=n_batch,
        n_ubatch=min(n_batch, wishes.n_ubatch or DEFAULT_BATCH),
        flash_attention=_flash_attention(model, machine, wishes),
        kv_type=wishes.kv_type,
        repack=wishes.repack,
    )

    def settled(options: LoadOptions) -> LoadOptions:
        return fill_gpus(model, machine, options, wishes) if machine.gpus else options

    options = settled(plain)
    layout = lay_out(model, machine, options)
    slow = layout.uncached or (options.n_gpu_layers and layout.experts)
    if not slow or wishes.n_batch or wishes.n_ubatch:
        return options
    whole = gpu_budget(machine.gpus) if options.n_gpu_layers else machine.available
    for size in LARGE_BATCHES:
        larger = replace(plain, n_batch=size, n_ubatch=size)
        larger_buffers, buffers = (
            model.compute_bytes(n_ctx, n, flash_attention=plain.flash_attention) for n in (size, DEFAULT_BATCH)
        )
        candidate = settled(larger)
        if larger_buffers - buffers <= SMALL_SHARE * whole and lay_out(model, machine, candidate).possible:
            return candidate
    return options


def _flash_attention(model: ModelMemory, machine: Machine, wishes: LoadWishes) -> bool:
    """On, but for infilling where llama.cpp's is slow: `tiny`'s keys have 160 numbers, so 32 are left over.

    Without it 80 tokens after 1500 then take half the time. A token of an answer takes a tenth more there and three
    times as long in a short context, so it stays on for chat, and for Lite's keys of 576 numbers.
    """
    if wishes.flash_attention is not None:
        return wishes.flash_attention
    is_fast = bool(machine.gpus) or "avx512" not in machine.features or model.key_width % AVX512_STEP == 0
    return is_fast or not wishes.infill


def _context(model: ModelMemory, machine: Machine, wishes: LoadWishes) -> int:
    """The context asked for, or the largest usual one that costs no speed."""
    longest = model.config.max_context
    if wishes.n_ctx:
        if wishes.n_ctx > longest:
            raise InputError(
                f"a context of {wishes.n_ctx} tokens is longer than the model's, {longest}",
                hint=f"--ctx {longest} or less",
            )
        return wishes.n_ctx
    steps = sorted({min(step, longest) for step in CONTEXTS}, reverse=True)
    whole = machine.available + sum(g.free for g in machine.gpus if not g.shared)
    laid = [(n, lay_out(model, machine, _settle(n, model, machine, wishes))) for n in steps]
    fewest = min((layout.uncached for _, layout in laid if layout.possible), default=0)
    for n, layout in laid:
        # on a GPU a longer context takes the place of experts, until all of them have one
        held = layout.gpu + layout.private + layout.dense + layout.experts
        plentiful = n < CONTEXTS[0] or (held <= whole / 2 and not (layout.gpu and layout.experts))
        small = model.kv_bytes(n, wishes.kv_type) <= SMALL_SHARE * whole
        if plentiful and layout.possible and (small or layout.uncached == fewest == 0):
            return n
    return next((n for n, layout in laid if layout.possible), steps[-1])


def _does_not_fit(
    model: ModelMemory, machine: Machine, wishes: LoadWishes, options: LoadOptions, layout: Layout, name: str
) -> PlacementError:
    if not layout.fits_gpu:
        return _does_not_fit_gpu(model, machine, wishes, options, layout, name)
    need = layout.private + layout.dense
    shorter = [n for n in CONTEXTS if n < options.n_ctx]
    for n in shorter if wishes.n_ctx else ():
        if lay_out(model, machine, _settle(n, model, machine, wishes)).possible:
            return PlacementError(
                f"{name} with a context of {options.n_ctx} tokens needs {gb(need)} of memory at once; "
                f"{gb(machine.available)} can be had",
                hint=f"--ctx {n} fits",
            )
    return PlacementError(
        f"{name} needs {gb(need)} of memory at once, its experts not counted; {gb(machine.available)} can be had",
        hint="`coder plan` names the model for this machine",
    )


def _does_not_fit_gpu(
    model: ModelMemory, machine: Machine, wishes: LoadWishes, options: LoadOptions, layout: Layout, name: str
) -> PlacementError:
    """Layers that were asked for: of its own accord, placement puts nothing on a GPU that does not fit."""

    def fits(n_gpu_layers: int) -> bool:
        fewer = replace(wishes, n_gpu_layers=n_gpu_layers)
        return lay_out(model, machine, _settle(options.n_ctx, model, machine, fewer)).possible

    most = next(filter(fits, range(options.n_gpu_layers - 1, 0, -1)), 0)
    kept = "" if wishes.cpu_expert_layers is None else ", with their experts,"
    return PlacementError(
        f"{name} with a context of {options.n_ctx} tokens: the {options.n_gpu_layers} layers that are wanted on the "
        f"GPU{kept} need {gb(layout.gpu)} there; {gb(layout.gpu_room)} can be had",
        hint=f"`coder config load.gpu_layers {most}` would just fit",
    )
