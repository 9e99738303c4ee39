"""One event of a streamed answer, whichever server sent it → what it adds to the answer."""

import json
from dataclasses import dataclass
from typing import Any

from coderv2_local.backend import Reason
from coderv2_local.engine_errors import ContextFull
from coderv2_local.remote.failures import CONTEXT_WORDS, RemoteError, error_words
from coderv2_local.remote.key import Key

DONE = "[DONE]"
REASONS: dict[str, Reason] = {"length": "length", "limit": "length", "stop_sequence": "stop", "word": "stop"}
"""What servers call the end of an answer; all else, such as "stop" and "eos", is the model's own end."""
FAILURES = {
    "content_filter": "the server's filter ended the answer",
    "insufficient_system_resource": "the server ran out of resources and ended the answer",
    "abort": "the server gave the answer up",
    "error": "the server failed in the middle of the answer",
}


@dataclass(frozen=True)
class Piece:
    """What one event says.

    Attributes:
        text: of the answer.
        thought: characters of a text that is no part of the answer: what a reasoning model thinks first.
        reason: why the answer ends here; None where it goes on.
        prompt_tokens, tokens, reused_tokens: of the whole generation; None where this event does not say.
        progress: (done, to do) of the prompt, in tokens.
    """

    text: str = ""
    thought: int = 0
    reason: Reason | None = None
    prompt_tokens: int | None = None
    tokens: int | None = None
    reused_tokens: int | None = None
    progress: tuple[int, int] | None = None

    @property
    def is_life(self) -> bool:
        """Does the server get on, or does it only keep the connection open?"""
        return bool(self.text or self.thought or self.reason or self.progress or self.tokens)


def read_event(data: str, address: object, key: Key | None) -> Piece:
    """What the data of one event says, in the format of /v1/chat/completions, /v1/completions or /infill.

    Raises:
        RemoteError: it is not valid, or reports a failure.
        ContextFull: it reports that the prompt is too long.
    """
    try:
        event = json.loads(data)
    except (ValueError, RecursionError):
        raise RemoteError(f"{address} sends something that is not valid JSON in the middle of the answer") from None
    if not isinstance(event, dict):
        raise RemoteError(f"{address} sends something unknown in the middle of the answer")
    if event.get("error"):
        words = error_words(event, key)
        if CONTEXT_WORDS.search(json.dumps(event["error"])):
            raise ContextFull(f"the context of {address} is full: {words}", hint="less text")
        raise RemoteError(f"{address} failed in the middle of the answer{f': {words}' if words else ''}")
    choices = event.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], dict) else {}
    delta = _object(choice.get("delta"))
    text = _text(delta.get("content")) or _text(choice.get("text")) or _text(event.get("content"))
    usage, timings = _object(event.get("usage")), _object(event.get("timings"))
    return Piece(
        text=text,
        thought=len(_text(delta.get("reasoning_content")) or _text(delta.get("reasoning"))),
        reason=_reason(event, choice, address),
        prompt_tokens=_first_number(usage.get("prompt_tokens"), event.get("tokens_evaluated")),
        tokens=_first_number(usage.get("completion_tokens"), event.get("tokens_predicted")),
        reused_tokens=_first_number(
            timings.get("cache_n"),
            _object(usage.get("prompt_tokens_details")).get("cached_tokens"),
            usage.get("prompt_cache_hit_tokens"),
        ),
        progress=_progress(_object(event.get("prompt_progress"))),
    )


def _reason(event: dict[str, Any], choice: dict[str, Any], address: object) -> Reason | None:
    said = choice.get("finish_reason")
    if event.get("stop") is True:  # /infill
        said = event.get("stop_type") or "stop"
    if not said:
        return None
    if failure := FAILURES.get(str(said)):
        raise RemoteError(f"{address}: {failure}")
    if isinstance(choice.get("stop_reason"), str):  # vLLM names the stop string that it met
        return "stop"
    return REASONS.get(str(said), "end")


def _progress(value: dict[str, Any]) -> tuple[int, int] | None:
    """llama-server counts what it had already as done; this counts only what is evaluated now."""
    total, cached, done = (_first_number(value.get(name)) for name in ("total", "cache", "processed"))
    if total is None or done is None:
        return None
    return max(done - (cached or 0), 0), max(total - (cached or 0), 0)


def _text(value: Any) -> str:
    """A string without halves of surrogate pairs, which JSON can hold and a terminal cannot show."""
    return value.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace") if isinstance(value, str) else ""


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _first_number(*values: Any) -> int | None:
    return next((v for v in values if isinstance(v, int) and not isinstance(v, bool) and v >= 0), None)
