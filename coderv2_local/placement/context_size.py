"""Is there memory for a context? Asked before llama.cpp, which takes seconds to find out, or is killed over it."""

import psutil

from coderv2_local.placement.cgroups import memory_limit
from coderv2_local.placement.load_options import LoadOptions
from coderv2_local.placement.memory_classes import KV_STEP, memory_of_file
from converters.gguf_header import GgufHeader
from quant.errors import InputError

GIB = 1 << 30


def check_context(header: GgufHeader, n_ctx: int, options: LoadOptions) -> None:
    """Refuse a KV cache that is larger than the memory that can be had. What lies on a GPU is not looked at.

    Raises:
        InputError: with both sizes, and the longest context that there is memory for.
    """
    if n_ctx < 1:
        raise InputError(f"a context of {n_ctx} tokens is none", hint="--ctx 0 takes the model's own")
    if options.n_gpu_layers:
        return
    model = memory_of_file(header)
    needed = model.kv_bytes(n_ctx, options.kv_type)
    available = psutil.virtual_memory().available
    if limit := memory_limit():
        available = min(available, limit[1])
    if needed > available:
        fits = available // model.kv_bytes(KV_STEP, options.kv_type) * KV_STEP
        raise InputError(
            f"a context of {n_ctx} tokens needs {needed / GIB:.1f} GiB of memory; {available / GIB:.1f} GiB can be had",
            hint=f"--ctx {fits} would just fit",
        )
