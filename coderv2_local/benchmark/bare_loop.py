"""llama.cpp with nothing around it: the loop that the engine is measured against."""

import ctypes
import os
import time
from collections.abc import Sequence
from pathlib import Path

from coderv2_local import llama_library
from coderv2_local.benchmark.loop_process import LoopError
from coderv2_local.benchmark.process_counters import bytes_read, since
from coderv2_local.benchmark.runs import Run
from coderv2_local.llama_library import llama
from coderv2_local.placement.load_options import KV_TYPES, LoadOptions
from coderv2_local.placement.tensor_overrides import experts_on_cpu


class BareLoop:
    """llama.cpp's low-level functions, called one after the other.

    Args:
        path: a GGUF file that the engine takes.
        options: all of them decided: those of an engine, context and threads included.
        banned: ids that are never chosen.

    Raises:
        LoopError: llama.cpp refused it.
    """

    def __init__(self, path: Path, options: LoadOptions, banned: Sequence[int]) -> None:
        llama_library.start()
        params = llama.llama_model_default_params()
        params.load_mode = llama.LLAMA_LOAD_MODE_MMAP
        params.n_gpu_layers = options.n_gpu_layers
        params.use_extra_bufts = options.repack
        if options.cpu_expert_layers:
            overrides = experts_on_cpu(options.cpu_expert_layers)
            params.tensor_buft_overrides = ctypes.addressof(overrides)
        self._model = llama.llama_model_load_from_file(os.fsencode(path), params)
        params = llama.llama_context_default_params()
        params.n_ctx, params.n_seq_max = options.n_ctx, 1
        params.n_batch, params.n_ubatch = options.n_batch, min(options.n_ubatch or options.n_batch, options.n_batch)
        params.n_threads = params.n_threads_batch = options.n_threads
        params.flash_attn_type = int(options.flash_attention)
        params.type_k = params.type_v = KV_TYPES[options.kv_type]
        params.no_perf = True
        self._context = llama.llama_init_from_model(self._model, params) if self._model else None
        if not self._context:
            raise LoopError(f"{path}: llama.cpp could not load it a second time: {llama_library.complaints()}")
        self._n_batch = options.n_batch
        self._chain = llama.llama_sampler_chain_init(llama.llama_sampler_chain_default_params())
        if banned:
            size = llama.llama_vocab_n_tokens(llama.llama_model_get_vocab(self._model))
            biases = (llama.llama_logit_bias * len(banned))(*((i, -float("inf")) for i in banned))
            llama.llama_sampler_chain_add(self._chain, llama.llama_sampler_init_logit_bias(size, len(banned), biases))
        llama.llama_sampler_chain_add(self._chain, llama.llama_sampler_init_greedy())

    def run(self, ids: Sequence[int], n_tokens: int) -> Run:
        """Evaluate a prompt from nothing, and decode."""
        llama.llama_memory_clear(llama.llama_get_memory(self._context), False)
        began = time.perf_counter()
        for start in range(0, len(ids), self._n_batch):
            self._decode(ids[start : start + self._n_batch])
        found = [self._sample()]
        first, read = time.perf_counter(), bytes_read()
        for _ in range(n_tokens):
            self._decode(found[-1:])
            found.append(self._sample())
        return Run(first - began, time.perf_counter() - first, tuple(found), since(read))

    def _decode(self, ids: Sequence[int]) -> None:
        tokens = (llama.llama_token * len(ids))(*ids)
        if status := llama.llama_decode(self._context, llama.llama_batch_get_one(tokens, len(ids))):
            raise LoopError(f"llama.cpp could not evaluate a batch (status {status})")

    def _sample(self) -> int:
        return int(llama.llama_sampler_sample(self._chain, self._context, -1))
