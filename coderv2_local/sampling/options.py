"""The options of one generation: how the next token is chosen, and when it ends. No engine is needed to hold them."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from coderv2_local.sampling.gbnf import check_grammar
from coderv2_local.sampling.json_schema import grammar_of
from quant.errors import InputError

MAX_LOGPROBS = 100  # ids a token


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
        stop_ids: ids that end it as the vocabulary's own ends do; they are not part of it either.
        logit_bias: id → what is added to its logit.
        grammar: in GBNF, that the answer must follow.
        json_schema: that the answer must follow, as JSON; not together with `grammar`.
        logprobs: for how many of the most probable tokens log-probabilities are wanted; None for none at all.

    Raises:
        InputError: a value out of its range, or both a grammar and a schema.
    """

    temperature: float = 0.0
    top_k: int = 40
    top_p: float = 0.95
    min_p: float = 0.05
    repeat_penalty: float = 1.0
    seed: int = 0
    banned: Sequence[int] = ()
    stop: Sequence[str] = ()
    stop_ids: Sequence[int] = ()
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
            ("logprobs", self.logprobs or 0, 0, MAX_LOGPROBS),
        ):
            if not low <= value <= high:
                raise InputError(f"{name} is {value}: it must be between {low} and {high}")
        for token, bias in self.logit_bias.items():
            if math.isnan(bias) or bias == math.inf:
                raise InputError(f"logit_bias of {token} is {bias}: it must be a number, or -inf to ban the token")
        if self.grammar is not None and self.json_schema is not None:
            raise InputError("both a grammar and a JSON schema are given", hint="give one of them")

    def effective_grammar(self) -> str | None:
        """The grammar that the answer must follow: the one given, or that of the schema.

        Raises:
            InputError: llama.cpp cannot use it, or a part of the schema is not supported.
        """
        if self.json_schema is not None:
            return grammar_of(self.json_schema)
        if self.grammar is not None:
            check_grammar(self.grammar)
        return self.grammar
