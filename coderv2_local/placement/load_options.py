"""How a model is put on this machine: what placement decides, and the user may override."""

from dataclasses import dataclass
from typing import Literal

KvType = Literal["f16", "f32"]
KV_TYPES = {"f16": 1, "f32": 0}  # ggml_type
DEFAULT_CONTEXT = 16_384
DEFAULT_BATCH = 512


@dataclass(frozen=True)
class LoadOptions:
    """Options of loading a model and making a context for it.

    Attributes:
        n_ctx: context length in tokens; 0 takes the model's own, up to `DEFAULT_CONTEXT`.
        n_threads: for prompt and decode; None takes the cores this process may use.
        n_batch: prompt tokens handed to llama.cpp at a time; a prompt's progress is shown in these steps.
        n_ubatch: of these, how many it computes at once; None: all. More need a larger compute buffer, and read the
            weights less often.
        flash_attention: without it a short prompt far into a context is evaluated sooner on the CPU, each token of an
            answer later, and buffers grow with the context. Numbers differ in their last digits: it rounds K to F16.
        kv_type: type of the KV cache.
        n_gpu_layers: layers whose weights go to a GPU.
        cpu_expert_layers: of these layers, the experts stay in main memory all the same.
        repack: copy weights into private memory in an order that suits the CPU. Never for a file larger than memory.
        stream_experts: the file is larger than memory: read the chosen experts ahead.
        expert_memory: bytes of this program's memory for experts that are read so; None takes what is free, 0 leaves
            them to the system's file cache.
    """

    n_ctx: int = 0
    n_threads: int | None = None
    n_batch: int = DEFAULT_BATCH
    n_ubatch: int | None = None
    flash_attention: bool = True
    kv_type: KvType = "f16"
    n_gpu_layers: int = 0
    cpu_expert_layers: tuple[int, ...] = ()
    repack: bool = False
    stream_experts: bool = False
    expert_memory: int | None = None


DEFAULTS = LoadOptions()
