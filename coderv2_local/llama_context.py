"""One context of llama.cpp: a KV cache of a fixed length, its compute buffers, and what is evaluated, as bytes."""

import ctypes
from typing import Any

import numpy as np
import numpy.typing as npt

from coderv2_local import llama_library
from coderv2_local.engine_errors import EngineError
from coderv2_local.hooks import Dispatcher
from coderv2_local.llama_library import llama
from coderv2_local.placement.load_options import KV_TYPES, LoadOptions

SEQUENCE = 0  # the only one


class LlamaContext:
    """A ``llama_context`` with one sequence, released by :meth:`close`.

    Args:
        model: a ``llama_model`` pointer that outlives this object.
        size: length in tokens.
        options: batches, threads, attention, type of the KV cache; `n_threads` is set.
        dispatcher: of the hooks on the eval callback; it outlives this object, too.

    Attributes:
        handle: the ``llama_context`` pointer.
        memory: the pointer to its KV cache.

    Raises:
        EngineError: llama.cpp made none; the message carries what its log said.
    """

    def __init__(self, model: Any, size: int, options: LoadOptions, dispatcher: Dispatcher | None) -> None:
        self.size = size
        params = llama.llama_context_default_params()
        params.n_ctx = size
        params.n_batch = options.n_batch
        params.n_ubatch = min(options.n_ubatch or options.n_batch, options.n_batch)
        params.n_seq_max = 1
        params.n_threads = params.n_threads_batch = options.n_threads
        params.flash_attn_type = int(options.flash_attention)
        params.type_k = params.type_v = KV_TYPES[options.kv_type]
        params.no_perf = True
        if dispatcher:
            params.cb_eval = ctypes.cast(dispatcher.callback, llama.ggml_backend_sched_eval_callback)
        llama_library.forget_log()
        self.handle: Any = llama.llama_init_from_model(model, params)
        if not self.handle:
            raise EngineError(
                f"no context of {size} tokens: {llama_library.complaints() or 'no reason given'}",
                hint="a smaller --ctx needs less memory",
            )
        self.memory: Any = llama.llama_get_memory(self.handle)

    def forget(self, start: int) -> None:
        """Drop what is evaluated from position `start` on."""
        llama.llama_memory_seq_rm(self.memory, SEQUENCE, start, -1)

    def state(self) -> npt.NDArray[np.uint8]:
        """A copy of what is evaluated: (bytes,). The length of the context is not part of it.

        Raises:
            EngineError: llama.cpp could not write it.
        """
        size = llama.llama_state_seq_get_size(self.handle, SEQUENCE)
        data = np.empty(size, np.uint8)
        written = llama.llama_state_seq_get_data(self.handle, _bytes_pointer(data), size, SEQUENCE)
        if not 0 < written <= size:
            raise EngineError("llama.cpp could not copy its state")
        return data[:written]

    def set_state(self, data: npt.NDArray[np.uint8]) -> None:
        """Replace what is evaluated by what :meth:`state` gave.

        Raises:
            EngineError: llama.cpp did not take it; nothing is evaluated now.
        """
        self.forget(0)
        llama_library.forget_log()
        if llama.llama_state_seq_set_data(self.handle, _bytes_pointer(data), len(data), SEQUENCE) != len(data):
            self.forget(0)
            raise EngineError(f"llama.cpp did not take a state: {llama_library.complaints() or 'no reason given'}")

    def close(self) -> None:
        """Release it. Safe to call twice."""
        if self.handle:
            llama.llama_free(self.handle)
            self.handle = None


def _bytes_pointer(data: npt.NDArray[np.uint8]) -> Any:
    return data.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8))
