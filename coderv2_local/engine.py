"""Token ids in, logits and ids out: one model and one context of llama.cpp, with prefix reuse. It knows no text.

What differs from llama-cpp-python's defaults, and why: weights stay memory-mapped and are not repacked (repacking
copies them into private memory: +5.9 GB on Lite, for no speed with flash attention), flash attention is on, the KV
cache is F16.
"""

from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Literal

import numpy as np
import numpy.typing as npt

from coderv2_local import llama_library
from coderv2_local.attention_tiles import AttentionTiles
from coderv2_local.engine_errors import Cancelled, ContextFull, EngineError
from coderv2_local.growing_context import GrowingContext
from coderv2_local.hooks import Dispatcher, Tap
from coderv2_local.interruptible import InterruptibleThread, is_stopped
from coderv2_local.llama_context import LlamaContext
from coderv2_local.llama_library import llama
from coderv2_local.loadable import check_loadable
from coderv2_local.mapped_model import load_model
from coderv2_local.placement.context_size import check_context
from coderv2_local.placement.load_options import DEFAULT_CONTEXT, DEFAULTS, LoadOptions
from coderv2_local.sampling.logprobs import TokenLogprobs
from coderv2_local.sampling.options import SamplingOptions
from coderv2_local.sampling.sampler import Sampler, last_logprobs
from coderv2_local.token_engine import shared_prefix
from coderv2_local.vocabulary import Vocabulary
from converters.gguf_header import GgufHeader, read_header
from quant.cores import usable_cores

__all__ = ["Cancelled", "ContextFull", "Engine", "EngineError", "shared_prefix"]

NO_SLOT, ABORTED = 1, 2  # llama_decode: the context is full; the abort callback said yes
ROOM = 512
"""Tokens of an answer for which a context that has to grow before it makes room at once."""


class Engine:
    """A loaded model with one sequence of evaluated tokens.

    Args:
        path: a GGUF file of this family.
        options: how it is put on this machine.
        taps: hooks on the eval callback (:mod:`coderv2_local.hooks`).
        header: of the file, where it has been read already.

    Attributes:
        n_ctx: how long a sequence may become; the context itself begins smaller
            (:mod:`coderv2_local.growing_context`).
        notices: what the user should know about how the model was loaded, a line each.

    Raises:
        InputError: the file is missing, no GGUF, or of another architecture; or there is no memory for the context.
        EngineError: llama.cpp refused it; the message carries what its log said.
    """

    def __init__(
        self,
        path: Path,
        options: LoadOptions = DEFAULTS,
        *,
        taps: Sequence[Tap] = (),
        header: GgufHeader | None = None,
    ) -> None:
        self._release = ExitStack()  # of what is not Python's, the last first
        self.path, self.options = path, options
        self.header = header or read_header(path)
        check_loadable(self.header, path)
        llama_library.start()
        self._model, self.notices = load_model(path, options)
        self._release.callback(llama.llama_model_free, self._model)
        trained: int = llama.llama_model_n_ctx_train(self._model)
        self.n_ctx = options.n_ctx or min(trained, DEFAULT_CONTEXT)
        check_context(self.header, self.n_ctx, options)
        self.n_batch = min(options.n_batch, self.n_ctx)
        self.n_threads = options.n_threads or usable_cores()
        self.tokens: list[int] = []  # what the KV cache holds
        self._tiles = AttentionTiles(self.header, options)
        self.taps = tuple(taps)
        self._dispatcher = Dispatcher(taps) if taps else None
        if self._dispatcher:
            self._release.callback(self._dispatcher.close)
        self._context = self._make_context()
        self._release.callback(self._context.close)
        self._is_cancelled = False
        self._thread = InterruptibleThread()
        self._release.callback(self._thread.close)
        self.vocabulary = Vocabulary(self._model, self.header.metadata.get("tokenizer.ggml.token_type"))
        if self._dispatcher:
            self._dispatcher.start(self.options)

    def _make_context(self) -> GrowingContext:
        decided = replace(self.options, n_ctx=self.n_ctx, n_batch=self.n_batch, n_threads=self.n_threads)
        model, dispatcher, header = self._model, self._dispatcher, self.header  # not self: that would be a cycle
        return GrowingContext(
            lambda size: LlamaContext(model, size, decided, dispatcher),
            decided,
            lambda size: check_context(header, size, decided),
        )

    def evaluate(
        self,
        ids: Sequence[int],
        *,
        every_position: bool = False,
        room: int = 0,
        on_progress: Callable[[int, int], None] | None = None,
    ) -> npt.NDArray[np.float32]:
        """Make `ids` the evaluated sequence; only what follows the longest shared prefix is computed.

        Args:
            ids: the whole sequence, at least one id.
            every_position: compute everything anew and return the logits of all positions.
            room: how many tokens will come after these: a context that has to grow does it once.
            on_progress: called after each batch, the last one too, with (tokens done, tokens to do). The latter are
                those that are computed: what was evaluated before can be among them (:mod:`.attention_tiles`). What it
                raises ends the evaluation and is raised here; what was evaluated before stays.

        Returns:
            Logits, (vocabulary,) of the last position, or (len(ids), vocabulary).

        Raises:
            ContextFull: `ids` is longer than the context, or there is no memory to let it grow so far.
            Cancelled: :meth:`cancel` was called; what was evaluated before stays.
            EngineError: llama.cpp failed, or a hook did.
            KeyboardInterrupt: Ctrl-C, also in the middle of a batch; what was evaluated before stays.
        """
        if not ids:
            raise ValueError("no ids to evaluate")
        if len(ids) > self.n_ctx:
            raise ContextFull(f"{len(ids)} tokens do not fit the context of {self.n_ctx}")
        self._thread.resume()
        keep = self._thread.run(lambda: self._begin(ids, room, anew=every_position))
        rows = []
        for start in range(keep, len(ids), self.n_batch):
            piece = ids[start : start + self.n_batch]
            last = start + len(piece) == len(ids)
            self._decode(piece, outputs="all" if every_position else "last" if last else "none")
            if every_position:
                rows.append(self._read_logits(len(piece)))
            if on_progress:
                on_progress(start + len(piece) - keep, len(ids) - keep)
        return np.concatenate(rows) if every_position else self._read_logits(1)[0]

    def generate(
        self,
        ids: Sequence[int],
        options: SamplingOptions,
        max_tokens: int,
        on_progress: Callable[[int, int], None] | None = None,
        logprobs: list[TokenLogprobs] | None = None,
    ) -> Generator[int, None, None]:
        """Ids that continue `ids`, until an end token or a stop id (not yielded), `max_tokens`, or a full context.

        Stop iterating, or close the iterator, to cancel: what was yielded stays evaluated but for the last id. Stop
        strings are not looked for: the engine knows no text.

        Args:
            logprobs: gets the log-probabilities of each id before it is yielded, where the options ask for them.

        Raises:
            InputError: the options name ids that the vocabulary does not have, or a grammar that cannot be followed.
            GrammarDeadEnd: nothing that the model can write fits the grammar.
            ContextFull, Cancelled, EngineError, KeyboardInterrupt: as :meth:`evaluate`.
        """
        with Sampler(options, self.vocabulary) as sampler:
            self.evaluate(ids, room=min(max_tokens, ROOM), on_progress=on_progress)
            for n in range(max_tokens):
                token = sampler.pick(self._context.handle)
                if self.vocabulary.is_end(token) or token in options.stop_ids:
                    return
                if options.logprobs is not None and logprobs is not None:
                    logprobs.append(last_logprobs(self._context.handle, self.vocabulary.size, token, options.logprobs))
                yield token
                if n + 1 < max_tokens:
                    if len(self.tokens) == self.n_ctx:
                        return
                    self._decode([token], outputs="last")

    def cancel(self) -> None:
        """End what :meth:`evaluate` or :meth:`generate` does now, from another thread: it raises Cancelled there, once.

        Where neither is at work, the next one ends so: what is about to begin is not missed.
        """
        self._is_cancelled = True
        self._thread.stop()

    def resume(self) -> None:
        """Take back a :meth:`cancel` that came when nothing was left to end."""
        self._is_cancelled = False
        self._thread.resume()

    def truncate(self, length: int) -> None:
        """Forget all but the first `length` evaluated tokens."""
        self._thread.run(lambda: self._forget(length))

    @property
    def version(self) -> str:
        """What computes: a state of another is not its own."""
        return llama_library.version()

    def state(self) -> npt.NDArray[np.uint8]:
        """A copy of what is evaluated, to hand to :meth:`set_state` later: (bytes,), about the KV cache's size.

        Raises:
            EngineError: llama.cpp could not write it.
        """
        return self._thread.run(lambda: self._context.now.state())

    def set_state(self, tokens: Sequence[int], data: npt.NDArray[np.uint8]) -> None:
        """Make `tokens` the evaluated sequence, from what :meth:`state` gave for them.

        llama.cpp trusts the bytes: they must be those that were written, by the same llama.cpp, for the same model.

        Raises:
            ContextFull: more tokens than the context holds, or there is memory for; nothing has changed.
            EngineError: llama.cpp did not take them; nothing is evaluated now.
        """
        if len(tokens) > self.n_ctx:
            raise ContextFull(f"a state of {len(tokens)} tokens does not fit the context of {self.n_ctx}")
        self._thread.run(lambda: self._take_state(tokens, data))

    def _decode(self, ids: Sequence[int], *, outputs: Literal["all", "last", "none"]) -> None:
        try:
            if self._is_cancelled or self._thread.stopped:
                raise Cancelled("cancelled")
            self._thread.run(lambda: self._decode_batch(ids, outputs))
        except Cancelled:
            self._is_cancelled = False
            raise

    # What follows runs on the engine's thread, where no interrupt can fall between the cache and the list of tokens.

    def _begin(self, ids: Sequence[int], room: int, *, anew: bool) -> int:
        """Keep what `ids` share with what is evaluated, and make room for them and as many as `room` after them.

        Returns:
            How many of `ids` need not be evaluated; the last always is: its logits are wanted.
        """
        keep = 0 if anew else self._tiles.begin(min(shared_prefix(self.tokens, ids), len(ids) - 1), len(ids))
        self._forget(keep)
        self._reserve(min(len(ids) + room, self.n_ctx))
        return keep

    def _reserve(self, n_tokens: int) -> None:
        """Let the context grow, if it must. Never between a decode and who reads its logits: they would be gone."""
        self._context.reserve(n_tokens, carry=bool(self.tokens))

    def _forget(self, length: int) -> None:
        if length < len(self.tokens):
            self._context.now.forget(length)
            del self.tokens[length:]

    def _take_state(self, tokens: Sequence[int], data: npt.NDArray[np.uint8]) -> None:
        self._context.reserve(len(tokens), carry=False)
        self.tokens.clear()
        self._context.now.set_state(data)
        self.tokens[:] = tokens

    def _decode_batch(self, ids: Sequence[int], outputs: Literal["all", "last", "none"]) -> None:
        n, start = len(ids), len(self.tokens)
        self._reserve(start + n)
        batch = llama.llama_batch_init(n, 0, 1)
        try:
            batch.n_tokens = n
            for i, token in enumerate(ids):
                batch.token[i], batch.pos[i] = token, start + i
                batch.n_seq_id[i], batch.seq_id[i][0] = 1, 0
                batch.logits[i] = outputs == "all" or (outputs == "last" and i == n - 1)
            llama.llama_set_abort_callback(self._context.handle, is_stopped, self._thread.flag.address)
            status = llama.llama_decode(self._context.handle, batch)
            if status == ABORTED:
                raise Cancelled("cancelled")
            if self._dispatcher:
                self._dispatcher.raise_pending()
            if status == NO_SLOT:
                raise ContextFull(f"the context of {self.n_ctx} tokens is full")
            if status:
                raise EngineError(
                    f"llama.cpp could not evaluate a batch (status {status}): {llama_library.complaints()}"
                )
            self.tokens += ids
        except BaseException:
            self._context.now.forget(start)
            if self._dispatcher:
                self._dispatcher.abandon()
            raise
        finally:
            llama.llama_batch_free(batch)

    def _read_logits(self, rows: int) -> npt.NDArray[np.float32]:
        """A copy of the logits of the last batch's outputs: (rows, vocabulary)."""
        pointer = llama.llama_get_logits(self._context.handle)
        return np.array(np.ctypeslib.as_array(pointer, shape=(rows, self.vocabulary.size)), dtype=np.float32)

    def close(self) -> None:
        """Release model and context. Safe to call twice."""
        self._release.close()

    def __enter__(self) -> "Engine":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        with suppress(Exception):
            self.close()
