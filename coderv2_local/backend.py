"""What chat, fim and sessions talk to: messages and code in, a stream of text out."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Protocol

from coderv2_local.engine import ContextFull, Engine
from coderv2_local.prompt import ChatFormat, Message, chat_format, chat_prompt, infill_prompt
from coderv2_local.routing import install_taps
from coderv2_local.sampling import SamplingOptions
from coderv2_local.stream import decode_utf8, printable
from converters.gguf_header import read_header

MINIMUM_ANSWER = 64  # tokens that must be left for an answer before a prompt counts as too long


@dataclass(frozen=True)
class Capabilities:
    """What a backend can do beyond text: ids and saved states need the model in this process."""

    ids: bool
    infill: bool


@dataclass
class Generation:
    """A text being generated: iterate over it for chunks; the rest is filled in while you do.

    Attributes:
        chunks: text, safe to show, as it arrives.
        ids: the ids generated so far, as they are in the KV cache.
        prompt_tokens: length of the prompt.
    """

    chunks: Iterator[str]
    prompt_tokens: int
    ids: list[int] = field(default_factory=list)

    def __iter__(self) -> Iterator[str]:
        return self.chunks


class Backend(Protocol):
    """Chat and infill. :class:`LocalBackend` runs the model here; a server can stand behind the same seam."""

    capabilities: Capabilities

    def chat(self, messages: Sequence[Message], options: SamplingOptions, max_tokens: int) -> Generation: ...

    def infill(self, prefix: str, suffix: str, options: SamplingOptions, max_tokens: int) -> Generation: ...

    def count(self, text: str) -> int:
        """Tokens of a text."""
        ...

    def close(self) -> None: ...


class LocalBackend:
    """A model file in this process.

    Args:
        path: a GGUF of this family.
        n_ctx: context in tokens; 0 takes the model's own, up to the engine's default.
        n_threads: None takes the cores this process may use.
        exact_routing: choose experts as the model was trained to, where llama.cpp does not; False only to compare.

    Raises:
        InputError: the file cannot be used.
        EngineError: llama.cpp refused it.
    """

    def __init__(self, path: Path, *, n_ctx: int = 0, n_threads: int | None = None, exact_routing: bool = True) -> None:
        header = read_header(path)
        taps = install_taps(header.metadata) if exact_routing else []
        self.engine = Engine(path, n_ctx=n_ctx, n_threads=n_threads, taps=taps, header=header)
        self.vocabulary = self.engine.vocabulary
        template = self.engine.header.metadata.get("tokenizer.chat_template")
        self._template = template if isinstance(template, str) else None
        self.capabilities = Capabilities(
            ids=True, infill="tokenizer.ggml.fim_suf_token_id" in self.engine.header.metadata
        )
        # nothing but text and an end may be generated: a special token inside an answer would be another turn
        self._banned = [i for i in self.vocabulary.special_ids() if not self.vocabulary.is_end(i)]

    @property
    def format(self) -> ChatFormat:
        """How this file lays out a conversation. Raises InputError for an unknown template."""
        return chat_format(self._template)

    def count(self, text: str) -> int:
        return len(self.vocabulary.encode(text))

    def prompt_length(self, messages: Sequence[Message]) -> int:
        """Tokens of a conversation, laid out."""
        return len(chat_prompt(messages, self.format, self.vocabulary))

    def chat(self, messages: Sequence[Message], options: SamplingOptions, max_tokens: int) -> Generation:
        """The assistant's next turn, without the space that the plain format puts before it.

        Raises:
            ContextFull: too little room is left for an answer. Nothing is cut here.
        """
        form = self.format
        generation = self._generate(chat_prompt(messages, form, self.vocabulary), options, max_tokens)
        if form is ChatFormat.PLAIN:
            generation.chunks = without_first_space(generation.chunks)
        return generation

    def infill(self, prefix: str, suffix: str, options: SamplingOptions, max_tokens: int) -> Generation:
        """The text between `prefix` and `suffix`. Raises as :meth:`chat`, and InputError without FIM ids."""
        encode = self.vocabulary.encode
        return self._generate(infill_prompt(encode(prefix), encode(suffix), self.vocabulary), options, max_tokens)

    def _generate(self, prompt: list[int], options: SamplingOptions, max_tokens: int) -> Generation:
        room = self.engine.n_ctx - len(prompt)
        if room < min(max_tokens, MINIMUM_ANSWER):
            raise ContextFull(
                f"the prompt has {len(prompt)} tokens and the context {self.engine.n_ctx}: no room for an answer",
                hint="a larger --ctx, or less text",
            )
        options = replace(options, banned=[*options.banned, *self._banned])
        generation = Generation(iter(()), len(prompt))

        def pieces() -> Iterator[bytes]:
            for token in self.engine.generate(prompt, options, min(max_tokens, room)):
                generation.ids.append(token)
                yield self.vocabulary.piece(token)

        generation.chunks = (safe for chunk in decode_utf8(pieces()) if (safe := printable(chunk)))
        return generation

    def close(self) -> None:
        self.engine.close()

    def __enter__(self) -> "LocalBackend":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def without_first_space(chunks: Iterator[str]) -> Iterator[str]:
    """The stream without one leading space."""
    for first in chunks:
        text = first.removeprefix(" ")
        if text:
            yield text
        break
    yield from chunks
