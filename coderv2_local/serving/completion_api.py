"""POST /v1/completions: text that goes on, or, with `suffix`, text that belongs between."""

import secrets
import time
from collections.abc import AsyncIterator, Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from coderv2_local.serving.body import read_object
from coderv2_local.serving.errors import bad
from coderv2_local.serving.events import DONE, EventStream, event, whole
from coderv2_local.serving.fields import Field, Fields, checked
from coderv2_local.serving.infill_prompt import LONGEST_MIDDLE, infill_layout, template_parts
from coderv2_local.serving.jobs import Job, Lane, Task
from coderv2_local.serving.logprobs_json import completion_logprobs
from coderv2_local.serving.prepare import check_length, limit_of, seconds_of, submitted
from coderv2_local.serving.refused_fields import refuse_unsupported
from coderv2_local.serving.sampling_fields import COMMON, RESPONSE_FORMAT, sampling_options
from coderv2_local.serving.state import Serving
from coderv2_local.serving.text_tokens import StreamedLogprobs, logprobs_of
from coderv2_local.serving.usage import finish_reason, timings, usage

MAX_PROMPT_IDS = 1_000_000
UNSUPPORTED = "unsupported_parameter"
COMPLETION: Fields = {
    **COMMON,
    **RESPONSE_FORMAT,
    "prompt": Field(
        ("string", "array"),
        "text (special tokens in it are text, but in a whole infill layout), or token ids, or one text in an array",
        required=True,
    ),
    "suffix": Field(("string",), "the text after the hole: the answer is what belongs between"),
    "max_tokens": Field(("integer",), "the longest answer, in tokens; -1 for no limit of its own", -1, 2**31),
    "logprobs": Field(("integer",), "log-probabilities, and of so many of the most probable tokens", 0, 20),
    "echo": Field(("boolean",), "only false", schema={"enum": [False, None]}),
}


async def completions(request: Request) -> Response:
    """A text that goes on."""
    serving: Serving = request.app.state.serving
    body = await read_object(request)
    refuse_unsupported(body)
    values = checked(body, COMPLETION)
    job = await submitted(request, values, completion_task, threads_for(serving, values))
    head = {
        "id": f"cmpl-{secrets.token_hex(12)}",
        "object": "text_completion",
        "created": int(time.time()),
        "model": serving.name,
    }
    if not job.task.is_streamed:
        return await whole(job, request.receive, lambda: head | completion_answer(serving, job))
    include_usage = bool(values.get("stream_options", {}).get("include_usage"))
    return EventStream(job, completion_events(serving, job, head, include_usage))


def completion_task(serving: Serving, values: Mapping[str, Any]) -> Task:
    """What the worker is to do. Raises ApiError, InputError, ContextFull."""
    prompt, suffix = texts_of(serving, values)
    is_infill = suffix is not None
    limit = limit_of(values, "max_tokens", "n_predict")
    if is_infill:
        if not isinstance(prompt, str):
            raise bad("with suffix, prompt must be a string", "prompt", UNSUPPORTED)
        ids, is_cut = infill_layout(serving, prompt, suffix or "", limit, as_it_is=True)
    else:
        ids, is_cut = prompt_ids(serving, prompt), False
    options = sampling_options(
        values,
        serving.backend.vocabulary,
        temperature=0.0 if is_infill else serving.temperature,
        repeat_penalty=1.0 if is_infill else serving.repeat_penalty,
        logprobs=values.get("logprobs", values.get("n_probs") or None),
    )
    room = serving.room(len(ids), limit)
    return Task(
        "infill" if is_infill and room <= LONGEST_MIDDLE else "answer",
        ids,
        options,
        room,
        seconds=seconds_of(serving, values),
        is_streamed=bool(values.get("stream")),
        is_cut=is_cut,
    )


def texts_of(serving: Serving, values: Mapping[str, Any]) -> tuple[Any, str | None]:
    """The prompt, and the text after the hole where there is one."""
    prompt, suffix = values["prompt"], values.get("suffix")
    if isinstance(prompt, list) and len(prompt) == 1 and isinstance(prompt[0], str):
        prompt = prompt[0]
    if suffix is None and isinstance(prompt, str) and (parts := template_parts(serving, prompt)):
        return parts
    return prompt, suffix


def threads_for(serving: Serving, values: Mapping[str, Any]) -> Lane:
    """Whose threads are to read the prompt."""
    return "answer" if texts_of(serving, values)[1] is None else "infill"


def prompt_ids(serving: Serving, prompt: Any) -> list[int]:
    """The ids of a prompt: of a text, after BOS; of ids, those. Raises ApiError, ContextFull."""
    vocabulary = serving.backend.vocabulary
    if isinstance(prompt, str):
        check_length(serving, len(prompt))
        return [vocabulary.bos, *serving.lines.encode(prompt)]
    if not prompt or len(prompt) > MAX_PROMPT_IDS:
        raise bad("prompt must be a string, or one array of token ids", "prompt", UNSUPPORTED)
    if any(type(i) is not int for i in prompt):
        raise bad("prompt must be one string, or one array of token ids: there is one answer", "prompt", UNSUPPORTED)
    if not all(0 <= i < vocabulary.size for i in prompt):
        raise bad(f"prompt has an id that there is not: this model has {vocabulary.size}", "prompt", "unknown_token")
    return list(prompt)


def completion_answer(serving: Serving, job: Job) -> dict[str, Any]:
    """The whole answer."""
    choice = {
        "index": 0,
        "text": job.text,
        "logprobs": _logprobs(serving, job, logprobs_of(job, serving.backend.vocabulary), 0),
        "finish_reason": finish_reason(job),
    }
    return {"choices": [choice], "usage": usage(job), "timings": timings(job)}


async def completion_events(
    serving: Serving, job: Job, head: Mapping[str, Any], include_usage: bool
) -> AsyncIterator[bytes]:
    """The answer as it comes."""
    offset, found = 0, StreamedLogprobs(job, serving.backend.vocabulary)
    async for piece in job.pieces():
        if piece.progress is not None:
            continue
        logprobs = _logprobs(serving, job, found.of(piece), offset)
        offset += sum(map(len, logprobs["tokens"])) if logprobs else 0
        choice = {"index": 0, "text": piece.text, "logprobs": logprobs, "finish_reason": None}
        yield event({**head, "choices": [choice]})
    logprobs = _logprobs(serving, job, rest, offset) if (rest := found.rest()) else None
    last = {"index": 0, "text": "", "logprobs": logprobs, "finish_reason": finish_reason(job)}
    yield event({**head, "choices": [last], "timings": timings(job)})
    if include_usage:
        yield event({**head, "choices": [], "usage": usage(job)})
    yield DONE


def _logprobs(serving: Serving, job: Job, found: Any, offset: int) -> Any:
    if job.task.options.logprobs is None:
        return None
    return completion_logprobs(found, serving.backend.vocabulary, offset)
