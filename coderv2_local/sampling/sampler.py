"""How the next token is chosen: llama.cpp's own sampler chain, built from plain options."""

import ctypes
import math
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from coderv2_local.llama_library import llama
from coderv2_local.sampling.gbnf import ROOT
from coderv2_local.sampling.logprobs import TokenLogprobs, token_logprobs
from coderv2_local.sampling.options import SamplingOptions
from coderv2_local.vocabulary import Vocabulary
from quant.errors import CoderError, InputError

__all__ = ["GrammarDeadEnd", "Sampler", "SamplingOptions", "TokenLogprobs"]

PENALTY_WINDOW = 64  # tokens that the repetition penalty looks back over
MAX_GRAMMAR_SECONDS = 5.0
"""Of this thread's own processor time, for one token; an ordinary grammar takes milliseconds."""

_CANDIDATE = np.dtype([("id", np.int32), ("logit", np.float32), ("p", np.float32)])  # llama_token_data


class GrammarDeadEnd(CoderError):
    """Nothing in the vocabulary fits the grammar here, or finding out takes too long."""


class Sampler:
    """A sampler chain in llama.cpp. Use it as a context manager, or call :meth:`close`.

    The order is that of llama.cpp's own programs: biases, penalties, top-k, top-p, min-p, temperature, the draw. A
    grammar stands outside the chain: looking through a vocabulary of 100 000 tokens takes longer than the rest, so the
    chain chooses first, and only where its choice does not fit does the grammar go over all tokens and the chain choose
    again. llama.cpp ends the process when a token is accepted that does not fit; none is, here.

    Args:
        vocabulary: of the loaded model, which outlives this object.

    Raises:
        InputError: an id that the vocabulary does not have, or a grammar that cannot be followed.
    """

    def __init__(self, options: SamplingOptions, vocabulary: Vocabulary) -> None:
        self._chain: Any = None
        self._grammar: Any = None
        self._size = vocabulary.size
        biases = [*options.logit_bias.items(), *((i, -math.inf) for i in options.banned)]
        for token in [*(token for token, _ in biases), *options.stop_ids]:
            if not 0 <= token < self._size:
                raise InputError(f"there is no token {token}: this model has {self._size}")
        self._forbidden = sorted({token for token, bias in biases if bias == -math.inf})
        grammar = options.effective_grammar()
        if grammar is not None:
            self._grammar = llama.llama_sampler_init_grammar(vocabulary.handle, grammar.encode(), ROOT.encode())
            if not self._grammar:
                raise InputError("llama.cpp does not take this grammar", hint="it may be left-recursive")
        self._chain = llama.llama_sampler_chain_init(llama.llama_sampler_chain_default_params())
        self._fill_chain(options, biases)

    def _fill_chain(self, options: SamplingOptions, biases: Sequence[tuple[int, float]]) -> None:
        add = self._add
        if biases:
            array = (llama.llama_logit_bias * len(biases))(*biases)
            add(llama.llama_sampler_init_logit_bias(self._size, len(biases), array))
        if options.repeat_penalty != 1.0:
            add(llama.llama_sampler_init_penalties(self._size, PENALTY_WINDOW, options.repeat_penalty, 0.0, 0.0))
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
        """Choose from the logits of the last decoded position, and remember the choice for what comes next.

        Raises:
            GrammarDeadEnd: no token fits the grammar here, or the last one took more than `MAX_GRAMMAR_SECONDS`:
                llama.cpp's work can double with each token, and nothing ends it in between.
        """
        if not self._grammar:
            return int(llama.llama_sampler_sample(self._chain, context, ctypes.c_int32(-1)))
        began = time.thread_time()
        token = self._pick_by_grammar(context)
        if time.thread_time() - began > MAX_GRAMMAR_SECONDS:
            raise GrammarDeadEnd("the grammar leaves so many readings open here that the answer cannot go on")
        return token

    def _pick_by_grammar(self, context: Any) -> int:
        logits = last_logits(context, self._size)
        token = self._choose(self._candidates(logits))
        if not self._fits(token):
            allowed = self._candidates(logits)
            _apply(self._grammar, allowed)
            allowed["logit"][self._forbidden] = -np.inf
            if not np.isfinite(allowed["logit"]).any():
                raise GrammarDeadEnd("no token of this model fits the grammar here: the answer cannot go on")
            token = self._choose(allowed[np.isfinite(allowed["logit"])])
        llama.llama_sampler_accept(self._grammar, token)
        llama.llama_sampler_accept(self._chain, token)
        return token

    def _candidates(self, logits: npt.NDArray[np.float32]) -> npt.NDArray[Any]:
        found = np.zeros(self._size, _CANDIDATE)
        found["id"], found["logit"] = np.arange(self._size, dtype=np.int32), logits
        return found

    def _choose(self, candidates: npt.NDArray[Any]) -> int:
        return int(candidates["id"][_apply(self._chain, candidates)])

    def _fits(self, token: int) -> bool:
        """Does the grammar allow `token` now? Banned ids never do, whatever the chain made of them."""
        one = np.array([(token, 1.0, 0.0)], _CANDIDATE)
        _apply(self._grammar, one)
        return bool(np.isfinite(one["logit"][0])) and token not in self._forbidden

    def close(self) -> None:
        """Release what llama.cpp holds. Safe to call twice."""
        for sampler in (self._chain, self._grammar):
            if sampler:
                llama.llama_sampler_free(sampler)
        self._chain = self._grammar = None

    def __enter__(self) -> "Sampler":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def last_logits(context: Any, size: int) -> npt.NDArray[np.float32]:
    """The logits of the last decoded position, (size,): a view that the next decode overwrites."""
    pointer = llama.llama_get_logits_ith(context, -1)
    view: npt.NDArray[np.float32] = np.ctypeslib.as_array(pointer, shape=(size,))
    return view


def last_logprobs(context: Any, size: int, token: int, n: int) -> TokenLogprobs:
    """Log-probabilities at the last decoded position (:func:`token_logprobs`)."""
    return token_logprobs(last_logits(context, size), token, n)


def _apply(sampler: Any, candidates: npt.NDArray[Any]) -> int:
    """Let a sampler work on the candidates, in place, and return the place of its choice; -1 where it makes none."""
    array = llama.llama_token_data_array(
        candidates.ctypes.data_as(llama.llama_token_data_p), len(candidates), -1, False
    )
    llama.llama_sampler_apply(sampler, ctypes.byref(array))
    return int(array.selected)
