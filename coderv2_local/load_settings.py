"""How the user's settings want models to be loaded: the ``[load]`` table of the settings file."""

from coderv2_local.placement.load_wishes import LoadWishes
from coderv2_local.preferences import Preferences

GB = 1_000_000_000


def load_wishes(settings: Preferences, *, n_ctx: int | None = None, n_threads: int | None = None) -> LoadWishes:
    """What the settings decide, with what a command line decides beside it."""
    memory = settings.get("load.expert_memory", None)
    return LoadWishes(
        n_ctx=n_ctx or None,
        n_threads=n_threads,
        n_batch=settings.get("load.batch", None),
        n_ubatch=settings.get("load.batch", None),
        n_gpu_layers=settings.get("load.gpu_layers", None),
        repack=settings.get("load.repack", False),
        stream_experts=settings.get("load.stream_experts", None),
        expert_memory=None if memory is None else int(memory * GB),
    )
