"""ggml's CPU backend: which instruction sets it was built with, and how fast it multiplies a type on this machine."""

import ctypes
import functools
import time
from typing import Any

from quant import ggml
from quant.block_types import F32, BlockType
from quant.ggml import GgmlError

_FEATURES = (
    "sse3", "ssse3", "avx", "avx2", "avx_vnni", "fma", "f16c", "avx512", "avx512_vbmi", "avx512_vnni", "avx512_bf16",
    "amx_int8", "neon", "dotprod", "matmul_int8", "sve", "sme", "riscv_v", "vsx",
)  # fmt: skip
_ROOM = 32 << 20
"""Bytes for ggml's own bookkeeping and scratch space in a measurement."""


class _InitParams(ctypes.Structure):
    """``struct ggml_init_params`` of ggml.h."""

    _fields_ = (("mem_size", ctypes.c_size_t), ("mem_buffer", ctypes.c_void_p), ("no_alloc", ctypes.c_bool))


@functools.cache
def library() -> ctypes.CDLL:
    """``libggml-cpu``, from the folder of ``libggml-base``.

    Raises:
        GgmlError: there is none, as in builds that pick one of several at run time.
    """
    path = ggml.library_path()
    beside = path.with_name(path.name.replace("ggml-base", "ggml-cpu"))
    try:
        lib = ctypes.CDLL(str(beside))
        lib.ggml_cpu_init()
        lib.ggml_graph_compute_with_ctx.restype = ctypes.c_int
        lib.ggml_graph_compute_with_ctx.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int]
    except (OSError, AttributeError) as e:
        raise GgmlError(f"cannot use {beside.name}: {e}") from None
    return lib


def features() -> list[str]:
    """The instruction sets that ggml was built for and this processor has, in ggml's names.

    Raises:
        GgmlError: as :func:`library`.
    """
    lib = library()
    return [name for name in _FEATURES if getattr(lib, f"ggml_cpu_has_{name}", lambda: 0)()]


@functools.cache
def _base() -> ctypes.CDLL:
    pointer, count = ctypes.c_void_p, ctypes.c_int64
    signatures: dict[str, tuple[Any, list[Any]]] = {
        "ggml_init": (pointer, [_InitParams]),
        "ggml_free": (None, [pointer]),
        "ggml_new_tensor_2d": (pointer, [pointer, ctypes.c_int, count, count]),
        "ggml_get_data": (pointer, [pointer]),
        "ggml_mul_mat": (pointer, [pointer, pointer, pointer]),
        "ggml_new_graph": (pointer, [pointer]),
        "ggml_build_forward_expand": (None, [pointer, pointer]),
    }
    lib = ggml.library()
    for name, (result, arguments) in signatures.items():
        function = getattr(lib, name)
        function.restype, function.argtypes = result, arguments
    return lib


def multiply_rate(
    kind: BlockType, tokens: int, threads: int, *, nbytes: int, columns: int = 2048, seconds: float = 0.05
) -> float:
    """How many weights a second ggml multiplies: the fastest of a few products of a matrix with activations.

    Args:
        kind: the matrix's type.
        tokens: columns of activations: 1 as in decoding, more as in a prompt.
        threads: how many work.
        nbytes: the matrix's size; more than the processor's caches to measure memory, less to measure arithmetic.
        columns: of the matrix.
        seconds: how long to repeat, after one product that warms up.

    Returns:
        Weights a second, each weight counted once for every token.

    Raises:
        GgmlError: as :func:`library`.
    """
    cpu, base = library(), _base()
    rows = max(1, nbytes // kind.row_bytes(columns))
    size = rows * kind.row_bytes(columns)
    activations, results = columns * tokens * 4, rows * tokens * 4
    repeats = 16  # each takes scratch space for the activations once more, at most as many bytes
    context = base.ggml_init(_InitParams(size + results + activations * (repeats + 3) + _ROOM, None, False))
    if not context:
        raise GgmlError("ggml has no memory for a measurement")
    try:
        matrix = base.ggml_new_tensor_2d(context, kind.id, columns, rows)
        inputs = base.ggml_new_tensor_2d(context, F32.id, columns, tokens)
        # any bytes that are finite numbers; written, so that each page is memory of its own
        ctypes.memset(base.ggml_get_data(matrix), 0x11, size)
        ctypes.memset(base.ggml_get_data(inputs), 0x11, activations)
        graph = base.ggml_new_graph(context)
        base.ggml_build_forward_expand(graph, base.ggml_mul_mat(context, matrix, inputs))
        cpu.ggml_graph_compute_with_ctx(context, graph, threads)
        times: list[float] = []
        while len(times) < repeats and sum(times) < seconds:
            began = time.perf_counter()
            cpu.ggml_graph_compute_with_ctx(context, graph, threads)
            times.append(time.perf_counter() - began)
    finally:
        base.ggml_free(context)
    return rows * columns * tokens / min(times)
