"""POST /completion: llama-server's own form of /v1/completions, which some editors speak."""

from starlette.requests import Request
from starlette.responses import Response

from coderv2_local.serving.body import read_object
from coderv2_local.serving.completion_api import COMPLETION, completion_task, threads_for
from coderv2_local.serving.events import EventStream, Watched
from coderv2_local.serving.fields import Fields, checked
from coderv2_local.serving.infill_answer import infill_answer, infill_events
from coderv2_local.serving.json_answer import JsonAnswer
from coderv2_local.serving.prepare import submitted
from coderv2_local.serving.refused_fields import refuse_unsupported
from coderv2_local.serving.sampling_fields import N_PROBS
from coderv2_local.serving.state import Serving

NATIVE: Fields = {
    **{name: field for name, field in COMPLETION.items() if name not in ("max_tokens", "logprobs", "suffix", "echo")},
    "n_probs": N_PROBS,
}


async def completion(request: Request) -> Response:
    """A text that goes on, answered as llama-server does."""
    serving: Serving = request.app.state.serving
    body = await read_object(request)
    refuse_unsupported(body, {"n_probs"})
    values = checked(body, NATIVE)
    job = await submitted(request, values, completion_task, threads_for(serving, values))
    if job.task.is_streamed:
        return EventStream(job, infill_events(serving, job))
    async with Watched(job, request.receive):
        await job.finish()
    return JsonAnswer(infill_answer(serving, job))
