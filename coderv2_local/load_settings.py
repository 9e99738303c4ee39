"""How the user's settings want models to be loaded: the ``[load]`` table of the settings file."""

from coderv2_local.placement.load_options import LoadOptions
from coderv2_local.placement.load_wishes import LoadWishes
from coderv2_local.preferences import Preferences

GB = 1_000_000_000


def load_wishes(settings: Preferences, *, n_ctx: int | None = None, n_threads: int | None = None) -> LoadWishes:
    """What the settings decide, with what a command line decides beside it."""
    memory = settings.get("load.expert_memory", None)
    cpu_experts = settings.get("load.cpu_expert_layers", None)
    return LoadWishes(
        n_ctx=n_ctx or None,
        n_threads=n_threads or settings.get("load.threads", None),
        n_batch=settings.get("load.batch", None),
        n_ubatch=settings.get("load.ubatch", settings.get("load.batch", None)),
        n_gpu_layers=settings.get("load.gpu_layers", None),
        cpu_expert_layers=None if cpu_experts is None else tuple(range(cpu_experts)),
        kv_type=settings.get("load.kv_type", "f16"),
        flash_attention=settings.get("load.flash_attention", None),
        repack=settings.get("load.repack", False),
        stream_experts=settings.get("load.stream_experts", None),
        expert_memory=None if memory is None else int(memory * GB),
    )


def unmet(wishes: LoadWishes, options: LoadOptions) -> list[str]:
    """What was wanted and is not done, in words. `coder plan` has the reasons, and what is wanted needlessly."""
    found = []
    if wishes.n_gpu_layers and not options.n_gpu_layers:
        found.append("load.gpu_layers has no effect: no layer is on a GPU; `coder plan` says why")
    if wishes.repack and not options.repack:
        found.append("load.repack has no effect: the copy of the weights does not fit beside the file")
    return found
