"""The reasons of a placement, in words: a line for each decision."""

from collections.abc import Iterator

from coderv2_local.placement.layout import Layout, layers_on_gpu
from coderv2_local.placement.load_options import DEFAULT_BATCH, LoadOptions
from coderv2_local.placement.load_wishes import LoadWishes
from coderv2_local.placement.machine import Machine
from coderv2_local.placement.memory_classes import ModelMemory, is_small


def reasons(
    model: ModelMemory, machine: Machine, wishes: LoadWishes, options: LoadOptions, layout: Layout
) -> tuple[str, ...]:
    """Why `options` are what they are, with the bytes that decided."""
    return (
        _context(model, wishes, options),
        _gpu(model, machine, wishes, options, layout),
        *_memory(wishes, options, layout),
        _repacking(wishes, options, layout),
        _threads(model, wishes, options),
        _batch(model, wishes, options),
        *_attention(model, wishes, options),
    )


def _context(model: ModelMemory, wishes: LoadWishes, options: LoadOptions) -> str:
    asked = ", as asked for" if wishes.n_ctx else ""
    kind = "" if model.mla else "; the file predates the MLA split, which makes it many times larger"
    cache = gb(model.kv_bytes(options.n_ctx, options.kv_type))
    return f"context: {options.n_ctx} tokens{asked}, {cache} of KV cache{kind}"


def _gpu(model: ModelMemory, machine: Machine, wishes: LoadWishes, options: LoadOptions, layout: Layout) -> str:
    wanted = wishes.n_gpu_layers is not None or wishes.cpu_expert_layers is not None
    if not machine.gpus:
        return "GPU: this build of ggml finds none" + (": what is wanted of it has no effect" if wanted else "")
    n, names, asked = model.config.n_layers, ", ".join(g.name for g in machine.gpus), ", as asked for" if wanted else ""
    if not options.n_gpu_layers:
        return f"GPU: {names} is not used" + (asked if wishes.n_gpu_layers == 0 else ": not even one layer fits there")
    layers = layers_on_gpu(model, options.n_gpu_layers)
    n_experts = len(set(layers) & set(model.expert_layers))
    kept = n_experts - len(options.cpu_expert_layers)
    experts = "no experts" if not kept else f"the experts of {kept} of {n_experts} layers"
    if len(layers) < n:
        part = f"the output and the last {len(layers)} of {n} layers, with {experts}"
    else:
        part = "everything" if kept == n_experts else f"what every token passes, and {experts}"
    return f"GPU: {names} takes {part}{asked}: {gb(layout.gpu)} of {gb(layout.gpu_room)}"


def _memory(wishes: LoadWishes, options: LoadOptions, layout: Layout) -> Iterator[str]:
    mapped = layout.dense + layout.experts
    if not layout.uncached:
        yield f"memory: the {gb(mapped)} that the processor reads fit the {gb(layout.room)} left for them"
    else:
        kept = 1 - layout.uncached / layout.experts
        yield (
            f"memory: {gb(layout.room)} are left for {gb(mapped)}: what every token passes stays in memory, "
            f"and {kept:.0%} of the experts; the others are read from disk when chosen"
        )
    if wishes.expert_memory is not None and not options.stream_experts:
        yield "experts: the memory asked for them is not used, since none are read ahead from disk"
    if options.expert_memory is not None:
        how = f"at most {gb(options.expert_memory)}" if options.expert_memory else "left to the system's file cache"
        yield f"experts: {how}, as asked for"
    if wishes.stream_experts is not None:
        yield f"reading ahead: {'on' if options.stream_experts else 'off'}, as asked for"


def _repacking(wishes: LoadWishes, options: LoadOptions, layout: Layout) -> str:
    if options.repack:
        return f"repacking: as asked for; {gb(layout.dense + layout.experts)} are copied into private memory at load"
    if wishes.repack:
        return "repacking: refused, the copy does not fit beside the file"
    return "repacking: off; it copies the weights into private memory and gains nothing with flash attention"


def _threads(model: ModelMemory, wishes: LoadWishes, options: LoadOptions) -> str:
    if wishes.n_threads:
        why = "as asked for"
    elif is_small(model):
        why = "the model is so small that threads would mostly wait for each other"
    else:
        why = "one for each physical core that this process may use"
    return f"threads: {options.n_threads}, {why}"


def _batch(model: ModelMemory, wishes: LoadWishes, options: LoadOptions) -> str:
    size = min(options.n_ubatch or options.n_batch, options.n_ctx)
    if wishes.n_batch or wishes.n_ubatch:
        why = "as asked for"
    elif size > DEFAULT_BATCH:
        why = "large, since each batch of a prompt brings nearly all experts in anew"
    else:
        why = "more are not faster here, and need larger buffers"
    buffers = model.compute_bytes(options.n_ctx, size, flash_attention=options.flash_attention)
    return f"batch: {size} tokens, {gb(buffers)} of buffers; {why}"


def _attention(model: ModelMemory, wishes: LoadWishes, options: LoadOptions) -> Iterator[str]:
    if options.flash_attention:
        return
    if wishes.flash_attention is None:
        yield f"flash attention: off, with AVX-512 it is slow for prompts where keys have {model.key_width} numbers"
    else:
        yield "flash attention: off, as asked for: short prompts sooner, answers slower, larger buffers"


def gb(nbytes: float) -> str:
    """Bytes for people, in units of 10⁹."""
    digits = 0 if nbytes >= 99.5e9 else 1 if nbytes >= 0.95e9 else 2
    return f"{nbytes / 1e9:.{digits}f} GB"
