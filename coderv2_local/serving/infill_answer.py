"""llama-server's answers to /infill and /completion: whole, or as events."""

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from coderv2_local.sampling.logprobs import TokenLogprobs
from coderv2_local.serving.events import event
from coderv2_local.serving.jobs import Job
from coderv2_local.serving.logprobs_json import chat_logprobs
from coderv2_local.serving.state import Serving
from coderv2_local.serving.text_tokens import StreamedLogprobs, tokens_of
from coderv2_local.serving.usage import timings
from coderv2_local.vocabulary import Vocabulary

STOP_TYPES = {"end": "eos", "length": "limit", "time": "limit", "stop": "word"}
"""A rule of `coder fim` counts as a word, too: there is no `stopping_word` then."""


def infill_answer(serving: Serving, job: Job) -> dict[str, Any]:
    """The whole answer, in llama-server's shape."""
    task, figures, vocabulary = job.task, job.figures, serving.backend.vocabulary
    whole, tokens = tokens_of(job, vocabulary)
    return {
        "index": 0,
        "content": job.text,
        "tokens": tokens,
        "id_slot": 0,
        "stop": True,
        "model": serving.name,
        "tokens_predicted": figures.tokens,
        "tokens_evaluated": len(task.prompt),
        "tokens_cached": len(task.prompt) + max(figures.tokens - 1, 0),
        "has_new_line": "\n" in job.text,
        "truncated": task.is_cut,
        "stop_type": STOP_TYPES[job.ending or "end"],
        "stopping_word": stopping_word(job, vocabulary),
        **probabilities(job, job.logprobs[:whole], vocabulary),
        "generation_settings": {
            "n_predict": task.limit,
            "temperature": task.options.temperature,
            "top_k": task.options.top_k,
            "top_p": task.options.top_p,
            "min_p": task.options.min_p,
            "repeat_penalty": task.options.repeat_penalty,
            "seed": task.options.seed,
            "stop": list(task.options.stop),
        },
        "timings": timings(job),
    }


def stopping_word(job: Job, vocabulary: Vocabulary) -> str:
    """The one of the request's texts that ended the answer: the first that the model wrote; "" for none."""
    if job.ending != "stop":
        return ""
    text = vocabulary.decode(job.ids)
    found = [(at, n) for n, stop in enumerate(job.task.options.stop) if (at := text.find(stop)) >= 0]
    return job.task.options.stop[min(found)[1]] if found else ""


def probabilities(job: Job, found: Sequence[TokenLogprobs], vocabulary: Vocabulary) -> dict[str, Any]:
    """What `n_probs` asks for."""
    if job.task.options.logprobs is None:
        return {}
    return {"completion_probabilities": chat_logprobs(found, vocabulary)["content"]}


def chosen_fields(answer: Mapping[str, Any], paths: list[str]) -> dict[str, Any]:
    """The fields named; one inside another keeps its path as its name. What there is not is left out."""
    found = {}
    for path in paths:
        value: Any = answer
        for name in path.split("/"):
            value = value.get(name) if isinstance(value, dict) else None
        if value is not None:
            found[path] = value
    return found


async def infill_events(serving: Serving, job: Job) -> AsyncIterator[bytes]:
    """The middle as it comes; the last event has the whole answer but for its text."""
    vocabulary = serving.backend.vocabulary
    logprobs = StreamedLogprobs(job, vocabulary)
    async for piece in job.pieces():
        if piece.progress is None:
            said = {"index": 0, "content": piece.text, "stop": False, "id_slot": 0, "tokens_predicted": piece.tokens}
            yield event(said | probabilities(job, logprobs.of(piece), vocabulary))
    last = infill_answer(serving, job) | {"content": "", "tokens": []}
    yield event(last | probabilities(job, logprobs.rest(), vocabulary))
