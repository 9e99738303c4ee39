"""A context that begins small and gives way to a larger one when the evaluated sequence outgrows it.

llama.cpp writes zeros over a whole KV cache when it makes one, so all of its memory is taken at once: for 16 384 tokens
of Lite 0.5 GB and 0.3 s before the first token, where most conversations end long before. So the first context is of
`FIRST` tokens, and the next ones twice as long each, up to the length that was asked for. What is evaluated moves along
as llama.cpp's own copy of its state. The numbers do not change: a graph is computed over the part of the cache that is
filled, however long the cache is.

Two contexts lie side by side for the moment of a move. Where memory is shared out to the last byte, to layers on a GPU
or to experts of a model larger than memory, the whole context is made at once.
"""

from collections.abc import Callable
from typing import Any

from coderv2_local.engine_errors import ContextFull, EngineError
from coderv2_local.llama_context import LlamaContext
from coderv2_local.placement.load_options import LoadOptions
from quant.errors import InputError

FIRST = 2048


class GrowingContext:
    """A context of at most ``options.n_ctx`` tokens.

    Args:
        make: makes a context of a length; raises EngineError.
        options: all of them decided; batches are no longer than the context.
        check_memory: raises InputError where there is no memory for a context of a length.

    Attributes:
        now: the context in use: another one after each growth.

    Raises:
        EngineError: from `make`.
    """

    def __init__(
        self, make: Callable[[int], LlamaContext], options: LoadOptions, check_memory: Callable[[int], None]
    ) -> None:
        self._make, self._check_memory = make, check_memory
        self._limit = options.n_ctx
        at_once = options.n_gpu_layers or options.stream_experts
        self.now = make(options.n_ctx if at_once else self._size_for(options.n_batch))

    @property
    def handle(self) -> Any:
        """The ``llama_context`` pointer in use."""
        return self.now.handle

    def reserve(self, n_tokens: int, *, carry: bool) -> None:
        """Make room for a sequence of `n_tokens`. Where that takes a new context, the last batch's logits are gone.

        Args:
            n_tokens: at most the limit.
            carry: what is evaluated must be there afterwards; False where nothing is, or it may be dropped.

        Raises:
            ContextFull: there is no memory for a longer one. All is as it was.
            EngineError: what is evaluated could not be moved. All is as it was.
        """
        if n_tokens <= self.now.size:
            return
        larger = None
        try:
            size = self._size_for(n_tokens)
            self._check_memory(size)
            state = self.now.state() if carry else None
            larger = self._make(size)
            if state is not None:
                larger.set_state(state)
        except (EngineError, InputError, MemoryError) as error:
            if larger:
                larger.close()
            raise ContextFull(
                f"the context has room for {self.now.size} tokens now and cannot grow: {error or 'no memory'}",
                hint="close other programs, or begin a new conversation",
            ) from None
        self.now.close()
        self.now = larger

    def _size_for(self, n_tokens: int) -> int:
        size = FIRST
        while size < n_tokens:
            size *= 2
        return min(size, self._limit)

    def close(self) -> None:
        """Release it. Safe to call twice."""
        self.now.close()
