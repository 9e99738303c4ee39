"""A context that grows: nobody sees it but by the clock. The numbers are those of one that was long from the start."""

import gc
import itertools
import random
import signal
import threading
import time

import numpy as np
import psutil
import pytest
from small_models import LITE, random_checkpoint, write_gguf

from coderv2_local import engine as engine_module
from coderv2_local import growing_context
from coderv2_local.engine import Cancelled, ContextFull, Engine, EngineError
from coderv2_local.growing_context import FIRST, GrowingContext
from coderv2_local.llama_context import LlamaContext
from coderv2_local.models import find_model
from coderv2_local.placement.load_options import LoadOptions
from coderv2_local.sampling.sampler import SamplingOptions
from coderv2_local.states.prefix_states import PrefixStates
from quant.errors import InputError

TINY = find_model("tiny").path
SHORT = 256
"""Where the contexts of these tests begin: growing is then quick."""


class Counter:
    """A tap that counts its calls."""

    name = "counter"
    calls = 0

    def wants(self, node_name):
        return node_name.startswith("ffn_moe_topk")

    def __call__(self, node_name, tensor):
        self.calls += 1


@pytest.fixture
def short(monkeypatch):
    monkeypatch.setattr(growing_context, "FIRST", SHORT)


def open_engine(n_ctx=2048, n_batch=64, taps=(), **options):
    return Engine(TINY, LoadOptions(n_ctx=n_ctx, n_threads=1, n_batch=n_batch, **options), taps=taps)


def size(engine):
    return engine._context.now.size


@pytest.fixture(scope="module")
def ids():
    with open_engine() as engine:
        text = "def add(a, b):\n    return a + b\n\n\nclass Point:\n    x: int = 3\n"
        return ([engine.vocabulary.bos] + engine.vocabulary.encode(text) * 60)[:2000]


@pytest.mark.parametrize(
    "options", [{}, {"flash_attention": False}, {"flash_attention": False, "kv_type": "f32"}], ids=str
)
def test_logits_and_draws_are_bit_for_bit_those_of_a_context_that_never_grew(monkeypatch, ids, options):
    def everything():
        with open_engine(**options) as engine:
            sizes, found = [size(engine)], []
            for n in (100, 300, 320, 600, 1100):  # by batches, token by token, over each border
                found.append(engine.evaluate(ids[:n]))
                draw = SamplingOptions(temperature=1.0, seed=n, banned=[engine.vocabulary.eos])
                found.append(np.array(list(engine.generate(ids[:n], draw, 30))))
                sizes.append(size(engine))
            found.append(engine.evaluate(ids[:1500], every_position=True))
            found.append(engine.state())
            return sizes, found

    never, expected = everything()
    monkeypatch.setattr(growing_context, "FIRST", SHORT)
    sizes, found = everything()
    assert set(never) == {2048}
    assert sizes == [256, 256, 512, 512, 1024, 2048]
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("flash", [True, False])
def test_a_cache_of_keys_and_values_moves_too(monkeypatch, tmp_path, flash):
    """A file without MLA: without flash attention its values are stored the other way round, a row a number."""
    folder = random_checkpoint(tmp_path / "c", LITE)
    path, ids = write_gguf(folder, tmp_path / "m.gguf", split_mla=False), [(7 * i) % 300 for i in range(600)]

    def logits():
        with Engine(path, LoadOptions(n_ctx=700, n_threads=1, n_batch=128, flash_attention=flash)) as engine:
            return [engine.evaluate(ids[:n]) for n in (200, 300, 600)], size(engine)

    expected, whole = logits()
    monkeypatch.setattr(growing_context, "FIRST", SHORT)
    found, grown = logits()
    assert whole == grown == 700
    np.testing.assert_array_equal(found, expected)


def test_an_answer_goes_on_over_the_border_token_by_token(monkeypatch, ids):
    def answer():
        with open_engine(n_ctx=700) as engine:
            options = SamplingOptions(temperature=1.0, seed=5, banned=engine.vocabulary.special_ids())
            return [(token, size(engine)) for token in engine.generate(ids[:230], options, 1000)]

    expected = [token for token, _ in answer()]
    monkeypatch.setattr(growing_context, "FIRST", SHORT)
    monkeypatch.setattr(engine_module, "ROOM", 10)
    found = answer()
    assert [token for token, _ in found] == expected
    assert len(found) == 700 - 230 + 1  # to the end of the context that was asked for
    assert [s for i, (_, s) in enumerate(found) if i == 0 or s != found[i - 1][1]] == [256, 512, 700]


def test_room_for_an_answer_is_made_before_it(short, ids):
    with open_engine() as engine:
        next(engine.generate(ids[:200], SamplingOptions(), 300))
        assert size(engine) == 512
        engine.evaluate(ids[:513])
        assert size(engine) == 1024


def test_the_limit_is_what_was_asked_for(short, ids):
    with open_engine(n_ctx=400) as engine:
        assert (engine.n_ctx, size(engine)) == (400, 256)
        engine.evaluate(ids[:400])
        assert size(engine) == 400
        with pytest.raises(ContextFull, match="401 tokens do not fit the context of 400"):
            engine.evaluate(ids[:401])
        assert len(list(engine.generate(ids[:399], SamplingOptions(banned=engine.vocabulary.special_ids()), 9))) == 2


def test_states_go_from_long_contexts_to_short_ones_and_back(short, ids, tmp_path):
    states = PrefixStates(tmp_path)
    with open_engine() as long, open_engine() as other:
        long.evaluate(ids[:1500])
        long.evaluate(ids[:200])
        assert (size(long), size(other)) == (2048, 256)
        other.set_state(ids[:200], long.state())
        assert size(other) == 256
        np.testing.assert_array_equal(other.evaluate(ids[:210]), long.evaluate(ids[:210]))
        long.evaluate(ids[:700])
        states.save(long, "a")
        other.evaluate(ids[50:90])
        assert states.restore(other, "a") is None
        assert (other.tokens, size(other)) == (ids[:700], 1024)
        np.testing.assert_array_equal(other.evaluate(ids[:710]), long.evaluate(ids[:710]))


def test_hooks_stay_on(short, ids):
    counter = Counter()
    with open_engine(taps=[counter]) as engine:
        engine.evaluate(ids[:10])
        before, layers = counter.calls, counter.calls
        engine.evaluate(ids[:300])
        batches = -(-290 // 64)
        assert size(engine) == 512
        assert counter.calls - before == batches * layers


def test_a_batch_in_a_grown_context_can_be_cancelled(short, ids):
    with open_engine(n_batch=512, taps=[Counter()]) as engine:
        began = time.monotonic()
        engine.evaluate(ids)
        whole = time.monotonic() - began
        assert size(engine) == 2048
        engine.truncate(0)
        threading.Timer(whole / 10, engine.cancel).start()
        with pytest.raises(Cancelled):
            engine.evaluate(ids)
        assert len(engine.tokens) < len(ids)


def no_memory(*_):
    raise InputError("a context of 512 tokens needs 9.0 GiB of memory; 1.0 GiB can be had", hint="--ctx 256")


def unmovable(self, data):
    raise EngineError("llama.cpp did not take a state")


def unmakeable(self, model, size, options, dispatcher):
    raise EngineError(f"no context of {size} tokens")


@pytest.mark.parametrize(
    ("owner", "name", "failure"),
    [
        (engine_module, "check_context", no_memory),
        (LlamaContext, "__init__", unmakeable),
        (LlamaContext, "set_state", unmovable),
    ],
)
def test_a_context_that_cannot_grow_says_so_and_goes_on_as_it_is(short, ids, monkeypatch, owner, name, failure):
    with open_engine() as engine:
        expected = engine.evaluate(ids[:250])
        engine.evaluate(ids[:249])
        state = engine.state()
        monkeypatch.setattr(owner, name, failure)
        with pytest.raises(ContextFull, match="room for 256 tokens now and cannot grow: ") as caught:
            engine.evaluate(ids[:300])
        assert "close other programs" in caught.value.hint
        assert (engine.tokens, size(engine)) == (ids[:249], 256)
        np.testing.assert_array_equal(engine.state(), state)
        answer = []
        with pytest.raises(ContextFull, match="cannot grow"):  # before the answer begins, not in its middle
            answer += engine.generate(ids[:249], SamplingOptions(banned=engine.vocabulary.special_ids()), 30)
        assert answer == []
        np.testing.assert_array_equal(engine.evaluate(ids[:250]), expected)
        monkeypatch.undo()
        assert engine.evaluate(ids[:300]).shape == expected.shape


def test_a_state_for_which_there_is_no_memory_changes_nothing(short, ids, monkeypatch):
    with open_engine() as engine, open_engine() as other:
        engine.evaluate(ids[:400])
        state = engine.state()
        other.evaluate(ids[:40])
        monkeypatch.setattr(engine_module, "check_context", no_memory)
        with pytest.raises(ContextFull, match="cannot grow"):
            other.set_state(ids[:400], state)
        assert other.tokens == ids[:40]


class Made:
    """What stands for a context where only lengths matter."""

    closed = False

    def __init__(self, size):
        self.size = size

    def state(self):
        return f"state of {self.size}"

    def set_state(self, data):
        self.data = data

    def close(self):
        self.closed = True


@pytest.mark.parametrize(
    ("options", "wanted", "sizes"),
    [
        (LoadOptions(n_ctx=16_384), (4, 2048), [FIRST]),
        (LoadOptions(n_ctx=16_384), (4, 2049, 5000, 16_384), [2048, 4096, 8192, 16_384]),
        (LoadOptions(n_ctx=10_000), (9_000,), [2048, 10_000]),
        (LoadOptions(n_ctx=300), (300,), [300]),
        (LoadOptions(n_ctx=16_384, n_batch=4096), (5,), [4096]),
        (LoadOptions(n_ctx=16_384, n_gpu_layers=3), (5, 16_384), [16_384]),
        (LoadOptions(n_ctx=16_384, stream_experts=True), (5, 16_384), [16_384]),
    ],
)
def test_lengths_double_and_where_memory_is_shared_out_all_is_there_at_once(options, wanted, sizes):
    made = []

    def make(size):
        made.append(Made(size))
        return made[-1]

    context = GrowingContext(make, options, lambda size: None)
    for n in wanted:
        context.reserve(n, carry=True)
    assert [m.size for m in made] == sizes
    assert [m.closed for m in made] == [True] * (len(made) - 1) + [False]
    assert all(later.data == f"state of {earlier.size}" for earlier, later in itertools.pairwise(made))
    context.reserve(sizes[-1], carry=True)
    context.close()
    assert made[-1].closed


def test_a_context_that_could_not_be_filled_is_released(monkeypatch):
    made = []

    def make(size):
        made.append(Made(size))
        return made[-1]

    context = GrowingContext(make, LoadOptions(n_ctx=16_384), lambda size: None)
    monkeypatch.setattr(Made, "set_state", lambda self, data: unmovable(self, data))
    with pytest.raises(ContextFull, match="did not take"):
        context.reserve(5000, carry=True)
    assert [m.closed for m in made] == [False, True]
    assert context.now is made[0]


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs interval timers")
def test_an_interrupt_at_any_moment_leaves_a_context_that_agrees_with_its_tokens(short, ids):
    def interrupt(_, frame):
        while frame and "coderv2_local" not in frame.f_code.co_filename:
            frame = frame.f_back
        if frame:  # not while this test itself cleans up
            raise KeyboardInterrupt

    before, rng, caught, sizes = signal.signal(signal.SIGALRM, interrupt), random.Random(1), 0, set()
    try:
        for _ in range(25):
            with open_engine(n_ctx=1024) as engine:
                for _ in range(3):
                    try:
                        signal.setitimer(signal.ITIMER_REAL, rng.uniform(0.0005, 0.04), rng.uniform(0.0005, 0.01))
                        engine.evaluate(ids[: rng.choice((200, 400, 900))])
                    except KeyboardInterrupt:
                        caught += 1
                    finally:
                        signal.setitimer(signal.ITIMER_REAL, 0)
                    sizes.add(size(engine))
                n = len(engine.tokens)
                with open_engine(n_ctx=1024) as fresh:
                    difference = np.abs(engine.evaluate(ids[: n + 20]) - fresh.evaluate(ids[: n + 20])).max()
                assert difference < 0.5  # of other batches; a hole or a double would be far off
    finally:
        signal.signal(signal.SIGALRM, before)
    assert caught > 20
    assert sizes == {256, 512, 1024}


def test_growing_leaks_nothing(short, ids):
    process, after = psutil.Process(), {}
    for n in range(1, 31):
        with open_engine() as engine:
            engine.evaluate(ids[:100])
            for length in (300, 600, 1100):
                engine.set_state(ids[:100], engine.state())
                engine.truncate(50)
                engine._thread.run(lambda length=length: engine._reserve(length))
        if n in (10, 30):
            gc.collect()
            after[n] = process.memory_info().rss
    assert after[30] - after[10] < 20 * (1 << 20), after  # the cache of 2048 tokens takes several MB, a model 12
