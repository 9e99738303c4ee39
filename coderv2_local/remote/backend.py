"""A server as a backend: chat by /v1/chat/completions; infill by the one way of three that the server has."""

import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import AbstractContextManager, closing
from types import TracebackType
from typing import Any

from coderv2_local.backend import MINIMUM_ANSWER, Capabilities, Generation, Progress, without_first_space
from coderv2_local.engine_errors import ContextFull
from coderv2_local.prompt.layout import ChatFormat, Message, chat_format
from coderv2_local.remote.answers import DONE, read_event
from coderv2_local.remote.client import Client
from coderv2_local.remote.failures import RemoteError
from coderv2_local.remote.flavours import Flavour, Served, recognize
from coderv2_local.remote.infill import infill_request, why_no_infill
from coderv2_local.remote.request_fields import sampling_fields
from coderv2_local.remote.server_sent_events import EventTooLarge, event_data
from coderv2_local.remote.tokens import Tokenizer
from coderv2_local.sampling.options import SamplingOptions
from coderv2_local.stream import printable, until
from quant.errors import InputError

FULL_SIZE = (235e9, 236.5e9)
"""Between these lie the parameters of DeepSeek-Coder-V2: 235.74 billion."""
LONGEST_MS = 24 * 3600 * 1000
"""That an answer by `coder serve` may take; an hour unless a request says otherwise."""
TOKEN_CHARACTERS = 256
"""The longest token of this family has 128 characters: more text than that has not been asked for."""


class RemoteBackend:
    """A model on a server.

    Args:
        client: of the server; closed with this, and where this cannot be made.

    Attributes:
        server: what kind of server it is, and where, to show.
        model: the id that requests give; `name` is its last part.
        no_infill: why there is no infill; "" where there is.
        suits: "temperature" and "repeat_penalty" that the model needs, where the server is `coder serve`; else empty.

    Raises:
        InputError: the model has to be named, or the server refused.
        RemoteError: there is no such server.
    """

    def __init__(self, client: Client) -> None:
        self._client = client
        try:
            self._served = served = recognize(client)
            self._tokenizer = Tokenizer(client, served)
            self.no_infill = why_no_infill(served, self._tokenizer)
        except BaseException:
            client.close()
            raise
        self.model = served.model
        self.name = shown_name(served)
        self.server = f"{'coder serve' if served.is_own else served.flavour.value} at {client.address}"
        self.n_ctx = served.n_ctx
        self.suits = served.suits
        self.vocabulary_id = ""
        self.capabilities = Capabilities(
            # a server of ours keeps the ids to itself and encodes the text of an answer to the same ones: it can go on
            # with an answer as if they had been handed back
            resume=served.is_own,
            infill=not self.no_infill,
            grammar=served.flavour is Flavour.LLAMA_SERVER,
        )

    @property
    def notices(self) -> list[str]:
        """What the user should know about this connection."""
        key, address = self._client.key, self._client.address
        if key and not address.encrypted and not address.is_loopback:
            return [f"The key in {key.variable} travels to {address} unencrypted: use https:// where you can."]
        return []

    def within(self, seconds: float) -> AbstractContextManager[None]:
        """Meanwhile, nothing is waited for longer than `seconds` from now: what takes longer is a RemoteError."""
        return self._client.within(seconds)

    def count(self, text: str) -> int | None:
        return self._tokenizer.count(text)

    def prompt_length(self, messages: Sequence[Message]) -> int | None:
        return self._tokenizer.prompt_length(messages)

    def chat(
        self,
        messages: Sequence[Message],
        options: SamplingOptions,
        max_tokens: int,
        on_progress: Progress | None = None,
    ) -> Generation:
        """The assistant's next turn.

        Where the server cannot count, only its own refusal shows that the context is full: then ContextFull comes
        while iterating.

        Raises:
            ContextFull: too little room is left for an answer.
            InputError: an option that this kind of server does not know.
            RemoteError: the server failed. Both also while iterating.
        """
        length = self.prompt_length(messages) if self.n_ctx else None
        limit = self._limit(length, max_tokens)
        body = {
            "model": self.model,
            "messages": [{"role": m.role, "content": m.content} for m in messages],
            "max_tokens": limit,
            "stream": True,
            "stream_options": {"include_usage": True},
            **sampling_fields(options, self._served.flavour),
        }
        if self._served.is_own:  # who asks can wait, and hangs up when not
            body["deadline_ms"] = LONGEST_MS
        if on_progress and self._served.flavour is Flavour.LLAMA_SERVER:
            body["return_progress"] = True
        generation = Generation(iter(()), length)
        url = f"{self._client.address.api}/chat/completions"
        generation.chunks = self._chunks(url, body, generation, options, limit, on_progress)
        if self._is_plain_layout():
            generation.chunks = without_first_space(generation.chunks)
        return generation

    def infill(
        self,
        prefix: str,
        suffix: str,
        options: SamplingOptions,
        max_tokens: int,
        on_progress: Progress | None = None,
    ) -> Generation:
        """The text between `prefix` and `suffix`. Raises as :meth:`chat`, and InputError where there is no infill."""
        if self.no_infill:
            raise InputError(
                f"{self.server} cannot fill in: {self.no_infill}",
                hint="`coder fim` without -m, or with a Lite-Base file, runs here",
            )
        request = infill_request(self._client.address, self._served, self._tokenizer, prefix, suffix, max_tokens)
        limit = self._limit(request.prompt_tokens, request.max_tokens)
        body = request.body(limit) | sampling_fields(options, self._served.flavour)
        generation = Generation(iter(()), request.prompt_tokens)
        generation.chunks = self._chunks(request.url, body, generation, options, limit, on_progress)
        return generation

    def _limit(self, prompt_tokens: int | None, max_tokens: int) -> int:
        """How many tokens can be generated."""
        if self.n_ctx is None or prompt_tokens is None:
            return max_tokens
        room = self.n_ctx - prompt_tokens
        if room < min(max_tokens, MINIMUM_ANSWER):
            raise ContextFull(
                f"the prompt has {prompt_tokens} tokens and the context of the server {self.n_ctx}: "
                "no room for an answer",
                hint="less text, or a server that is started with more context",
            )
        return min(max_tokens, room)

    def _is_plain_layout(self) -> bool:
        """Does an answer begin with a space that belongs to the layout (`Assistant: …`)?"""
        if self._served.is_own:
            return False
        if self._served.template is None:
            return self._served.flavour in (Flavour.VLLM, Flavour.SGLANG, Flavour.LLAMA_CPP_PYTHON)
        try:
            return chat_format(self._served.template) is ChatFormat.PLAIN
        except InputError:
            return False

    def _chunks(
        self,
        url: str,
        body: dict[str, Any],
        generation: Generation,
        options: SamplingOptions,
        max_tokens: int,
        on_progress: Progress | None,
    ) -> Iterator[str]:
        """Text that is safe to show, up to a stop string. Closing this closes the connection."""
        with closing(self._texts(url, body, generation, max_tokens, on_progress)) as texts:
            for chunk in until(texts, options.stop):
                if safe := printable(chunk):
                    yield safe
        generation.reason = generation.reason or "stop"

    def _texts(
        self, url: str, body: dict[str, Any], generation: Generation, max_tokens: int, on_progress: Progress | None
    ) -> Generator[str, None, None]:
        """The texts of the events; the counts go into `generation`."""
        began = time.perf_counter()
        first = None
        room = max_tokens * TOKEN_CHARACTERS
        address, limits = self._client.address, self._client.limits
        with closing(self._client.stream(url, body)) as stream:
            try:
                for data in event_data(stream):
                    if data.strip() == DONE:
                        break
                    piece = read_event(data, address, self._client.key)
                    if piece.is_life:
                        stream.alive(limits.first_token if piece.progress else limits.between_tokens)
                    if piece.progress and on_progress:
                        on_progress(*piece.progress)
                    if piece.prompt_tokens is not None:
                        generation.prompt_tokens = piece.prompt_tokens
                    if piece.reused_tokens is not None:
                        generation.reused_tokens = piece.reused_tokens
                    room -= len(piece.text) + piece.thought
                    if piece.text:
                        now = time.perf_counter()
                        first = first or now
                        generation.prompt_seconds, generation.seconds = first - began, now - first
                        generation.tokens += 1  # an event is a token or a few: until the server says how many
                    if piece.tokens is not None:
                        generation.tokens = piece.tokens
                    if piece.text:
                        yield piece.text
                    generation.reason = piece.reason or generation.reason
                    if room < 0:  # it does not keep to max_tokens
                        generation.reason = "length"
                        return
            except EventTooLarge as error:
                raise RemoteError(f"{address} sends {error}") from None
            except RemoteError:
                if generation.reason is None:
                    raise
                # the answer is complete: only the figures after it are missing
        if generation.reason is None:
            raise RemoteError(
                f"{address} ended the connection in the middle of the answer",
                hint="what came so far is above; the server's own log says more",
            )

    def save_state(self, name: str) -> None:
        pass

    def restore_state(self, name: str) -> str | None:
        return None

    def close(self) -> None:
        self._client.close()

    def __enter__(self) -> "RemoteBackend":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def shown_name(served: Served) -> str:
    """A model's id without folders; with its size where the server says that it is the 236B."""
    name = printable(served.model.replace("\\", "/").rstrip("/").rpartition("/")[2]) or "model"
    is_full = FULL_SIZE[0] < (served.parameters or 0) < FULL_SIZE[1] and "236b" not in name.lower()
    return f"{name} (236B)" if is_full else name
