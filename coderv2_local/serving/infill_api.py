"""POST /infill: llama-server's request and answer, as llama.vim and llama.vscode speak it."""

from collections.abc import Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from coderv2_local.fim.context import Snippet
from coderv2_local.fim.hole import Hole
from coderv2_local.serving.body import read_object
from coderv2_local.serving.errors import bad
from coderv2_local.serving.events import EventStream, Watched
from coderv2_local.serving.fields import Field, Fields, checked
from coderv2_local.serving.infill_answer import chosen_fields, infill_answer, infill_events
from coderv2_local.serving.infill_prompt import LONGEST_MIDDLE, infill_layout
from coderv2_local.serving.jobs import Task
from coderv2_local.serving.json_answer import JsonAnswer
from coderv2_local.serving.prepare import seconds_of, submitted
from coderv2_local.serving.refused_fields import refuse_unsupported
from coderv2_local.serving.sampling_fields import COMMON, N_PROBS, sampling_options
from coderv2_local.serving.state import Serving

MAX_EXTRA = 1024
MAX_FIELDS = 256
MAX_LABEL = 500
SHORT = 4096
"""Characters that are encoded before another thread would have been asked to, or in 4 ms if their lines are new."""
SHORT_SECONDS = 5.0
"""A long middle that is to end at the next line break after so long is waited for by other infills; any other long one
is interrupted by them."""
INFILL: Fields = {
    **COMMON,
    "n_probs": N_PROBS,
    "input_prefix": Field(("string",), "the text before the hole"),
    "input_suffix": Field(("string",), "the text after the hole"),
    "prompt": Field(("string",), "more of the text before the hole: what stands on its line"),
    "input_extra": Field(
        ("array",),
        "pieces of other files, each with its text and filename",
        schema={
            "maxItems": MAX_EXTRA,
            "items": {
                "type": "object",
                "properties": {"text": {"type": "string"}, "filename": {"type": ["string", "null"]}},
                "required": ["text"],
            },
        },
    ),
    "n_predict": Field(("integer",), "the longest middle, in tokens; 0 evaluates the prompt alone", -2, 2**31),
    "t_max_predict_ms": Field(
        ("number",), "milliseconds of generating, after which it ends once there is a line break", 0, 86_400_000
    ),
    "response_fields": Field(
        ("array",),
        "give these fields alone; a field inside another by its path, as timings/prompt_n",
        schema={"items": {"type": "string"}, "maxItems": MAX_FIELDS},
    ),
    "rules": Field(("boolean",), "end and trim the middle by the rules of `coder fim`; true unless streamed"),
}


async def infill(request: Request) -> Response:
    """What belongs into a hole."""
    serving: Serving = request.app.state.serving
    body = await read_object(request)
    refuse_unsupported(body, {"n_probs"})
    values = checked(body, INFILL)
    job = await submitted(request, values, infill_task, "infill", quick=is_quick(values))
    if job.task.is_streamed:
        return EventStream(job, infill_events(serving, job))
    async with Watched(job, request.receive):
        await job.finish()
    answer = infill_answer(serving, job)
    wanted = values.get("response_fields")
    return JsonAnswer(answer if not wanted else chosen_fields(answer, wanted))


def infill_task(serving: Serving, values: Mapping[str, Any]) -> Task:
    """What the worker is to do. Raises ApiError, InputError, ContextFull."""
    prefix = values.get("input_prefix", "") + values.get("prompt", "")
    suffix = values.get("input_suffix", "")
    limit = values.get("n_predict", LONGEST_MIDDLE)
    streamed = bool(values.get("stream"))
    if streamed and values.get("rules"):
        raise bad("rules: they may take back what was streamed already", "rules")
    named = values.get("response_fields", [])
    if len(named) > MAX_FIELDS or not all(isinstance(name, str) for name in named):
        raise bad(f"response_fields must be an array of at most {MAX_FIELDS} strings", "response_fields")
    snippets = read_extra(values.get("input_extra", []))
    options = sampling_options(
        values,
        serving.backend.vocabulary,
        temperature=0.0,
        repeat_penalty=1.0,
        logprobs=values.get("n_probs") or None,
    )
    ids, is_cut = infill_layout(serving, prefix, suffix, limit, snippets, as_it_is=streamed)
    if limit == 0:
        ids = warm_ids(serving, ids)
    room = 0 if limit == 0 else serving.room(len(ids), None if limit < 0 else limit)
    line_seconds = values["t_max_predict_ms"] / 1000 if values.get("t_max_predict_ms") else None
    is_short = room <= LONGEST_MIDDLE or (line_seconds is not None and line_seconds <= SHORT_SECONDS)
    return Task(
        "infill" if limit and is_short else "answer",  # nobody waits for what is only evaluated
        ids,
        options,
        room,
        seconds=seconds_of(serving, values),
        line_seconds=line_seconds,
        hole=Hole(prefix, suffix) if limit and values.get("rules", not streamed) else None,
        is_streamed=streamed,
        is_cut=is_cut,
    )


def is_quick(values: Mapping[str, Any]) -> bool:
    """Is the task made so fast that other connections can wait for it?"""
    if any(values.get(name) for name in ("input_extra", "grammar", "json_schema")):
        return False
    return sum(len(values.get(name, "")) for name in ("input_prefix", "prompt", "input_suffix")) <= SHORT


def warm_ids(serving: Serving, ids: list[int]) -> list[int]:
    """Of a prompt that is only evaluated, to be gone on with: what stands before the hole."""
    hole = serving.backend.vocabulary.fim().hole
    return ids[: ids.index(hole)] if hole in ids[2:] else ids


def read_extra(values: list[Any]) -> list[Snippet]:
    """Pieces of other files. A file name is a label here: no file is opened. Raises ApiError."""
    if len(values) > MAX_EXTRA:
        raise bad(f"input_extra has {len(values)} entries: at most {MAX_EXTRA} are taken", "input_extra")
    found = []
    for n, value in enumerate(values):
        text = value.get("text") if isinstance(value, dict) else None
        name = value.get("filename") if isinstance(value, dict) else None
        if not isinstance(text, str) or not isinstance(name, (str, type(None))):
            raise bad(f"input_extra[{n}] must have a text, and may have a filename", f"input_extra[{n}]")
        label = " ".join((name or "another file").split())[:MAX_LABEL]
        found.append(Snippet(label, text))
    return found
