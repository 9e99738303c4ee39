"""A model file given to llama.cpp: mapped, not copied, and read ahead only where that helps."""

import ctypes
import os
from pathlib import Path
from typing import Any

from coderv2_local import llama_library
from coderv2_local.engine_errors import EngineError
from coderv2_local.larger_than_memory.lazy_mapping import without_populating
from coderv2_local.llama_library import llama
from coderv2_local.pages_in_memory import all_in_memory
from coderv2_local.placement.load_options import LoadOptions
from coderv2_local.placement.tensor_overrides import experts_on_cpu

LARGE = 1 << 30
"""Bytes of a file from which on entering all its pages into the mapping takes a time that can be felt."""


def load_model(path: Path, options: LoadOptions) -> tuple[Any, list[str]]:
    """Load a file that :func:`check_loadable` has let through.

    Returns:
        The ``llama_model`` pointer, and what the user should know about how it was loaded.

    Raises:
        EngineError: llama.cpp refused it; the message carries what its log said.
    """
    params = llama.llama_model_default_params()
    params.load_mode = llama.LLAMA_LOAD_MODE_MMAP
    params.n_gpu_layers = options.n_gpu_layers
    params.use_extra_bufts = options.repack
    if options.cpu_expert_layers:
        overrides = experts_on_cpu(options.cpu_expert_layers)
        params.tensor_buft_overrides = ctypes.addressof(overrides)

    def load() -> Any:
        return llama.llama_model_load_from_file(os.fsencode(path), params)

    llama_library.forget_log()
    refusal = ""
    if options.stream_experts or _populating_is_waste(path, options):
        model, refusal = without_populating(load)
    else:
        model = load()
    if not model:
        raise EngineError(
            f"{path}: llama.cpp could not load the model: {llama_library.complaints() or 'no reason given'}",
            hint="`coder verify` or `coder convert` on the same file may say more",
        )
    told = options.stream_experts and refusal
    return model, [f"the whole file was read once while loading: {refusal}"] if told else []


def _populating_is_waste(path: Path, options: LoadOptions) -> bool:
    """Is all of the file in memory, so that entering its pages into the mapping at once only delays the first token?

    They are entered as they are touched, then, by all threads, many at a time. A file on disk is better populated,
    which reads it in order. Repacking reads all of it anyhow; a GPU's driver starts threads that would outlive the
    filter under which :func:`without_populating` loads.
    """
    if options.repack or options.n_gpu_layers or llama.llama_supports_gpu_offload():
        return False
    return path.stat().st_size >= LARGE and all_in_memory(path)
