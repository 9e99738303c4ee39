"""The engine: the same ids give the same logits, whatever was evaluated before."""

import gc
import itertools
import os
import random
import shutil
import signal
import threading
import time

import numpy as np
import psutil
import pytest

from coderv2_local.engine import Cancelled, ContextFull, Engine, EngineError, shared_prefix
from coderv2_local.hooks import HookError
from coderv2_local.llama_library import llama
from coderv2_local.models import find_model
from coderv2_local.placement.load_options import LoadOptions
from coderv2_local.sampling.sampler import SamplingOptions
from coderv2_local.vocabulary import Vocabulary
from converters.gguf_header import read_header
from quant.errors import InputError

GRAMMAR = 'root ::= ("def " [a-z]{1,300} "\\n")+'


class Router:
    """A tap that stops every layer, as exact routing does."""

    name = "router"
    fail = False

    def wants(self, node_name):
        return node_name.startswith("ffn_moe_topk")

    def __call__(self, node_name, tensor):
        if self.fail:
            raise RuntimeError("broken on purpose")


@pytest.fixture(scope="module")
def engine():
    with Engine(find_model("tiny").path, LoadOptions(n_ctx=512, n_threads=1, n_batch=64)) as engine:
        yield engine


@pytest.fixture
def ids(engine):
    return [engine.vocabulary.bos, *engine.vocabulary.encode("def add(a, b):\n    return a + b\n" * 12)]


@pytest.mark.parametrize("repack", [False, True])
def test_llama_is_told_to_repack_only_where_that_is_asked_for(repack, monkeypatch):
    given = []
    load = llama.llama_model_load_from_file

    def spy(path, params):
        given.append((params.use_extra_bufts, params.load_mode))
        return load(path, params)

    monkeypatch.setattr(llama, "llama_model_load_from_file", spy)
    with Engine(find_model("tiny").path, LoadOptions(n_ctx=64, n_threads=1, repack=repack)):
        assert given == [(repack, llama.LLAMA_LOAD_MODE_MMAP)]


@pytest.mark.parametrize("of", [list, tuple])
def test_the_prefix_that_two_sequences_share(of):
    for a, b, shared in (
        ((), (), 0),
        ((1, 2), (), 0),
        ((1, 2), (1, 2), 2),
        ((1, 2), (1, 2, 3), 2),
        ((1, 2, 3), (1, 2), 2),
        ((1, 2, 3), (1, 9, 3), 1),
        ((5, 2), (1, 2), 0),
    ):
        assert shared_prefix(list(a), of(b)) == shared


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


def test_a_failing_hook_is_raised_and_the_engine_goes_on(ids):
    router = Router()
    with Engine(find_model("tiny").path, LoadOptions(n_ctx=512, n_threads=1, n_batch=64), taps=[router]) as engine:
        engine.evaluate(ids[:80])
        expected = engine.evaluate(ids[:90])
        engine.truncate(80)
        router.fail = True
        with pytest.raises(HookError, match="broken on purpose"):
            engine.evaluate(ids)
        assert engine.tokens == ids[:80]
        router.fail = False
        # what the failed batch left in the cache is gone: the next tokens are not evaluated beside it
        np.testing.assert_array_equal(engine.evaluate(ids[:90]), expected)


def test_another_thread_can_cancel_a_prompt(ids):
    """A batch of 2000 tokens, cancelled at once: it ends before its time, and the next one runs."""
    with Engine(find_model("tiny").path, LoadOptions(n_ctx=2048, n_threads=1, n_batch=2048), taps=[Router()]) as slow:
        long = (ids * 20)[:2000]
        began = time.monotonic()
        slow.evaluate(long)
        whole = time.monotonic() - began
        slow.truncate(0)
        threading.Timer(whole / 10, slow.cancel).start()
        began = time.monotonic()
        with pytest.raises(Cancelled):
            slow.evaluate(long)
        assert time.monotonic() - began < whole
        assert slow.tokens == []
        assert slow.evaluate(ids[:50]).shape == (slow.vocabulary.size,)


def test_another_thread_can_cancel_between_tokens(engine, ids):
    tokens = engine.generate(ids[:50], SamplingOptions(banned=[engine.vocabulary.eos]), 100)
    next(tokens)
    engine.cancel()
    with pytest.raises(Cancelled):
        next(tokens)
    assert engine.tokens == ids[:50]
    assert len(list(engine.generate(ids[:50], SamplingOptions(), 3))) == 3


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs interval timers")
def test_an_interrupt_at_any_moment_leaves_tokens_and_cache_agreed(ids):
    """Ctrl-C, 200 times, wherever it falls: in a batch, between two, in Python, in the wait for a batch's end."""

    def interrupt(_, frame):
        while frame and "coderv2_local" not in frame.f_code.co_filename:
            frame = frame.f_back
        if frame:  # not while this test itself cleans up
            raise KeyboardInterrupt

    before, rng = signal.signal(signal.SIGALRM, interrupt), random.Random(1)
    options = SamplingOptions(temperature=1.0)
    with Engine(find_model("tiny").path, LoadOptions(n_ctx=512, n_threads=1, n_batch=32), taps=[Router()]) as engine:
        try:
            caught = 0
            for _ in range(200):
                prompt = ids[: rng.randrange(40, len(ids))]
                try:
                    signal.setitimer(signal.ITIMER_REAL, rng.uniform(0.0005, 0.03), rng.uniform(0.0005, 0.01))
                    for _token in engine.generate(prompt, options, 20):
                        pass
                except KeyboardInterrupt:
                    caught += 1
                finally:
                    signal.setitimer(signal.ITIMER_REAL, 0)
        finally:
            signal.signal(signal.SIGALRM, before)
        assert caught > 100
        engine.evaluate(ids[:64])
        with Engine(find_model("tiny").path, LoadOptions(n_ctx=512, n_threads=1, n_batch=32)) as fresh:
            fresh.evaluate(ids[:64])
            fresh.truncate(63)
            engine.truncate(63)
            difference = np.abs(engine.evaluate(ids[:64]) - fresh.evaluate(ids[:64])).max()
        assert difference < 0.5  # what the cache holds came out of other batches; a hole or a double would be far off


def test_a_thousand_cancellations_leak_nothing(engine, ids):
    """Tokens, prompts and grammars, each given up: resident memory stays where it was after the first hundred."""
    process = psutil.Process()
    ways = [SamplingOptions(grammar=GRAMMAR, temperature=1.0), SamplingOptions(logit_bias={5: 1.0}, temperature=1.0)]

    def stop(done, of):
        raise InterruptedError

    after = {}
    for n in range(1, 1001):
        tokens = engine.generate(ids[: 4 + n % 8], ways[n % 2], 50)
        for _ in itertools.islice(tokens, n % 3):
            pass
        tokens.close()
        engine.truncate(0)
        with pytest.raises(InterruptedError):
            engine.evaluate(ids[:9], on_progress=stop)
        if n in (100, 1000):
            gc.collect()
            after[n] = process.memory_info().rss
    # a sampler's 4096 candidates take 49 KB, a grammar's 300 rules about as much
    assert after[1000] - after[100] < 8 << 20, after


def test_loading_and_closing_leaks_nothing():
    process, after = psutil.Process(), {}
    for n in range(1, 41):
        with Engine(find_model("tiny").path, LoadOptions(n_ctx=512, n_threads=1)) as engine:
            engine.evaluate([engine.vocabulary.bos, 5, 6])
        engine.close()
        with pytest.raises(RuntimeError, match="closed"):
            engine.evaluate([1])
        if n in (10, 40):
            gc.collect()
            after[n] = process.memory_info().rss
    assert after[40] - after[10] < 30 * (1 << 20), after  # a model is 12 MB, its context and vocabulary 3


def test_a_state_that_llama_cpp_does_not_take_leaves_an_empty_engine(engine, ids):
    engine.evaluate(ids)
    state = engine.state()
    with pytest.raises(EngineError, match="did not take"):
        engine.set_state(ids, state[:100])
    assert engine.tokens == []
    engine.set_state(ids, state)
    assert engine.tokens == ids


def test_a_state_longer_than_the_context_changes_nothing(engine, ids):
    engine.evaluate(ids)
    with pytest.raises(ContextFull, match="does not fit"):
        engine.set_state([1] * 513, engine.state())
    assert engine.tokens == ids


def test_ids_that_the_model_does_not_have_are_an_error(engine, ids):
    with pytest.raises(EngineError, match="could not evaluate"):
        engine.evaluate([*ids[:5], 10_000_000])
    assert engine.evaluate(ids[:9]).shape == (engine.vocabulary.size,)


@pytest.mark.parametrize("share", [0.0, 0.0001, 0.005, 0.01, 0.3, 0.99, 0.999999])
def test_a_truncated_model_is_refused_by_name(tmp_path, share):
    data = find_model("tiny").path.read_bytes()
    (tmp_path / "cut.gguf").write_bytes(data[: int(share * len(data))])
    with pytest.raises(InputError, match=r"cut\.gguf"):
        Engine(tmp_path / "cut.gguf")


def test_a_model_that_shrinks_after_its_header_was_read_is_refused(tmp_path):
    shutil.copy(find_model("tiny").path, tmp_path / "m.gguf")
    header = read_header(tmp_path / "m.gguf")
    os.truncate(tmp_path / "m.gguf", header.file_size // 2)
    with pytest.raises((InputError, EngineError), match=r"m\.gguf"):
        Engine(tmp_path / "m.gguf", header=header)


@pytest.mark.parametrize("n_ctx", [100_000_000, 4_000_000_000, -5])
def test_a_context_larger_than_memory_is_refused_before_llama_cpp_tries(n_ctx):
    began = time.monotonic()
    with pytest.raises(InputError, match=r"context of -?\d+ tokens") as caught:
        Engine(find_model("tiny").path, LoadOptions(n_ctx=n_ctx))
    assert "--ctx" in caught.value.hint
    assert time.monotonic() - began < 5  # llama.cpp takes 13 seconds


def test_the_header_tells_the_special_tokens(engine):
    vocabulary = engine.vocabulary
    assert vocabulary.special_ids() == Vocabulary(engine._model).special_ids()
    assert {vocabulary.bos, vocabulary.eos} <= set(vocabulary.special_ids())
    nothing_said = Vocabulary(engine._model, [1] * vocabulary.size)
    fim = vocabulary.fim()
    assert {vocabulary.bos, vocabulary.eos, fim.begin, fim.hole, fim.end} <= set(nothing_said.special_ids())
