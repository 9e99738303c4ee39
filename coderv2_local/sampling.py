"""How the next token is chosen: llama.cpp's own sampler chain, built from plain options."""

import ctypes
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from coderv2_local.llama_library import llama
from quant.errors import InputError

PENALTY_WINDOW = 64  # tokens that the repetition penalty looks back over


@dataclass(frozen=True)
class SamplingOptions:
    """Options of one generation.

    Attributes:
        temperature: 0 takes the most probable token each time.
        top_k, top_p, min_p: which tokens stay in the draw; 0, 1.0 and 0.0 turn each off.
        repeat_penalty: divides the logits of recent tokens; 1.0 turns it off.
        seed: of the draw; the same seed, prompt and settings give the same text.
        banned: ids that are never chosen.
        stop: texts that end the answer; they are not part of it.
        logit_bias: id → what is added to its logit.
        grammar: in GBNF, that the answer must follow.
        json_schema: that the answer must follow, as JSON; not together with `grammar`.
        logprobs: for how many of the most probable tokens log-probabilities are wanted; None for none at all.
    """

    temperature: float = 0.0
    top_k: int = 40
    top_p: float = 0.95
    min_p: float = 0.05
    repeat_penalty: float = 1.0
    seed: int = 0
    banned: Sequence[int] = ()
    stop: Sequence[str] = ()
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    grammar: str | None = None
    json_schema: str | None = None
    logprobs: int | None = None

    def __post_init__(self) -> None:
        for name, value, low, high in (
            ("temperature", self.temperature, 0, 10),
            ("top_k", self.top_k, 0, 1_000_000),
            ("top_p", self.top_p, 0, 1),
            ("min_p", self.min_p, 0, 1),
            ("repeat_penalty", self.repeat_penalty, 0.1, 10),
            ("seed", self.seed, 0, 2**32 - 1),
        ):
            if not low <= value <= high:
                raise InputError(f"{name} is {value}: it must be between {low} and {high}")


@dataclass(frozen=True)
class TokenLogprobs:
    """Natural logarithms of probabilities, before sampling options change them.

    Attributes:
        token, logprob: what was chosen.
        top: the most probable ids with theirs, best first.
    """

    token: int
    logprob: float
    top: Sequence[tuple[int, float]]


class Sampler:
    """A sampler chain in llama.cpp. Use it as a context manager, or call :meth:`close`."""

    def __init__(self, options: SamplingOptions, vocabulary_size: int) -> None:
        self._chain: Any = llama.llama_sampler_chain_init(llama.llama_sampler_chain_default_params())
        add = self._add
        if options.banned:
            biases = (llama.llama_logit_bias * len(options.banned))(*((i, float("-inf")) for i in options.banned))
            add(llama.llama_sampler_init_logit_bias(vocabulary_size, len(options.banned), biases))
        if options.repeat_penalty != 1.0:
            add(llama.llama_sampler_init_penalties(vocabulary_size, PENALTY_WINDOW, options.repeat_penalty, 0.0, 0.0))
        if options.temperature == 0:
            add(llama.llama_sampler_init_greedy())
            return
        if options.top_k:
            add(llama.llama_sampler_init_top_k(options.top_k))
        if options.top_p < 1:
            add(llama.llama_sampler_init_top_p(options.top_p, 1))
        if options.min_p > 0:
            add(llama.llama_sampler_init_min_p(options.min_p, 1))
        add(llama.llama_sampler_init_temp(options.temperature))
        add(llama.llama_sampler_init_dist(options.seed))

    def _add(self, sampler: Any) -> None:
        llama.llama_sampler_chain_add(self._chain, sampler)

    def pick(self, context: Any) -> int:
        """Choose from the logits of the last decoded position, and remember the choice for the repetition penalty."""
        return int(llama.llama_sampler_sample(self._chain, context, ctypes.c_int32(-1)))

    def close(self) -> None:
        if self._chain:
            llama.llama_sampler_free(self._chain)
            self._chain = None

    def __enter__(self) -> "Sampler":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
