"""A weight that is NaN or infinite stops a conversion: what stays of its work, and who may go on with it."""

import os
from pathlib import Path

import numpy as np
import pytest
from checkpoints import LITE, convert, random_tensors, shard_up, write_checkpoint, write_shards
from interrupted_runs import interrupt, plan_of, run, sha

from converters import workers, writer
from converters.journal import Journal
from converters.safetensors_shards import Checkpoint
from quant.errors import InputError


@pytest.fixture(autouse=True)
def quick_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody pulls the plug here: syncing would only take time."""
    monkeypatch.setattr(os, "fsync", lambda fd: None)


@pytest.fixture
def damaged(tmp_path: Path) -> Path:
    """A checkpoint with one NaN, in the last of its shards."""
    folder, tensors = write_checkpoint(tmp_path / "damaged"), random_tensors(LITE)
    tensors[list(tensors)[-1]].flat[5] = np.nan
    write_shards(folder, shard_up(tensors))
    return folder


def test_a_nan_near_the_end_costs_one_shard(damaged: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "SYNC_SECONDS", -1.0)  # each piece is noted when it is seen
    (tmp_path / "whole").mkdir()
    expected = convert(damaged, tmp_path / "whole" / "x.gguf", "q8_0", allow_nonfinite=True).read_bytes()
    with pytest.raises(InputError, match="NaN"):
        run(damaged, tmp_path / "x.gguf")
    assert (tmp_path / "x.gguf.partial").exists()
    plan, checkpoint = plan_of(damaged, tmp_path / "x.gguf"), Checkpoint.open(damaged)
    journal = Journal(writer.journal_path(plan), plan.digest, len(plan.pieces))
    pieces = [plan.pieces[n] for n in journal.done]
    journal.close(remove=False)
    shards = {checkpoint.tensors[plan.tensors[p.tensor].wanted.parts[p.part].stored].shard for p in pieces}
    last = max(t.shard for t in checkpoint.tensors.values())
    assert shards == {t.shard for t in checkpoint.tensors.values()} - {last}
    with pytest.raises(InputError, match="NaN"):
        run(damaged, tmp_path / "x.gguf")
    resumed, reported = run(damaged, tmp_path / "x.gguf", allow_nonfinite=True)
    assert resumed
    assert reported[0] > sum(t.info.nbytes for t in plan.tensors) / 3
    assert (tmp_path / "x.gguf").read_bytes() == expected


def test_a_nan_in_the_only_file_costs_nothing_that_was_noted(
    damaged: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "SYNC_SECONDS", -1.0)
    f32 = convert(damaged, tmp_path / "f32.gguf", "f32", allow_nonfinite=True)
    with pytest.raises(InputError, match="NaN"):
        run(f32, tmp_path / "x.gguf")
    os.utime(f32)  # it may have been repaired: then all that came from it is in doubt
    with pytest.raises(InputError, match="was changed after"):
        run(f32, tmp_path / "x.gguf")
    run(f32, tmp_path / "y.gguf", allow_nonfinite=True)
    with pytest.raises(InputError, match="NaN"):
        run(f32, tmp_path / "z.gguf")
    resumed, reported = run(f32, tmp_path / "z.gguf", allow_nonfinite=True)
    assert resumed
    assert reported[0] > sum(t.info.nbytes for t in plan_of(f32, tmp_path / "z.gguf").tensors) / 2
    assert (tmp_path / "z.gguf").read_bytes() == (tmp_path / "y.gguf").read_bytes()


def test_unchecked_weights_are_not_slipped_into_a_checked_run(tmp_path: Path) -> None:
    source = write_checkpoint(tmp_path / "in")
    (tmp_path / "out").mkdir()
    interrupt(source, tmp_path / "out" / "x.gguf", allow_nonfinite=True)
    before = sha(tmp_path / "out")
    with pytest.raises(InputError, match="--allow-nonfinite") as caught:
        run(source, tmp_path / "out" / "x.gguf")
    assert "--fresh" in caught.value.hint
    assert sha(tmp_path / "out") == before
    assert run(source, tmp_path / "out" / "x.gguf", allow_nonfinite=True)[0]
