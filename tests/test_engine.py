"""The engine: the same ids give the same logits, whatever was evaluated before."""

import os
import signal
import threading
import time

import numpy as np
import pytest

from coderv2_local.engine import ContextFull, Engine, shared_prefix
from coderv2_local.load_options import LoadOptions
from coderv2_local.models import find_model
from coderv2_local.sampling import SamplingOptions
from quant.errors import InputError


@pytest.fixture(scope="module")
def engine():
    with Engine(find_model("tiny").path, LoadOptions(n_ctx=512, n_threads=1, n_batch=64)) as engine:
        yield engine


@pytest.fixture
def ids(engine):
    return [engine.vocabulary.bos, *engine.vocabulary.encode("def add(a, b):\n    return a + b\n" * 12)]


def test_a_shared_prefix_is_not_evaluated_again(engine, ids):
    whole = engine.evaluate(ids)
    steps = []
    other = [*ids[:100], *ids[50:90]]
    engine.evaluate(other, on_progress=lambda done, of: steps.append(of))
    assert steps == [len(other) - 100]
    engine.truncate(0)
    np.testing.assert_allclose(engine.evaluate(ids), whole, rtol=0, atol=2e-2)


def test_batches_do_not_change_the_logits(engine, ids):
    rows = engine.evaluate(ids, every_position=True)
    assert rows.shape == (len(ids), engine.vocabulary.size)
    np.testing.assert_allclose(rows[-1], engine.evaluate(ids), rtol=0, atol=2e-2)


def test_greedy_generation_is_what_the_logits_say(engine, ids):
    generated = list(engine.generate(ids, SamplingOptions(), 5))
    expected = []
    for _ in generated:
        expected.append(int(np.argmax(engine.evaluate([*ids, *expected]))))
    assert generated == expected


def test_the_seed_decides_the_draw(engine, ids):
    def draw(seed):
        return list(engine.generate(ids[:20], SamplingOptions(temperature=1.5, top_p=1, min_p=0, seed=seed), 12))

    assert draw(1) == draw(1)
    assert len({tuple(draw(seed)) for seed in range(6)}) > 1


def test_banned_ids_are_never_chosen(engine, ids):
    best = int(np.argmax(engine.evaluate(ids)))
    first = next(engine.generate(ids, SamplingOptions(banned=[best]), 1))
    assert first != best


def test_the_repetition_penalty_ends_a_loop(engine, ids):
    def longest_run(penalty):
        options = SamplingOptions(repeat_penalty=penalty, banned=engine.vocabulary.special_ids())
        text = list(engine.generate([ids[0], *engine.vocabulary.encode("a, b, " * 8)], options, 40))
        return max(text.count(token) for token in text)

    assert longest_run(3.0) < longest_run(1.0)


def test_a_full_context_is_said_and_ends_a_generation(engine, ids):
    with pytest.raises(ContextFull, match="do not fit"):
        engine.evaluate([ids[0]] * 513)
    start = (ids * 3)[:500]
    assert len(list(engine.generate(start, SamplingOptions(banned=engine.vocabulary.special_ids()), 100))) <= 13


@pytest.mark.skipif(os.name == "nt", reason="sends SIGINT to itself")
def test_ctrl_c_ends_a_running_batch_and_the_engine_goes_on(engine, ids):
    with Engine(find_model("tiny").path, LoadOptions(n_ctx=2048, n_threads=1, n_batch=2048)) as slow:
        long = (ids * 20)[:2000]
        began = time.monotonic()
        slow.evaluate(long)
        whole = time.monotonic() - began
        slow.truncate(0)
        threading.Timer(whole / 10, os.kill, (os.getpid(), signal.SIGINT)).start()
        began = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            slow.evaluate(long)
        assert time.monotonic() - began < whole  # stopped, not waited for
        assert slow.tokens == []
        assert slow.evaluate(ids[:50]).shape == (slow.vocabulary.size,)


def test_other_files_are_refused_by_name(tmp_path):
    (tmp_path / "a.gguf").write_bytes(b"not a model at all, but long enough to be looked at")
    for path in (tmp_path / "missing.gguf", tmp_path / "a.gguf"):
        with pytest.raises(InputError, match=path.name):
            Engine(path)


def test_shared_prefix():
    assert shared_prefix([1, 2, 3], [1, 2, 4, 5]) == 2
    assert shared_prefix([], [1]) == 0
    assert shared_prefix([1, 2], [1, 2]) == 2
