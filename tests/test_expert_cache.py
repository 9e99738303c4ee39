"""Experts in memory of the program: real engines on small models, with room for all experts or few; failing disks."""

import ctypes
import errno
import gc
import os
import threading
import time
from dataclasses import replace

import numpy as np
import psutil
import pytest
from synthetic_models import GROUPED, LITE, small_model

from coderv2_local.engine import Cancelled, Engine
from coderv2_local.larger_than_memory import direct_reads, expert_memory
from coderv2_local.larger_than_memory.direct_reads import ReadError
from coderv2_local.larger_than_memory.expert_cache import ExpertCache
from coderv2_local.larger_than_memory.expert_memory import PAGE
from coderv2_local.larger_than_memory.expert_prefetch import ExpertPrefetch, larger_than_memory
from coderv2_local.larger_than_memory.residency import SUPPORTED, ModelFiles
from coderv2_local.larger_than_memory.weight_ranges import Range, weight_ranges
from coderv2_local.placement.load_options import LoadOptions
from coderv2_local.routing import install_taps
from converters.gguf_header import read_header

pytestmark = pytest.mark.skipif(not SUPPORTED, reason="experts are read ahead on Linux only")
STREAM = LoadOptions(n_ctx=256, n_threads=1, stream_experts=True)
IDS = [390, *np.random.default_rng(3).integers(0, 256, 60).tolist()]


@pytest.fixture(scope="module", params=[LITE, GROUPED], ids=["lite", "grouped"])
def path(request, tmp_path_factory):
    return small_model(tmp_path_factory.mktemp("models") / "m.gguf", request.param)


def one_layer(path) -> int:
    """Bytes that the experts of the largest layer take, with the pages that they share."""
    return max(
        sum((s.expert_bytes // PAGE + 2) * PAGE * s.n_experts for s in g) for g in weight_ranges(path).stacks.values()
    )


def engine_with(path, room=None, *more, n_batch=512) -> tuple[Engine, ExpertPrefetch]:
    header = read_header(path)
    (tap,) = larger_than_memory(path, header, room)
    taps = [*install_taps(header.metadata), tap, *more]
    return Engine(path, replace(STREAM, n_batch=n_batch, n_ubatch=n_batch), taps=taps, header=header), tap


class Stop:
    """A tap that calls something at one node, once."""

    name = "stop"

    def __init__(self) -> None:
        self.at, self.call = "", lambda: None

    def wants(self, node_name: str) -> bool:
        return node_name.startswith(("ffn_moe_topk-", "ffn_moe_swiglu-"))

    def __call__(self, node_name: str, tensor: int) -> None:
        if node_name == self.at:
            self.at = ""
            self.call()


def cache_of(tap) -> ExpertCache:
    assert isinstance(tap.experts, ExpertCache), tap.notices
    return tap.experts


def held_by(cache) -> int:
    """What it holds when no read is under way."""
    while cache._coming:
        cache.adapt()
    return cache.held


def answers(engine) -> list[np.ndarray]:
    """Logits after a batch and after single tokens, then after another text."""
    engine.truncate(0)
    found = [engine.evaluate(IDS[:40]), *(engine.evaluate(IDS[:n]) for n in range(41, 56))]
    return [*found, engine.evaluate(IDS[50:20:-1]), engine.evaluate(IDS[:40])]


@pytest.fixture(scope="module")
def expected(path):
    header = read_header(path)
    with Engine(path, LoadOptions(n_ctx=256, n_threads=1), taps=install_taps(header.metadata)) as engine:
        return answers(engine)


def test_with_room_for_few_experts_the_logits_are_the_same_bits(path, expected):
    engine, tap = engine_with(path, one_layer(path))
    with engine:
        np.testing.assert_array_equal(answers(engine), expected)
        cache = cache_of(tap)
        every = sum(s.expert_bytes * s.n_experts for g in tap.ranges.stacks.values() for s in g)
        assert one_layer(path) < every / 1.5  # so experts had to go,
        assert cache.bytes_read > every  # and were read again
        assert held_by(cache) <= cache.room == one_layer(path)
    assert 0 < tap.counters.cache_hit_rate < 1


def test_with_room_for_all_each_expert_is_read_once(path, expected):
    engine, tap = engine_with(path)
    with engine:
        np.testing.assert_array_equal(answers(engine), expected)
        cache = cache_of(tap)
        assert cache.bytes_read <= cache.held + cache._edges
        before = cache.bytes_read
        answers(engine)
        assert cache.bytes_read == before
        assert not [said for said in tap.notices if "no direct reads" not in said]


@pytest.mark.parametrize("lacking", ["moving memory", "direct reads"])
def test_what_an_older_system_lacks_is_done_without(path, expected, monkeypatch, lacking):
    if lacking == "moving memory":
        monkeypatch.setattr(expert_memory, "_remap", lambda *_: False)
    else:
        monkeypatch.setattr(direct_reads, "_DIRECT", 0)
    engine, tap = engine_with(path, one_layer(path))
    with engine:
        np.testing.assert_array_equal(answers(engine), expected)
        assert held_by(cache_of(tap)) <= one_layer(path)
        assert (lacking == "direct reads") <= any("no direct reads" in said for said in tap.notices)


def test_a_disk_that_fails_ends_the_decode_with_an_error_and_the_next_one_works(path, expected, monkeypatch):
    engine, tap = engine_with(path, one_layer(path))
    preadv = os.preadv
    with engine:
        engine.evaluate(IDS[:3])

        def fail(fd, buffers, offset):
            raise OSError(errno.EIO, os.strerror(errno.EIO))

        monkeypatch.setattr(os, "preadv", fail)
        with pytest.raises(ReadError, match=r"cannot read bytes .* of .*m\.gguf: Input/output error"):
            engine.evaluate(IDS[:40])
        monkeypatch.setattr(os, "preadv", lambda fd, buffers, offset: 0)
        with pytest.raises(ReadError, match="has become shorter"):
            engine.evaluate(IDS[:40])
        monkeypatch.setattr(os, "preadv", preadv)
        np.testing.assert_array_equal(answers(engine), expected)
        assert held_by(cache_of(tap)) <= one_layer(path)


@pytest.mark.parametrize("room", [0, None, "one layer"], ids=["page cache", "room for all", "room for few"])
def test_a_decode_that_is_cancelled_leaves_the_next_one_nothing(path, room):
    """At any layer, before its experts are read or between their first two matrices and the last."""
    stop = Stop()
    engine, tap = engine_with(path, one_layer(path) if room == "one layer" else room, stop, n_batch=16)
    stop.call = engine.cancel
    with engine:
        expected = engine.evaluate(IDS)
        for layer in tap.ranges.stacks:
            for node in ("ffn_moe_topk", "ffn_moe_swiglu"):
                engine.truncate(0)
                engine.evaluate(IDS[50:])
                stop.at = f"{node}-{layer}"
                with pytest.raises(Cancelled):
                    engine.evaluate(IDS[50:][:8] + IDS[:9])
                engine.truncate(0)
                np.testing.assert_array_equal(engine.evaluate(IDS), expected)  # in batches


def test_a_thousand_cancelled_decodes_leak_nothing(tmp_path):
    path, stop, process, after = small_model(tmp_path / "m.gguf", LITE), Stop(), psutil.Process(), {}
    engine, tap = engine_with(path, one_layer(path), stop, n_batch=16)
    stop.call = engine.cancel
    nodes = [f"{name}-{layer}" for layer in tap.ranges.stacks for name in ("ffn_moe_topk", "ffn_moe_swiglu")]
    random = np.random.default_rng(2)
    with engine:
        cache = cache_of(tap)
        for n in range(1, 1001):
            engine.truncate(0)
            stop.at = nodes[n % len(nodes)]
            with pytest.raises(Cancelled):
                engine.evaluate(random.integers(0, 256, 1 + n % 12).tolist())
            if n in (100, 1000):
                gc.collect()
                after[n] = (process.memory_info().rss, process.num_fds(), process.num_threads())
        assert held_by(cache) <= cache.room
        assert not any((tap._half_used, tap._known, tap._hidden, tap._tokens))
    assert after[1000][0] - after[100][0] < 4 << 20, after
    assert after[1000][1:] == after[100][1:], after


def test_short_reads_are_gone_on_with(path, expected, monkeypatch):
    preadv = os.preadv
    monkeypatch.setattr(direct_reads, "_DIRECT", 0)
    monkeypatch.setattr(os, "preadv", lambda fd, buffers, offset: preadv(fd, [b[:5000] for b in buffers], offset))
    engine, _ = engine_with(path, one_layer(path))
    with engine:
        np.testing.assert_array_equal(engine.evaluate(IDS[:40]), expected[0])


def test_memory_that_others_need_is_given_back_and_taken_again(path, expected):
    engine, tap = engine_with(path)
    with engine:
        answers(engine)
        cache = cache_of(tap)
        full, process = cache.held, psutil.Process()
        resident = process.memory_info().rss
        cache.limit = one_layer(path)
        cache.adapt()
        assert cache.held <= one_layer(path) < full
        assert resident - process.memory_info().rss >= 0.8 * (full - cache.held)
        np.testing.assert_array_equal(answers(engine), expected)
        assert held_by(cache) <= one_layer(path)
        cache.limit = None
        cache.adapt()
        np.testing.assert_array_equal(answers(engine), expected)
        assert cache.held > one_layer(path)


def test_what_is_used_least_goes_first(path):
    engine, tap = engine_with(path)
    with engine:
        engine.evaluate(IDS[:5])
        cache, layer = cache_of(tap), min(tap.ranges.stacks)
        experts = range(tap.ranges.stacks[layer][0].n_experts)
        cache.fetch(layer, experts)
        cache.wait(layer, experts, "rest")
        cache.tokens_passed(1)
        cache._score[:] = 1e9
        for e in experts:
            cache._score[cache._first[layer] + e] = 0
            cache.used(layer, [e], [1 + (e * 5) % len(experts)])
        own = int(cache._own[cache._first[layer]])
        cache.room = cache.held - 3 * own
        assert cache._make_room(0)
        gone = {e for e, there in cache.look_at(layer, experts).items() if not there}
        assert gone == {e for e in experts if (e * 5) % len(experts) < len(gone)}
        assert len(gone) in (3, 4)


def test_older_uses_count_less(path):
    engine, tap = engine_with(path)
    with engine:
        engine.evaluate(IDS[:5])
        cache, layer = cache_of(tap), min(tap.ranges.stacks)
        cache._score[:] = 0
        cache.used(layer, [0], [3])
        cache.tokens_passed(1000)
        cache.used(layer, [1], [1])
        first = cache._first[layer]
        assert cache._score[first + 1] > cache._score[first]
        for _ in range(100):  # and the numbers stay numbers
            cache.tokens_passed(1000)
        cache.used(layer, [2], [1])
        assert np.isfinite(cache._score).all()
        assert cache._score.argmax() == first + 2


def test_two_engines_of_one_file_do_not_touch_each_others_experts(path, expected):
    first, _ = engine_with(path, one_layer(path))
    with first:
        np.testing.assert_array_equal(answers(first), expected)
        second, _ = engine_with(path, one_layer(path))
        with second:
            np.testing.assert_array_equal(answers(second), expected)
            np.testing.assert_array_equal(answers(first), expected)
            np.testing.assert_array_equal(answers(second), expected)


def test_a_file_that_is_mapped_twice_is_left_to_the_page_cache(path, expected):
    mapped = np.memmap(path, np.uint8, "r")
    engine, tap = engine_with(path)
    with engine:
        np.testing.assert_array_equal(answers(engine), expected)
        assert not isinstance(tap.experts, ExpertCache)
        assert any("mapped more than once" in n for n in tap.notices)
    assert mapped.tobytes() == path.read_bytes()


def test_too_little_room_for_one_layer_is_left_to_the_page_cache(path, expected):
    engine, tap = engine_with(path, one_layer(path) // 3)
    with engine:
        np.testing.assert_array_equal(engine.evaluate(IDS[:40]), expected[0])
        assert any("less than one layer's" in n for n in tap.notices)


def test_closing_ends_threads_and_gives_memory_and_files_back(path):
    gc.collect()
    files, memory = len(os.listdir("/proc/self/fd")), []
    for _ in range(4):
        engine, tap = engine_with(path)
        engine.evaluate(IDS[:40])
        cache_of(tap)
        engine.close()
        engine.close()
        memory.append(psutil.Process().memory_info().rss)
    assert len(os.listdir("/proc/self/fd")) <= files
    assert not [t for t in threading.enumerate() if t.name.startswith("experts")]
    every = sum(s.expert_bytes * s.n_experts for g in tap.ranges.stacks.values() for s in g)
    assert memory[-1] - memory[0] < every


def test_whatever_order_reads_end_in_what_is_there_is_what_the_file_says(path, monkeypatch):
    random = np.random.default_rng(1)
    read = direct_reads.DirectReader._read

    def slowly(self, *args):
        time.sleep(float(random.exponential(0.0005)))
        read(self, *args)

    monkeypatch.setattr(direct_reads.DirectReader, "_read", slowly)
    engine, tap = engine_with(path, one_layer(path))
    data = path.read_bytes()
    with engine:
        engine.evaluate(IDS[:5])
        cache, layers = cache_of(tap), sorted(tap.ranges.stacks)
        for step in range(300):
            layer = layers[step % len(layers)]
            n = tap.ranges.stacks[layer][0].n_experts
            chosen = sorted(random.choice(n, n // 3, replace=False).tolist())
            cache.fetch(layer, chosen)
            cache.used(layer, chosen, [1] * len(chosen))
            after = layers[(step + 1) % len(layers)]
            cache.fetch(after, sorted(random.choice(n, n // 4, replace=False).tolist()), guessed=True)
            cache.wait(layer, chosen, "first")
            cache.wait(layer, chosen, "rest")
            for e in chosen:
                for stack in cache._stacks[layer]:
                    place = stack.place(e)
                    assert (
                        ctypes.string_at(place.address, place.whole.length) == data[place.whole.start : place.whole.end]
                    )
            if step % len(layers) == 0:
                cache.tokens_passed(1)


def test_files_are_closed_when_one_cannot_be_opened(path, tmp_path):
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(ReadError, match="cannot open"):
        direct_reads.DirectReader([path, tmp_path / "none.gguf"])
    assert len(os.listdir("/proc/self/fd")) == before
    assert ModelFiles([path]).missing([Range(0, 0, PAGE)]) == []  # nothing is mapped
