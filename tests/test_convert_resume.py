"""Interrupted conversions: killed at random moments, out of disk, stopped by Ctrl-C; each ends with the same bytes."""

import errno
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from checkpoints import LITE, convert, write_checkpoint
from interrupted_runs import sha

from converters import writer
from converters.job import Options, plan_source
from quant.errors import CoderError, InputError

ROOT = Path(__file__).parent.parent
WORKER = """
import sys
from pathlib import Path
from converters import plan, workers, writer
from converters.job import Options, plan_source
plan.PIECE_ELEMENTS, workers.SYNC_SECONDS = 1 << 14, 0.01
job = plan_source(Path(sys.argv[1]), Path(sys.argv[2]), Options("q4_k_m", split_bytes=int(sys.argv[3]) or None))
print("go", flush=True)
resumed = writer.carry_out(job.plan, job.store, threads=2, report=lambda n: None)
print("resumed" if resumed else "from the start")
"""


def start(source: Path, destination: Path, split: int = 0) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", WORKER, str(source), str(destination), str(split)]
    environment = dict(os.environ, PYTHONPATH=str(ROOT), OMP_NUM_THREADS="1")
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A few seconds' work for the quantizer in all, with the small pieces of the worker."""
    return write_checkpoint(tmp_path_factory.mktemp("in"), LITE | {"n_routed_experts": 64, "num_hidden_layers": 4})


def run_to_end(source: Path, destination: Path, split: int) -> float:
    process = start(source, destination, split)
    assert process.stdout is not None
    assert process.stdout.readline() == "go\n"
    began = time.monotonic()
    assert process.wait(60) == 0
    process.stdout.close()
    return time.monotonic() - began


@pytest.mark.parametrize(("split", "kills"), [(0, 6), (3_000_000, 4)])
def test_killed_at_any_moment_it_goes_on_and_ends_with_the_same_bytes(
    source: Path, tmp_path: Path, split: int, kills: int
) -> None:
    (tmp_path / "whole").mkdir()
    took = run_to_end(source, tmp_path / "whole" / "x.gguf", split)
    expected = sha(tmp_path / "whole")
    assert len(expected) == 1 if split == 0 else len(expected) > 2
    rng = random.Random(3)
    resumed = 0
    for n in range(kills):
        folder = tmp_path / str(n)
        folder.mkdir()
        process = start(source, folder / "x.gguf", split)
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(rng.uniform(0, took))
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        last = start(source, folder / "x.gguf", split)
        resumed += "resumed" in last.communicate(timeout=60)[0]
        assert last.returncode == 0
        assert sha(folder) == expected
    assert resumed >= 2 * kills // 5  # most of the kills hit while there was something to go on from


class FullDisk:
    """`os.pwrite` that runs out of space after a few calls."""

    def __init__(self, after: int) -> None:
        self.left, self.real = after, os.pwrite

    def __call__(self, fd: int, data: bytes, position: int) -> int:
        self.left -= 1
        if self.left < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        return self.real(fd, data, position)


@pytest.mark.skipif(not hasattr(os, "pwrite"), reason="this platform writes in another way")
def test_a_full_disk_is_said_and_survived(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = convert(source, tmp_path / "whole.gguf", "q8_0").read_bytes()
    with monkeypatch.context() as m:
        m.setattr(writer.os, "pwrite", FullDisk(40))
        with pytest.raises(CoderError, match="disk is full") as caught:
            convert(source, tmp_path / "x.gguf", "q8_0")
    assert caught.value.exit_code == 1
    assert "goes on" in caught.value.hint
    assert not (tmp_path / "x.gguf").exists()
    job = plan_source(source, tmp_path / "x.gguf", Options("q8_0"))
    reported: list[int] = []
    assert writer.carry_out(job.plan, job.store, threads=2, report=reported.append)
    assert reported[0] > 0  # the work done before counts at once
    assert sum(reported) == sum(t.info.nbytes for t in job.plan.tensors)
    assert (tmp_path / "x.gguf").read_bytes() == expected
    assert sorted(p.name for p in tmp_path.iterdir()) == ["whole.gguf", "x.gguf"]


def interrupted(source: Path, destination: Path, recipe: str) -> None:
    """Ctrl-C after a few pieces."""

    def report(count: int) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            raise KeyboardInterrupt

    left = 30
    job = plan_source(source, destination, Options(recipe))
    with pytest.raises(KeyboardInterrupt):
        writer.carry_out(job.plan, job.store, threads=2, report=report)


def test_ctrl_c_keeps_the_work_and_fresh_discards_it(source: Path, tmp_path: Path) -> None:
    interrupted(source, tmp_path / "x.gguf", "q8_0")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["x.gguf.journal", "x.gguf.partial"]
    done = (tmp_path / "x.gguf.journal").read_text().count("\n")
    assert done > 20
    job = plan_source(source, tmp_path / "x.gguf", Options("q8_0"))
    assert not writer.carry_out(job.plan, job.store, threads=1, fresh=True, report=lambda n: None)
    assert [p.name for p in tmp_path.iterdir()] == ["x.gguf"]


def test_the_work_of_another_plan_is_not_thrown_away(source: Path, tmp_path: Path) -> None:
    interrupted(source, tmp_path / "x.gguf", "q8_0")
    before = sha(tmp_path)
    with pytest.raises(InputError, match="interrupted conversion"):
        convert(source, tmp_path / "x.gguf", "q4_0")
    assert sha(tmp_path) == before
    convert(source, tmp_path / "x.gguf", "q4_0", fresh=True)


def test_a_torn_journal_costs_only_its_last_line(source: Path, tmp_path: Path) -> None:
    expected = convert(source, tmp_path / "whole.gguf", "q8_0").read_bytes()
    interrupted(source, tmp_path / "x.gguf", "q8_0")
    journal = tmp_path / "x.gguf.journal"
    text = journal.read_bytes()
    journal.write_bytes(text[:-1] + b"7")  # a number cut short, or grown by a digit: not to be believed
    convert(source, tmp_path / "x.gguf", "q8_0")
    assert (tmp_path / "x.gguf").read_bytes() == expected
    interrupted(source, tmp_path / "y.gguf", "q8_0")
    (tmp_path / "y.gguf.partial").unlink()  # the journal outlived the data
    convert(source, tmp_path / "y.gguf", "q8_0")
    assert (tmp_path / "y.gguf").read_bytes() == expected


@pytest.mark.skipif(sys.platform == "win32", reason="locks are of another kind")
def test_two_runs_do_not_write_one_output(source: Path, tmp_path: Path) -> None:
    from converters.journal import Busy, Journal

    held = Journal(tmp_path / "x.gguf.journal", "0" * 64, 1)
    try:
        with pytest.raises(Busy, match="another"):
            convert(source, tmp_path / "x.gguf", "q8_0")
    finally:
        held.close(remove=True)
