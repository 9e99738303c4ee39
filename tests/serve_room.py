"""A worker with the embedded model and no HTTP around it, and jobs for it."""

import contextlib
from collections.abc import Iterator

from coderv2_local.local_backend import LocalBackend
from coderv2_local.models import find_model
from coderv2_local.placement.load_options import LoadOptions
from coderv2_local.prompt.layout import Message, chat_prompt
from coderv2_local.sampling.options import SamplingOptions
from coderv2_local.serving.infill_prompt import infill_ids
from coderv2_local.serving.jobs import Job, Task
from coderv2_local.serving.state import Serving

LONG_QUESTION = "Explain this: " + " ".join(f"value_{i} = compute({i})" for i in range(38))


@contextlib.contextmanager
def working(**options) -> Iterator[Serving]:
    """A model that is loaded with these options, and its worker at work."""
    with LocalBackend(find_model("tiny").path, LoadOptions(n_threads=1, **options)) as backend:
        serving = Serving(backend, "test", "test")
        serving.worker.start()
        try:
            yield serving
        finally:
            serving.worker.close()


def answer(room: Serving, question: str = LONG_QUESTION, limit: int = 40, stop: tuple[str, ...] = (), **more) -> Task:
    """An answer of `limit` tokens, streamed."""
    backend = room.backend
    prompt = chat_prompt([Message("user", question)], backend.format, backend.vocabulary)
    bias = {backend.vocabulary.eos: -float("inf")}
    options = SamplingOptions(temperature=1.2, seed=5, logit_bias=bias, stop=list(stop))
    return Task("answer", prompt, options, limit, is_streamed=True, **more)


def infill(room: Serving, name: str = "f", limit: int = 6) -> Task:
    """A middle, whole."""
    ids = infill_ids(room, f"def {name}(x):\n    return ", "\n", limit)
    return Task("infill", ids, SamplingOptions(), limit)


async def text(job: Job) -> str:
    """All of it."""
    await job.finish()
    return job.text
