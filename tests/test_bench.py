"""`coder bench`: the loops that are compared, what is measured around them, how it looks, what it refuses."""

import json
import mmap
import multiprocessing
import os
import re
import signal
import sys
import time

import numpy as np
import psutil
import pytest
from conftest import assert_refused
from small_models import FULL, random_checkpoint, write_gguf
from terminal import Terminal

from cli.bench import lengths
from cli.bench_screen import pace, seconds, times
from coderv2_local.benchmark.bare_loop import BareLoop
from coderv2_local.benchmark.engine_loop import EngineLoop, end_ids, timed_start
from coderv2_local.benchmark.loop_process import LoopError, LoopProcess
from coderv2_local.benchmark.measure import BARE, CODER, STOCK, Wanted, benchmark
from coderv2_local.benchmark.page_cache import drop
from coderv2_local.benchmark.process_counters import bytes_read, memory, since
from coderv2_local.benchmark.prompt_ids import code_prompts
from coderv2_local.benchmark.runs import Ratio, Rounds, Run, by_turns
from coderv2_local.engine import Engine
from coderv2_local.models import find_model
from coderv2_local.pages_in_memory import all_in_memory, share_in_memory
from coderv2_local.placement.load_options import LoadOptions
from coderv2_local.placement.load_wishes import LoadWishes
from quant.errors import InputError

TINY = find_model("tiny").path
OPTIONS = LoadOptions(n_ctx=256, n_threads=1)
linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells")


@pytest.fixture(scope="module")
def engine():
    with Engine(TINY, OPTIONS) as found:
        yield found


@pytest.fixture(scope="module")
def grouped(tmp_path_factory):
    """A random model whose experts are in groups."""
    folder = random_checkpoint(tmp_path_factory.mktemp("grouped") / "c", FULL)
    return write_gguf(folder, folder / "grouped.gguf")


class Recorder:
    """A loop that notes when it was called."""

    def __init__(self, name, calls, pace):
        self.name, self.calls, self.pace = name, calls, pace

    def run(self, ids, n_tokens):
        self.calls.append((self.name, tuple(ids), n_tokens))
        return Run(len(ids) / self.pace, n_tokens / self.pace, tuple(ids[:1]), None)


# --- rounds and ratios ---------------------------------------------------------------------------------------------


def test_each_round_begins_with_another_loop_and_all_get_the_same_work():
    calls, rounds = [], []
    loops = {name: Recorder(name, calls, 10.0) for name in "ab"}
    by_turns(loops, [[1, 2], [3, 4], [5, 6]], 7, rounds.append)
    assert [c[0] for c in calls] == ["a", "b", "b", "a", "a", "b"]
    assert [c[1:] for c in calls] == [(ids, 7) for ids in [(1, 2)] * 2 + [(3, 4)] * 2 + [(5, 6)] * 2]
    assert rounds == [0, 1, 2]


def test_ratios_are_taken_pair_by_pair():
    def runs(*seconds):
        return [Run(s, 2 * s, (1, 2)) for s in seconds]

    # a slow minute in the middle hits both: the pairs do not see it
    found = Rounds(100, 10, {"a": runs(1.0, 9.0, 1.0), "b": runs(2.0, 18.0, 3.0)})
    assert found.prompt_ratio("a", "b") == Ratio(2.0, 2.0, 3.0)
    assert found.decode_ratio("b", "a") == Ratio(0.5, pytest.approx(1 / 3), 0.5)
    assert (found.prompt_speed("a"), found.decode_speed("a")) == (100, 5)


def test_bytes_are_counted_for_a_token_or_not_at_all():
    def rounds(*counts):
        return Rounds(8, 4, {"a": [Run(1, 1, (1,), n) for n in counts]})

    assert rounds(4096, 0).bytes_a_token("a") == 512
    assert rounds(4096, None).bytes_a_token("a") is None


# --- the loops -----------------------------------------------------------------------------------------------------


def test_the_bare_loop_computes_what_the_engine_computes(engine):
    prompts = code_prompts(engine.vocabulary, 40, 2)
    banned = end_ids(engine)
    with LoopProcess(BareLoop, TINY, OPTIONS, banned) as bare:
        found = by_turns({"ours": EngineLoop(engine, banned), "theirs": bare}, prompts, 20)
    assert all(len(run.ids) == 21 for runs in found.runs.values() for run in runs)
    assert found.same_ids("ours", "theirs")
    assert len({run.ids for run in found.runs["theirs"]}) == 2  # nothing is left from the prompt before


def test_answers_do_not_end_early(engine):
    banned = end_ids(engine)
    assert engine.vocabulary.eos in banned
    run = EngineLoop(engine, banned).run(code_prompts(engine.vocabulary, 8, 1)[0], 200)
    assert len(run.ids) == 201
    assert not any(map(engine.vocabulary.is_end, run.ids))


def test_nothing_is_reused_from_the_run_before(engine, monkeypatch):
    evaluated = []
    decode = engine._decode
    monkeypatch.setattr(engine, "_decode", lambda ids, **how: (evaluated.append(len(ids)), decode(ids, **how)))
    ids = code_prompts(engine.vocabulary, 200, 1)[0]
    loop = EngineLoop(engine, [])
    loop.run(ids, 2)
    loop.run(ids, 2)
    assert evaluated == [200, 1, 1] * 2


def test_prompts_have_their_length_and_differ(engine):
    found = code_prompts(engine.vocabulary, 30, 3)
    assert [len(ids) for ids in found] == [30] * 3
    assert len(set(map(tuple, found))) == 3
    assert all(ids[0] == engine.vocabulary.bos for ids in found)
    assert engine.vocabulary.decode(found[0]).startswith('"""')
    assert found == code_prompts(engine.vocabulary, 30, 3)
    endless = code_prompts(engine.vocabulary, 1000, 1000)  # more than there is
    assert len(endless[-1]) == 1000


def test_a_loop_that_cannot_be_made_says_why_and_leaves_no_process(tmp_path):
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(TINY.read_bytes()[:-5000])
    with pytest.raises(LoopError, match=r"broken\.gguf"):
        LoopProcess(BareLoop, broken, OPTIONS, [])
    assert not multiprocessing.active_children()


def test_a_loop_whose_process_is_killed_says_so():
    with LoopProcess(BareLoop, TINY, OPTIONS, []) as bare:
        assert len(bare.run([1, 2, 3], 2).ids) == 3
        (child,) = multiprocessing.active_children()
        os.kill(child.pid, signal.SIGINT)  # Ctrl-C reaches it too: it is not the one to act
        assert len(bare.run([1, 2, 3], 2).ids) == 3
        child.kill()
        with pytest.raises(LoopError, match="ended"):
            bare.run([1, 2, 3], 2)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


# --- what the kernel says ------------------------------------------------------------------------------------------


@linux
def test_a_file_is_in_memory_once_it_is_read_and_not_once_it_is_dropped(tmp_path):
    path, other = tmp_path / "file", tmp_path / "other"
    for file in (path, other):
        file.write_bytes(os.urandom(4 << 20))
    assert share_in_memory([path]) == 1
    assert all_in_memory(path)
    drop([path])
    with other.open("r+b") as f:
        os.fsync(f.fileno())
        os.posix_fadvise(f.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    if share_in_memory([other]) == 1:
        pytest.skip("this file system keeps its files in memory")
    assert share_in_memory([path]) < 0.1
    assert not all_in_memory(path)
    before = bytes_read()
    with path.open("rb") as f:
        os.posix_fadvise(f.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
        assert f.read(1 << 20)
    assert 0.2 < share_in_memory([path]) < 0.5
    assert not all_in_memory(path)
    if before is not None:
        assert since(before) >= 1 << 20


@linux
def test_a_mapped_file_stays_and_that_is_seen(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(os.urandom(1 << 20))
    mapped = np.memmap(path, np.uint8, "r")
    assert mapped.sum() > 0  # touches every page
    drop([path])
    assert share_in_memory([path]) == 1


@linux
def test_what_is_not_this_users_is_not_known(tmp_path, monkeypatch):
    path = tmp_path / "file"
    path.write_bytes(b"x" * 10_000)
    monkeypatch.setattr(os, "geteuid", lambda: os.stat(path).st_uid + 1)
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert share_in_memory([path]) is None
    assert not all_in_memory(path)
    assert share_in_memory([tmp_path / "missing"]) is None


@linux
def test_private_and_mapped_memory_are_told_apart(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(os.urandom(32 << 20))
    before = memory()
    # a new mapping: an array might get memory that the allocator had kept
    own = mmap.mmap(-1, 32 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    own.write(b"x" * len(own))
    after_own = memory()
    mapped = np.memmap(path, np.uint8, "r")
    mapped.sum()
    after_mapped = memory()
    assert after_own.anonymous - before.anonymous == pytest.approx(len(own), rel=0.2)
    assert after_mapped.mapped - after_own.mapped == pytest.approx(len(mapped), rel=0.2)
    assert after_mapped.anonymous - after_own.anonymous < 4 << 20


def test_a_system_that_tells_nothing_is_no_error(tmp_path):
    assert memory(tmp_path) is None
    assert bytes_read(tmp_path) is None
    (tmp_path / "io").write_text("rchar: 12\nwchar: 4\n")
    (tmp_path / "smaps_rollup").write_text("00400000-7ffd [rollup]\nPss: 12 kB\n")
    assert memory(tmp_path) is None
    assert bytes_read(tmp_path) is None
    (tmp_path / "io").write_text("rchar: 12\nread_bytes: 4096\n")
    (tmp_path / "smaps_rollup").write_text("00400000-7ffd [rollup]\nRss: 12 kB\nAnonymous: 8 kB\n")
    assert (memory(tmp_path).anonymous, memory(tmp_path).mapped) == (8 << 10, 4 << 10)
    assert bytes_read(tmp_path) == 4096


def test_a_start_is_timed_from_before_loading():
    opened = []

    def open_engine():
        time.sleep(0.3)
        opened.append(Engine(TINY, OPTIONS))
        return opened[0]

    engine, start = timed_start(open_engine, [TINY], 4)
    with engine:
        assert engine is opened[0]
        assert engine.tokens == [engine.vocabulary.bos] * 4
    assert 0.3 <= start.load_seconds < start.first_token_seconds


# --- the whole -----------------------------------------------------------------------------------------------------


def test_exact_and_stock_routing_on_a_grouped_model(grouped):
    wanted = Wanted(prompts=[24], tokens=12, pairs=2, stock_routing=True, cold=False)
    report = benchmark(grouped, wanted, LoadWishes(n_ctx=128, n_threads=1))
    (found,) = report.rounds
    assert set(found.runs) == {CODER, BARE, STOCK}
    assert found.same_ids(STOCK, BARE)  # both choose as llama.cpp does
    assert not found.same_ids(CODER, BARE)
    assert report.cold is None
    assert report.prefetched is None


def test_where_experts_are_read_ahead_the_counters_are_reported(grouped):
    wanted = Wanted(prompts=[16], tokens=8, pairs=1, cold=True)
    report = benchmark(grouped, wanted, LoadWishes(n_ctx=128, n_threads=1, stream_experts=True))
    assert report.options.stream_experts
    assert any("larger than memory" in remark for remark in report.remarks)
    if sys.platform == "linux":
        assert report.prefetched.chosen > 0
        assert 0 <= report.prefetched.in_memory <= 1


def test_stock_routing_is_refused_where_nothing_is_grouped():
    with pytest.raises(InputError, match="no groups"):
        benchmark(TINY, Wanted(stock_routing=True), LoadWishes(n_ctx=512, n_threads=1))


def test_json_holds_every_run(coder):
    result = coder(
        "bench", "tiny", "--prompt", "8,16", "--tokens", "4", "--pairs", "3", "-t", "1", "--ctx", "64", "--json"
    )
    assert result.returncode == 0, result.stderr
    report = json.loads(result.stdout)
    assert result.stderr == ""
    assert report["options"]["n_ctx"] == 64
    assert report["file_bytes"] == TINY.stat().st_size
    assert [r["prompt"] for r in report["rounds"]] == [8, 16]
    for r in report["rounds"]:
        assert r["same_ids"] == {"llama.cpp": True}
        assert [len(runs) for runs in r["runs"].values()] == [3, 3]
        pairs = zip(r["runs"]["coder"], r["runs"]["llama.cpp"], strict=True)
        ratios = sorted(b["decode_seconds"] / a["decode_seconds"] for a, b in pairs)
        assert r["ratios"]["llama.cpp"]["decode"] == {"median": ratios[1], "low": ratios[0], "high": ratios[2]}
    assert report["start"]["warm"]["first_token_seconds"] > report["start"]["warm"]["load_seconds"] > 0
    assert report["expected"]["decode"] > 0
    if sys.platform == "linux":
        assert report["start"]["cold"] is not None
        assert report["memory"]["anonymous"] > 10 << 20


def test_the_table_fits_80_columns(tmp_path):
    arguments = ("bench", "--prompt", "16", "--tokens", "8", "--pairs", "2", "-t", "1")
    with Terminal(*arguments, cwd=tmp_path, home=tmp_path / "home") as t:
        assert t.wait() == 0
        shown = t.text()
    assert re.search(r"^prompt of 16 +\S+ +\S+ +\S+ +\d\.\d\d \(\d", shown, re.M), shown
    assert re.search(r"^answer after 16 ", shown, re.M), shown
    assert "pair 2 of 2" not in shown  # the progress line is gone


def test_ctrl_c_ends_it_and_the_second_process_at_once(tmp_path):
    with Terminal("bench", "--pairs", "100000", "-t", "1", cwd=tmp_path, home=tmp_path / "home") as t:
        t.until(lambda shown: re.search(r"pair \d+ of 100000", shown) is not None)
        children = psutil.Process(t.child.pid).children(recursive=True)
        t.child.sendintr()
        assert t.wait() == 130
        assert "Traceback" not in t.raw
        assert "\x1b[?25h" in t.raw or "\x1b[?25l" not in t.raw  # the cursor is there again
    assert children
    assert not any(child.is_running() and child.status() != psutil.STATUS_ZOMBIE for child in children)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--prompt", "many"], ["--prompt", "64,256"]),
        (["--prompt", "0"], ["--prompt"]),
        (["--prompt", "16,"], ["--prompt"]),
        (["--prompt", "100", "--ctx", "64"], ["100", "64", "--ctx"]),
        (["missing.gguf"], ["missing.gguf", "no such file"]),
        (["http://127.0.0.1:1"], ["server"]),
        (["--stock-routing"], ["no groups"]),
    ],
)
def test_what_cannot_be_measured_is_refused_in_a_line(coder, arguments, words):
    assert_refused(coder("bench", *arguments), *words)


def test_numbers_are_short():
    assert lengths("256,64,64") == [64, 256]
    assert [pace(v) for v in (1234.5, 99.5, 10, 7.333)] == ["1234", "100", "10.0", "7.33"]
    assert [seconds(v) for v in (0.0123, 0.9996, 12.345, 250.4)] == ["12 ms", "1.00 s", "12.35 s", "250 s"]
    assert times(Ratio(1.0, 0.955, 1.2)) == "1.00 (0.95–1.20)" or times(Ratio(1.0, 0.955, 1.2)) == "1.00 (0.96–1.20)"
