"""The backend that runs a model file in this process."""

import hashlib
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from types import TracebackType

from coderv2_local.backend import MINIMUM_ANSWER, Capabilities, Generation, Progress, without_first_space
from coderv2_local.engine import Engine
from coderv2_local.engine_errors import ContextFull
from coderv2_local.hooks import Tap, close_taps
from coderv2_local.inspection import load_notices
from coderv2_local.larger_than_memory.expert_prefetch import larger_than_memory
from coderv2_local.larger_than_memory.residency import NO_EXPERTS, UNSUPPORTED
from coderv2_local.load_settings import unmet
from coderv2_local.loadable import with_all_parts
from coderv2_local.placement.load_options import DEFAULTS, LoadOptions
from coderv2_local.placement.load_wishes import LoadWishes
from coderv2_local.placement.place import load_options_for
from coderv2_local.prompt.layout import ChatFormat, Message, chat_format, chat_prompt, infill_prompt
from coderv2_local.routing import install_taps
from coderv2_local.sampling.options import SamplingOptions
from coderv2_local.states.kept_states import KeptStates
from coderv2_local.states.prefix_states import PrefixStates
from coderv2_local.stream import decode_utf8, printable, until, whole_pieces
from coderv2_local.token_engine import MakeEngine, TokenEngine, shared_prefix
from converters.gguf_config import config_of
from converters.gguf_header import read_header
from quant.recipes import is_expert


class LocalBackend:
    """A model file in this process.

    Args:
        path: a GGUF of this family.
        options: how it is put on this machine; wishes leave the rest of that to placement.
        exact_routing: choose experts as the model was trained to, where llama.cpp does not; False only to compare.
        name: to show; None takes the file's.
        states: where :meth:`save_state` keeps what is evaluated; None for nowhere.
        kept: brings back, before each prompt, what was evaluated for another conversation or file.
        make_engine: what loads the file; another engine's class stands here.

    Raises:
        InputError: the file cannot be used.
        EngineError: llama.cpp refused it.
        PlacementError: it does not fit this machine.
    """

    def __init__(
        self,
        path: Path,
        options: LoadOptions | LoadWishes = DEFAULTS,
        *,
        exact_routing: bool = True,
        name: str | None = None,
        states: PrefixStates | None = None,
        kept: KeptStates | None = None,
        make_engine: MakeEngine = Engine,
    ) -> None:
        header = read_header(path)
        self._unmet: list[str] = []
        if isinstance(options, LoadWishes):
            wishes, options = options, load_options_for(path, options, header=header).options
            self._unmet = unmet(wishes, options)
        taps: list[Tap] = [*install_taps(header.metadata)] if exact_routing else []
        self.streaming = larger_than_memory(path, header, options.expert_memory) if options.stream_experts else []
        taps += self.streaming
        try:
            self.engine: TokenEngine = make_engine(path, options, taps=taps, header=header)
        except BaseException:
            close_taps(taps)
            raise
        self.name = name or path.name
        self._states, self._kept = states, kept
        self.vocabulary = self.engine.vocabulary
        tokens = "\0".join(header.metadata["tokenizer.ggml.tokens"])
        self.vocabulary_id = hashlib.blake2b(tokens.encode("utf-8", "replace"), digest_size=8).hexdigest()
        template = header.metadata.get("tokenizer.chat_template")
        self._template = template if isinstance(template, str) else None
        self.capabilities = Capabilities(
            ids=True,
            resume=True,
            infill=self.vocabulary.has_fim,
            grammar=True,
            logprobs=True,
            saved_state=states is not None,
        )
        # nothing but text and an end may be generated: a special token inside an answer would be another turn
        self._banned = [i for i in self.vocabulary.special_ids() if not self.vocabulary.is_end(i)]

    @property
    def notices(self) -> Sequence[str]:
        """What in the file or on this machine makes it slow, or compute something else than the model."""
        whole = with_all_parts(self.engine.header, self.engine.header.path)
        notices = list(load_notices(whole, config_of(whole)))
        if self.engine.options.stream_experts and not self.streaming:
            notices.append(UNSUPPORTED if any(map(is_expert, whole.tensors)) else NO_EXPERTS)
        return notices + self._unmet + self.engine.notices + [n for tap in self.streaming for n in tap.notices]

    @property
    def n_ctx(self) -> int:
        """Context in tokens."""
        return self.engine.n_ctx

    @property
    def format(self) -> ChatFormat:
        """How this file lays out a conversation."""
        return chat_format(self._template)

    def count(self, text: str) -> int:
        return len(self.vocabulary.encode(text))

    def prompt_length(self, messages: Sequence[Message]) -> int:
        """Tokens of a conversation, laid out."""
        return len(chat_prompt(messages, self.format, self.vocabulary, self._template))

    def chat(
        self,
        messages: Sequence[Message],
        options: SamplingOptions,
        max_tokens: int,
        on_progress: Progress | None = None,
    ) -> Generation:
        """The assistant's next turn, without the space that the plain format puts before it.

        Raises:
            ContextFull: too little room is left for an answer. Nothing is cut here.
        """
        form = self.format
        prompt = chat_prompt(messages, form, self.vocabulary, self._template)
        return self._generate(prompt, options, max_tokens, on_progress, drop_space=form is ChatFormat.PLAIN)

    def infill(
        self,
        prefix: str,
        suffix: str,
        options: SamplingOptions,
        max_tokens: int,
        on_progress: Progress | None = None,
    ) -> Generation:
        """The text between `prefix` and `suffix`. Raises as :meth:`chat`, and InputError without FIM ids."""
        encode = self.vocabulary.encode
        prompt = infill_prompt(encode(prefix), encode(suffix), self.vocabulary)
        return self._generate(prompt, options, max_tokens, on_progress)

    def save_state(self, name: str) -> None:
        """Keep what is evaluated now on disk under `name`; without `states`, do nothing.

        Raises:
            StateError: it could not be written.
        """
        if self._states is not None:
            self._states.save(self.engine, name)

    def restore_state(self, name: str) -> str | None:
        """Bring back what was kept. Returns a notice where something was there but could not be used."""
        return self._states.restore(self.engine, name) if self._states is not None else None

    def _generate(
        self,
        prompt: list[int],
        options: SamplingOptions,
        max_tokens: int,
        on_progress: Progress | None,
        drop_space: bool = False,
    ) -> Generation:
        room = self.engine.n_ctx - len(prompt)
        if room < min(max_tokens, MINIMUM_ANSWER):
            raise ContextFull(
                f"the prompt has {len(prompt)} tokens and the context {self.engine.n_ctx}: no room for an answer",
                hint="a larger --ctx, or less text",
            )
        options = replace(
            options,
            banned=[*options.banned, *(i for i in self._banned if i not in options.stop_ids)],
            grammar=options.effective_grammar(),  # refused here, where it cannot be followed, not at the first chunk
            json_schema=None,
        )
        generation = Generation(iter(()), len(prompt))
        pieces = self._pieces(generation, prompt, options, min(max_tokens, room), on_progress)
        generation.chunks = self._chunks(generation, pieces, options.stop, drop_space)
        return generation

    def _chunks(
        self, generation: Generation, pieces: Generator[bytes, None, None], stops: Sequence[str], drop_space: bool
    ) -> Iterator[str]:
        """The text, as it may be shown. Closing this releases the sampler at once, not when it is collected."""
        with closing(pieces):
            decoded = decode_utf8(pieces)
            text = until(without_first_space(decoded) if drop_space else decoded, stops)
            length = 0
            while True:
                try:
                    chunk = next(text)
                except StopIteration as end:
                    stopped = end.value
                    break
                length += len(chunk)
                if safe := printable(chunk):
                    yield safe
            if stopped:
                generation.reason = "stop"
                # a conversation hands these back as what was said: that ends where the text ends, too
                length += drop_space and self.vocabulary.decode(generation.ids).startswith(" ")
                whole, rest = whole_pieces(map(self.vocabulary.piece, generation.ids), length)
                generation.ids[whole:] = self.vocabulary.encode(rest)

    def _pieces(
        self, generation: Generation, prompt: list[int], options: SamplingOptions, limit: int, progress: Progress | None
    ) -> Generator[bytes, None, None]:
        """The bytes of each generated id; counts and times on the way."""
        began = time.perf_counter()
        if self._kept is not None:
            self._kept.switch(self.engine, prompt)
        generation.reused_tokens = min(shared_prefix(self.engine.tokens, prompt), len(prompt) - 1)

        def note(done: int, todo: int) -> None:
            generation.reused_tokens = len(prompt) - todo  # what is evaluated once more is not reused
            if progress:
                progress(done, todo)

        first = None
        with closing(self.engine.generate(prompt, options, limit, note, generation.logprobs)) as tokens:
            for token in tokens:
                now = time.perf_counter()
                first = first or now
                generation.prompt_seconds, generation.seconds = first - began, now - first
                generation.ids.append(token)
                generation.tokens += 1
                yield self.vocabulary.piece(token)
        if first is None:
            generation.prompt_seconds = time.perf_counter() - began
        generation.reason = "length" if generation.tokens >= limit else "end"

    def close(self) -> None:
        self.engine.close()

    def __enter__(self) -> "LocalBackend":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
