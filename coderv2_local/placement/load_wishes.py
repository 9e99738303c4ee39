"""What a user may decide about how a model is loaded."""

from dataclasses import dataclass

from coderv2_local.placement.load_options import KvType


@dataclass(frozen=True)
class LoadWishes:
    """What the user has decided, each as in :class:`coderv2_local.placement.load_options.LoadOptions`.

    None leaves the decision to :func:`coderv2_local.placement.place.place`.

    Attributes:
        infill: what is asked of the model are long prompts and short answers.
    """

    n_ctx: int | None = None
    n_threads: int | None = None
    n_batch: int | None = None
    n_ubatch: int | None = None
    n_gpu_layers: int | None = None
    cpu_expert_layers: tuple[int, ...] | None = None
    repack: bool = False
    stream_experts: bool | None = None
    expert_memory: int | None = None
    kv_type: KvType = "f16"
    flash_attention: bool | None = None
    infill: bool = False


NO_WISHES = LoadWishes()
