"""Evaluated states kept in memory: the longest match is taken, and the least recently used gives way."""

import numpy as np
from tiny_engine import TINY, engine, evaluated, ids

from coderv2_local.local_backend import LocalBackend
from coderv2_local.placement.load_options import LoadOptions
from coderv2_local.sampling.sampler import SamplingOptions
from coderv2_local.states.kept_states import KeptStates

__all__ = ["engine", "ids"]


def test_going_back_to_another_conversation_evaluates_only_what_is_new(engine, ids):
    kept = KeptStates()
    a, b = ids[:150], [ids[0], *ids[40:190]]
    engine.evaluate(a)
    kept.keep(engine)
    expected = evaluated(engine, [*a, 9])[1]
    engine.truncate(len(a))
    kept.switch(engine, b)
    engine.evaluate(b)
    assert kept.switch(engine, [*a, 9]) == len(a)
    count, logits = evaluated(engine, [*a, 9])
    assert count == 1
    np.testing.assert_array_equal(logits, expected)
    assert kept.switch(engine, [*b, 9]) == len(b)  # and b was kept meanwhile


def test_the_longest_match_is_taken(engine, ids):
    kept = KeptStates()
    assert kept.best_match(ids) is None
    for tokens in (ids[:20], [*ids[:60], 3, 3], [*ids[:40], 4, 4]):
        engine.truncate(0)
        engine.evaluate(tokens)
        kept.keep(engine)
    assert kept.best_match(ids).tokens == [*ids[:60], 3, 3]
    assert kept.best_match([*ids[:40], 4, 4, 4]).tokens == [*ids[:40], 4, 4]
    assert kept.best_match([1, 2, 3]) is None


def test_a_conversation_that_goes_on_is_kept_once(engine, ids):
    kept = KeptStates()
    for length in (50, 100, 100, 70):
        engine.evaluate(ids[:length])
        kept.keep(engine)
    assert len(kept) == 1
    assert kept.best_match(ids).tokens == ids[:100]


def test_a_bound_on_memory_drops_the_least_recently_used(engine, ids):
    engine.evaluate(ids[:100])
    kept = KeptStates(max_bytes=int(2.5 * engine.state().nbytes))
    conversations = [[ids[0], 50 + i, *ids[1:99]] for i in range(3)]
    for conversation in conversations:
        engine.evaluate(conversation)
        kept.keep(engine)
    assert len(kept) == 2
    assert [len(kept.best_match(c).tokens) > 1 and kept.best_match(c).tokens == c for c in conversations] == [
        False,
        True,
        True,
    ]
    kept.clear()
    assert len(kept) == 0


def test_a_bound_on_their_number_drops_the_least_recently_used_too(engine, ids):
    kept = KeptStates(most=3)
    conversations = [[ids[0], 50 + i, *ids[1:99]] for i in range(5)]
    for conversation in conversations:
        engine.evaluate(conversation)
        kept.keep(engine)
    assert len(kept) == 3
    assert kept.nbytes == 3 * engine.state().nbytes
    assert [kept.best_match(c).tokens == c for c in conversations] == [False, False, True, True, True]


def test_little_is_not_worth_a_copy(engine, ids):
    kept = KeptStates()
    engine.evaluate(ids[:50])
    assert kept.switch(engine, ids[:10] + [3] * 10) == 10
    assert len(kept) == 0


def test_a_backend_switches_by_itself():
    with LocalBackend(TINY, LoadOptions(n_threads=1), kept=KeptStates()) as backend:
        text = "def add(a, b):\n    return a + b\n" * 8
        for name in "xyx":
            generation = backend.infill(f"# {name}\n{text}", "\n", SamplingOptions(), 3)
            "".join(generation)
        assert generation.reused_tokens == generation.prompt_tokens - 1
