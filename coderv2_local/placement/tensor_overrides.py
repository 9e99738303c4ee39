"""Which tensors llama.cpp keeps in main memory although their layer is on a GPU."""

import ctypes
from collections.abc import Collection
from typing import Any

from quant import ggml


class _Override(ctypes.Structure):
    """``struct llama_model_tensor_buft_override`` of llama.h."""

    _fields_ = (("pattern", ctypes.c_char_p), ("buffer_type", ctypes.c_void_p))


def expert_pattern(layers: Collection[int]) -> str:
    """The regular expression that matches the routed experts of `layers`, also where gate and up are one tensor."""
    numbers = "|".join(str(n) for n in sorted(layers))
    return rf"^blk\.({numbers})\.ffn_(gate|up|down|gate_up)_exps\."


def experts_on_cpu(layers: Collection[int]) -> "ctypes.Array[Any]":
    """The value for ``tensor_buft_overrides`` that keeps the routed experts of `layers` in main memory.

    llama.cpp reads it while the model loads: hold on to it until then. It ends with an entry of zeros.
    """
    buffer_type = ggml.library().ggml_backend_cpu_buffer_type
    buffer_type.restype, buffer_type.argtypes = ctypes.c_void_p, []
    pattern = _Override(expert_pattern(layers).encode(), buffer_type())
    return (_Override * 2)(pattern, _Override())
