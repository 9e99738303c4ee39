"""POST /v1/chat/completions."""

import secrets
import time
from collections.abc import AsyncIterator, Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from coderv2_local.prompt.layout import ChatFormat, Message, Role, chat_prompt
from coderv2_local.serving.body import read_object
from coderv2_local.serving.errors import bad
from coderv2_local.serving.events import DONE, EventStream, event, whole
from coderv2_local.serving.fields import Field, Fields, checked
from coderv2_local.serving.jobs import Job, Piece, Task
from coderv2_local.serving.logprobs_json import chat_logprobs
from coderv2_local.serving.prepare import check_length, limit_of, seconds_of, submitted
from coderv2_local.serving.refused_fields import refuse_unsupported
from coderv2_local.serving.sampling_fields import COMMON, RESPONSE_FORMAT, sampling_options
from coderv2_local.serving.state import Serving
from coderv2_local.serving.text_tokens import StreamedLogprobs, logprobs_of
from coderv2_local.serving.usage import finish_reason, timings, usage

MAX_MESSAGES = 4096
ROLES: Mapping[str, Role] = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
MESSAGES = Field(
    ("array",),
    "the conversation; where an assistant's turn is the last, the answer goes on with it",
    required=True,
    schema={
        "minItems": 1,
        "maxItems": MAX_MESSAGES,
        "items": {
            "type": "object",
            "properties": {
                "role": {"enum": [*ROLES]},
                "content": {
                    "anyOf": [
                        {"type": "string"},
                        {
                            "type": "array",
                            "items": {
                                "type": "object",
                                "properties": {"type": {"enum": ["text"]}, "text": {"type": "string"}},
                                "required": ["type", "text"],
                            },
                        },
                    ]
                },
            },
            "required": ["role", "content"],
        },
    },
)
TEMPLATE: Fields = {"messages": MESSAGES}
CHAT: Fields = {
    **COMMON,
    **RESPONSE_FORMAT,
    "messages": MESSAGES,
    "max_tokens": Field(("integer",), "the longest answer, in tokens; -1 for no limit of its own", -1, 2**31),
    "max_completion_tokens": Field(("integer",), "the same, by its newer name", -1, 2**31),
    "logprobs": Field(("boolean",), "give the log-probability of each token"),
    "top_logprobs": Field(("integer",), "and of so many of the most probable ones", 0, 20),
    "return_progress": Field(("boolean",), "with stream: events while the prompt is evaluated"),
}


async def chat(request: Request) -> Response:
    """An answer in a conversation."""
    serving: Serving = request.app.state.serving
    body = await read_object(request)
    refuse_unsupported(body)
    values = checked(body, CHAT)
    job = await submitted(request, values, chat_task)
    head = {"id": f"chatcmpl-{secrets.token_hex(12)}", "created": int(time.time()), "model": serving.name}
    if not job.task.is_streamed:
        return await whole(job, request.receive, lambda: head | chat_answer(serving, job))
    include_usage = bool(values.get("stream_options", {}).get("include_usage"))
    progress = bool(values.get("return_progress"))
    return EventStream(job, chat_events(serving, job, head, include_usage, progress))


def chat_task(serving: Serving, values: Mapping[str, Any]) -> Task:
    """What the worker is to do. Raises ApiError, InputError, ContextFull."""
    backend, form = serving.backend, serving.backend.format
    logprobs = values.get("top_logprobs", 0) if values.get("logprobs") else None
    options = sampling_options(
        values,
        backend.vocabulary,
        temperature=serving.temperature,
        repeat_penalty=serving.repeat_penalty,
        logprobs=logprobs,
    )
    limit = limit_of(values, "max_completion_tokens", "max_tokens", "n_predict")
    prompt = conversation_ids(serving, values["messages"])
    return Task(
        "answer",
        prompt,
        options,
        serving.room(len(prompt), limit),
        drop_space=form is ChatFormat.PLAIN,
        seconds=seconds_of(serving, values),
        is_streamed=bool(values.get("stream")),
    )


def conversation_ids(serving: Serving, messages: Any) -> list[int]:
    """The ids of a conversation. Raises ApiError, InputError, ContextFull."""
    backend, turns = serving.backend, read_messages(messages)
    check_length(serving, sum(len(turn.content) for turn in turns))
    return chat_prompt(turns, backend.format, backend.vocabulary, serving.template)


def read_messages(values: list[Any]) -> list[Message]:
    """The turns of a request. Raises ApiError for what is none."""
    if not 0 < len(values) <= MAX_MESSAGES:
        raise bad(f"messages must have 1 to {MAX_MESSAGES} entries", "messages")
    found = []
    for n, value in enumerate(values):
        name = f"messages[{n}]"
        if not isinstance(value, dict):
            raise bad(f"{name} must be an object", name)
        role = value.get("role")
        if role in ("tool", "function") or value.get("tool_calls"):
            raise bad(f"{name}: this server has no tools", name, code="unsupported_parameter")
        if not isinstance(role, str) or role not in ROLES:
            raise bad(f"{name}.role must be one of {', '.join(ROLES)}", f"{name}.role")
        found.append(Message(ROLES[role], _content(value.get("content"), f"{name}.content")))
    return found


def _content(value: Any, name: str) -> str:
    """A message's text: a string, or the text parts of an array."""
    if isinstance(value, str):
        return value
    if not isinstance(value, list):
        raise bad(f"{name} must be a string or an array of text parts", name)
    parts = []
    for part in value:
        if not isinstance(part, dict) or part.get("type") != "text" or not isinstance(part.get("text"), str):
            raise bad(f"{name}: this model reads text alone", name, code="unsupported_parameter")
        parts.append(part["text"])
    return "\n".join(parts)


def chat_answer(serving: Serving, job: Job) -> dict[str, Any]:
    """The whole answer."""
    choice: dict[str, Any] = {
        "index": 0,
        "message": {"role": "assistant", "content": job.text, "refusal": None},
        "logprobs": _logprobs(serving, job, logprobs_of(job, serving.backend.vocabulary)),
        "finish_reason": finish_reason(job),
    }
    return {"object": "chat.completion", "choices": [choice], "usage": usage(job), "timings": timings(job)}


async def chat_events(
    serving: Serving, job: Job, head: Mapping[str, Any], include_usage: bool, progress: bool
) -> AsyncIterator[bytes]:
    """The answer as it comes, in OpenAI's chunks."""
    head = {**head, "object": "chat.completion.chunk"}

    def chunk(delta: Mapping[str, Any], reason: str | None = None, logprobs: Any = None) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "logprobs": logprobs, "finish_reason": reason}
        return {**head, "choices": [choice]}

    role: dict[str, Any] = {"role": "assistant"}
    logprobs = StreamedLogprobs(job, serving.backend.vocabulary)
    async for piece in job.pieces():
        if piece.progress is not None:
            if progress:
                yield event({**chunk({}), "prompt_progress": _progress(job, piece)})
            continue
        yield event(chunk(role | {"content": piece.text}, None, _logprobs(serving, job, logprobs.of(piece))))
        role = {}
    rest = logprobs.rest()
    last = chunk(role, finish_reason(job), _logprobs(serving, job, rest) if rest else None)
    yield event({**last, "timings": timings(job)})
    if include_usage:
        yield event({**head, "choices": [], "usage": usage(job)})
    yield DONE


def _progress(job: Job, piece: Piece) -> dict[str, int]:
    cached = job.figures.reused
    return {"total": len(job.task.prompt), "cache": cached, "processed": piece.progress or 0}


def _logprobs(serving: Serving, job: Job, found: Any) -> Any:
    return None if job.task.options.logprobs is None else chat_logprobs(found, serving.backend.vocabulary)
