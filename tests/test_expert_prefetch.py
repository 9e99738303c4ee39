"""Reading experts ahead: real engines on small models; the same results with and without; faults of advice and disk."""

import contextlib
import errno
import gc
import mmap
import os
import threading
import time
from dataclasses import replace

import numpy as np
import pytest
from synthetic_models import GROUPED, LITE, small_model

from coderv2_local.engine import Engine
from coderv2_local.larger_than_memory import expert_prefetch, residency
from coderv2_local.larger_than_memory.direct_reads import ReadError
from coderv2_local.larger_than_memory.expert_prefetch import ExpertPrefetch, larger_than_memory, read_ids
from coderv2_local.larger_than_memory.residency import SUPPORTED, ModelFiles
from coderv2_local.larger_than_memory.weight_ranges import Range
from coderv2_local.local_backend import LocalBackend
from coderv2_local.placement.load_options import LoadOptions
from coderv2_local.routing import install_taps, read_floats
from coderv2_local.sampling.sampler import SamplingOptions
from converters.gguf_header import read_header

pytestmark = pytest.mark.skipif(not SUPPORTED, reason="experts are read ahead on Linux only")
STREAM = LoadOptions(n_ctx=256, n_threads=1, stream_experts=True)
IDS = [390, *np.random.default_rng(3).integers(0, 256, 60).tolist()]


@pytest.fixture(scope="module", params=[LITE, GROUPED], ids=["lite", "grouped"])
def path(request, tmp_path_factory):
    return small_model(tmp_path_factory.mktemp("models") / "m.gguf", request.param)


def engine_with(path, *more, expert_memory=0) -> tuple[Engine, ExpertPrefetch]:
    """An engine whose experts are in the page cache, unless they get memory."""
    header = read_header(path)
    (tap,) = larger_than_memory(path, header)
    tap.expert_memory = expert_memory
    return Engine(path, STREAM, taps=[*install_taps(header.metadata), *more, tap], header=header), tap


class Recorder:
    """Takes the chosen ids and the hidden state of each layer."""

    name = "recorder"

    def __init__(self) -> None:
        self.chosen: list[tuple[int, np.ndarray]] = []
        self.hidden: dict[int, np.ndarray] = {}

    def wants(self, node_name: str) -> bool:
        return node_name.startswith(("ffn_moe_topk-", "ffn_inp-"))

    def __call__(self, node_name: str, tensor: int) -> None:
        name, _, layer = node_name.rpartition("-")
        if name == "ffn_inp":
            self.hidden[int(layer)] = read_floats(tensor)
        else:
            self.chosen.append((int(layer), read_ids(tensor)))


@pytest.mark.parametrize("expert_memory", [0, None], ids=["page cache", "own memory"])
def test_logits_are_the_same_bits_with_and_without(path, expert_memory):
    header = read_header(path)
    with Engine(path, LoadOptions(n_ctx=256, n_threads=1), taps=install_taps(header.metadata)) as plain:
        expected = [plain.evaluate(IDS[:40]), *(plain.evaluate(IDS[:n]) for n in range(41, 60))]
    engine, tap = engine_with(path, expert_memory=expert_memory)
    with engine:
        found = [engine.evaluate(IDS[:40]), *(engine.evaluate(IDS[:n]) for n in range(41, 60))]
    np.testing.assert_array_equal(found, expected)
    assert tap.counters.decodes == 20


@pytest.mark.parametrize("expert_memory", [0, None], ids=["page cache", "own memory"])
def test_every_chosen_expert_is_counted_and_read_in_one_go_and_in_the_order_of_the_file(
    path, monkeypatch, expert_memory
):
    recorder = Recorder()
    engine, tap = engine_with(path, recorder, expert_memory=expert_memory)
    fetches: list[tuple[int, list[int], bool, list[Range]]] = []
    fetch, will_need = tap.experts.fetch, tap.files.will_need

    def fetching(layer, experts, *, guessed=False):
        fetches.append((layer, list(experts), guessed, []))
        fetch(layer, experts, guessed=guessed)

    def advising(ranges):
        ranges = list(ranges)
        if fetches:  # else it is what every token reads
            fetches[-1][3].extend(ranges)
        return will_need(ranges)

    monkeypatch.setattr(tap.experts, "fetch", fetching)
    monkeypatch.setattr(tap.files, "will_need", advising)
    if expert_memory is None:
        read = tap.experts._reader.read
        monkeypatch.setattr(
            tap.experts._reader, "read", lambda r, address: fetches[-1][3].append(r) or read(r, address)
        )
    with engine:
        engine.evaluate(IDS[:30])  # a batch
        for n in range(31, 34):  # and single tokens
            engine.evaluate(IDS[:n])
    pairs = {(layer, int(e)) for layer, ids in recorder.chosen for e in ids.ravel()}
    assert set(tap.counters.uses) == pairs
    assert tap.counters.chosen == sum(len(np.unique(ids)) for _, ids in recorder.chosen)
    chosen = [(layer, experts) for layer, experts, guessed, _ in fetches if not guessed]
    assert chosen == [(layer, np.unique(ids).tolist()) for layer, ids in recorder.chosen]  # all of a batch at once
    for layer, _, _, ranges in fetches:
        for stack in tap.ranges.stacks[layer]:
            (whole,) = stack.ranges(range(stack.n_experts))
            middles = [m for r in ranges if whole.start < (m := (r.start + r.end) // 2) < whole.end]
            assert middles == sorted(middles)
    advised = {r for *_, ranges in fetches for r in ranges}
    for layer, e in pairs:
        for stack in tap.ranges.stacks[layer]:
            (r,) = stack.ranges([e])
            begin, end = r.start, r.end
            if expert_memory is None:  # what shares a page with another tensor stays in the file's mapping
                begin, end = begin + mmap.PAGESIZE, end - mmap.PAGESIZE
            assert any(a.start <= begin and end <= a.end for a in advised), (layer, e)


def test_the_router_ahead_chooses_as_the_model_does_when_it_knows_the_state(path):
    recorder = Recorder()
    engine, tap = engine_with(path, recorder)
    with engine:
        engine.evaluate(IDS[:50])
    assert tap.ahead is not None
    same = total = 0
    for layer, ids in recorder.chosen:
        guess = tap.ahead.guess(layer, recorder.hidden[layer])
        assert guess is not None
        assert guess.shape == ids.shape
        same += sum(len(set(a) & set(b)) for a, b in zip(guess.tolist(), ids.tolist(), strict=True))
        total += ids.size
    assert same / total > 0.995  # but for ties


def test_guesses_are_made_and_most_are_right(path):
    engine, tap = engine_with(path)
    with engine:
        for n in range(1, 30):
            engine.evaluate(IDS[:n])
    c = tap.counters
    assert c.guesses > 29
    assert c.guess_precision > 2 * tap.ahead.config.n_experts_per_token / tap.ahead.config.n_routed_experts
    assert 0 < c.guess_hit_rate < 1


def test_advice_that_the_kernel_refuses_is_a_notice_and_no_error(path, monkeypatch):
    engine, tap = engine_with(path)

    def refuse(*_: int) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(os, "posix_fadvise", refuse)
    with engine:
        assert np.isfinite(engine.evaluate(IDS[:5])).all()
        engine.evaluate(IDS[:6])
    assert len([n for n in tap.notices if "takes no advice" in n]) == 1


def test_memory_too_small_for_the_dense_part_is_said_and_nothing_is_locked(path, monkeypatch):
    monkeypatch.setattr(expert_prefetch, "available_memory", lambda: 1000)
    with LocalBackend(path, STREAM) as backend:
        assert any("too small even for" in n for n in backend.notices)  # told before the first answer
        backend.engine.evaluate(IDS[:5])
        (tap,) = backend.streaming
        assert tap.files.locked_bytes == 0


def test_without_leave_to_lock_the_dense_part_is_watched_and_renewed(path, monkeypatch):
    monkeypatch.setattr(ModelFiles, "_may_lock", lambda self, count: False)
    engine, tap = engine_with(path)
    gone = tap.ranges.dense[1]
    with engine:
        engine.evaluate(IDS[:5])
        assert tap.files.locked_bytes == 0
        before = tap.counters.dense_bytes_renewed
        monkeypatch.setattr(tap.files, "missing", lambda ranges: [r for r in ranges if r == gone])
        engine.evaluate(IDS[:6])
    assert tap.counters.dense_bytes_renewed - before == gone.length


def test_with_leave_the_dense_part_is_locked(path, monkeypatch):
    monkeypatch.setattr(ModelFiles, "_may_lock", lambda self, count: True)
    engine, tap = engine_with(path)

    def locked() -> int:
        with open("/proc/self/status") as f:
            return next(int(line.split()[1]) for line in f if line.startswith("VmLck:")) << 10

    with engine:
        before = locked()
        engine.evaluate(IDS[:5])
        if "mlock failed" in " ".join(tap.notices):
            pytest.skip("this account may not lock that much")
        assert tap.files.locked_bytes == tap.ranges.dense_bytes
        assert locked() - before >= tap.ranges.dense_bytes
    assert locked() == before  # unmapped with the model


def test_closing_the_engine_closes_the_files_and_ends_the_worker(path):
    gc.collect()
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        engine, _tap = engine_with(path)
        engine.evaluate(IDS[:5])
        engine.close()
        engine.close()
    assert len(os.listdir("/proc/self/fd")) <= before
    assert not [t for t in threading.enumerate() if t.name.startswith("advice")]


def test_the_backend_streams_when_placement_says_so(path):
    options = SamplingOptions(temperature=0)
    answers = []
    for stream in (False, True):
        with LocalBackend(path, LoadOptions(n_ctx=256, n_threads=1, stream_experts=stream)) as backend:
            assert bool(backend.streaming) is stream
            generation = backend.infill("a", "b", options, 20)
            list(generation)
            answers.append(generation.ids)
            assert not any("read ahead on Linux only" in n for n in backend.notices)
    assert answers[0] == answers[1]


def test_elsewhere_there_is_no_tap_and_a_notice(path, monkeypatch):
    monkeypatch.setattr(expert_prefetch, "SUPPORTED", False)
    with LocalBackend(path, STREAM) as backend:
        assert backend.streaming == []
        assert residency.UNSUPPORTED in backend.notices


def test_a_file_without_routed_experts_is_no_matter_of_the_system(tmp_path):
    dense = small_model(tmp_path / "dense.gguf", replace(LITE, n_dense_layers=LITE.n_layers))
    with LocalBackend(dense, STREAM) as backend:
        assert backend.streaming == []
        assert residency.UNSUPPORTED not in backend.notices
        assert residency.NO_EXPERTS in backend.notices


@contextlib.contextmanager
def cold_file(folder):
    """A file of 64 MB that is mapped and not in memory, opened for advice, and the mapping."""
    path = folder / "cold"
    path.write_bytes(os.urandom(1 << 20) * 64)
    with open(path, "r+b") as f:
        os.fsync(f.fileno())
        os.posix_fadvise(f.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        with mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ) as mapped:
            mapped.madvise(mmap.MADV_RANDOM)
            files = ModelFiles([path])
            files.find_mappings()
            whole = Range(0, 0, 64 << 20)
            if files.missing([whole]) != [whole]:
                pytest.skip("this file system is in memory itself")
            yield files, mapped
            files.close()


def test_advice_brings_a_range_into_memory_and_leaves_the_rest_out(tmp_path):
    with cold_file(tmp_path) as (files, _):
        near, far = Range(0, 0, 20 << 20), Range(0, 63 << 20, 64 << 20)
        assert not files.in_memory(near)
        assert files.will_need([near]) == near.length
        deadline = time.monotonic() + 20
        while not files.in_memory(near):
            assert time.monotonic() < deadline, files.missing([near])
            time.sleep(0.01)
        assert files.missing([far]) == [far]  # and asking has brought nothing in


def test_pages_that_are_missing_are_told_one_by_one(tmp_path):
    page = mmap.PAGESIZE
    with cold_file(tmp_path) as (files, mapped):
        touched = mapped[10 * page + 5], mapped[11 * page]
        assert len(touched) == 2
        assert files.missing([Range(0, 100, 20 * page)]) == [Range(0, 0, 10 * page), Range(0, 12 * page, 20 * page)]


def test_a_missing_file_is_a_read_error(tmp_path):
    with pytest.raises(ReadError, match="cannot open"):
        ModelFiles([tmp_path / "none.gguf"])


@pytest.mark.parametrize("expert_memory", [0, None], ids=["page cache", "own memory"])
def test_experts_on_a_gpu_are_not_read(path, expert_memory):
    """Without a GPU llama.cpp keeps all layers here, and page faults read what the tap leaves out."""
    options = replace(STREAM, n_gpu_layers=3, cpu_expert_layers=(4,))
    header = read_header(path)
    taps = larger_than_memory(path, header, expert_memory)
    with Engine(path, STREAM, taps=install_taps(header.metadata), header=header) as plain:
        expected = plain.evaluate(IDS[:40])
    with Engine(path, options, taps=[*install_taps(header.metadata), *taps], header=header) as engine:
        np.testing.assert_array_equal(engine.evaluate(IDS[:40]), expected)
    assert {layer for layer, _ in taps[0].counters.uses} == {1, 2, 4}
