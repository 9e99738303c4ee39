"""What chat, fim and sessions talk to: messages and code in, a stream of text out."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Literal, Protocol, runtime_checkable

from coderv2_local.prompt.layout import Message
from coderv2_local.sampling.logprobs import TokenLogprobs
from coderv2_local.sampling.options import SamplingOptions
from quant.errors import CoderError

MINIMUM_ANSWER = 64  # tokens that must be left for an answer before a prompt counts as too long


@dataclass(frozen=True)
class Capabilities:
    """What a backend can do beyond streaming text.

    Attributes:
        ids: the generated ids are known, and can be handed back in :class:`Message`.
        resume: an answer that was cut is gone on with, where the conversation ends with it.
        infill: there is fill-in-the-middle.
        grammar: answers can be held to a grammar or a JSON schema.
        logprobs: log-probabilities can be had.
        saved_state: what was evaluated can be kept on disk.
    """

    ids: bool = False
    resume: bool = False
    infill: bool = False
    grammar: bool = False
    logprobs: bool = False
    saved_state: bool = False


Reason = Literal["end", "length", "stop"]


@dataclass
class Generation:
    """A text being generated: iterate over it for chunks; the rest is filled in while you do.

    Attributes:
        chunks: text, safe to show, as it arrives. Close it, or stop iterating, to cancel.
        prompt_tokens: length of the prompt; None where a server has not said yet.
        reused_tokens: of those, how many were not evaluated again.
        ids: the ids generated so far, as they are in the KV cache; stays empty where a backend has no ids. Once a stop
            string has ended the text, those of the text alone; of a token that the stop began in, the part before it is
            encoded again.
        tokens: how many were generated so far.
        reason: why it ended: the model's own end, `max_tokens` or a full context, a stop string; None before that.
        prompt_seconds: until the first token was there.
        seconds: from then to the last one.
        logprobs: of each generated token, where they were asked for.
    """

    chunks: Iterator[str]
    prompt_tokens: int | None = None
    reused_tokens: int = 0
    ids: list[int] = field(default_factory=list)
    tokens: int = 0
    reason: Reason | None = None
    prompt_seconds: float = 0.0
    seconds: float = 0.0
    logprobs: list[TokenLogprobs] = field(default_factory=list)

    def __iter__(self) -> Iterator[str]:
        return self.chunks


Progress = Callable[[int, int], None]
"""Called while a prompt is evaluated: (tokens done, tokens to do)."""


class Backend(Protocol):
    """Chat and infill: :class:`LocalBackend` runs the model here, a server can stand behind the same seam.

    Attributes:
        name: of the model, to show.
        n_ctx: context in tokens; None where a server does not say.
        vocabulary_id: tells whose ids are whose: equal for equal vocabularies, "" where there are no ids.
    """

    name: str
    vocabulary_id: str
    capabilities: Capabilities

    @property
    def n_ctx(self) -> int | None: ...

    @property
    def notices(self) -> Sequence[str]:
        """What the user should be told before the first answer, a sentence each."""
        ...

    def chat(
        self,
        messages: Sequence[Message],
        options: SamplingOptions,
        max_tokens: int,
        on_progress: Progress | None = None,
    ) -> Generation:
        """The assistant's next turn. Raises ContextFull where too little room is left; nothing is cut here."""
        ...

    def infill(
        self,
        prefix: str,
        suffix: str,
        options: SamplingOptions,
        max_tokens: int,
        on_progress: Progress | None = None,
    ) -> Generation:
        """The text between `prefix` and `suffix`. Raises InputError where this model has no infill."""
        ...

    def count(self, text: str) -> int | None:
        """Tokens of a text; None where that cannot be known."""
        ...

    def prompt_length(self, messages: Sequence[Message]) -> int | None:
        """Tokens of a conversation, laid out; None where that cannot be known."""
        ...

    def save_state(self, name: str) -> None:
        """Keep what is evaluated now on disk under `name`. Does nothing without `capabilities.saved_state`."""
        ...

    def restore_state(self, name: str) -> str | None:
        """Bring back what was kept. Returns a notice where something was there but could not be used."""
        ...

    def close(self) -> None: ...


class OutOfTime(CoderError):
    """What a backend waits for did not come in time."""


@runtime_checkable
class TimeLimited(Protocol):
    """A backend that waits for something else, which may fall silent."""

    def within(self, seconds: float) -> AbstractContextManager[None]:
        """Meanwhile, nothing is waited for longer than `seconds` from now: what takes longer is OutOfTime."""
        ...


def without_first_space(chunks: Iterator[str]) -> Iterator[str]:
    """The stream without one leading space."""
    for first in chunks:
        text = first.removeprefix(" ")
        if text:
            yield text
        break
    yield from chunks
