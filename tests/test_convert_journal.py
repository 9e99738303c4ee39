"""What a conversion keeps of its work when the disk, the source or another process fails it, and what it believes."""

import errno
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from checkpoints import write_checkpoint
from interrupted_runs import interrupt, plan_of, run, sha, whole

from converters import journal as journal_module
from converters import output_files, workers, writer
from converters.hub import HubModel, HubStore
from converters.job import Options, closing, plan_source
from converters.journal import Busy, Journal
from converters.output_files import OutputFiles
from converters.plan import OutputFile
from converters.safetensors_shards import Checkpoint
from quant.errors import CoderError, InputError

SPLIT = 500_000


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of about a hundred pieces."""
    return write_checkpoint(tmp_path_factory.mktemp("journal") / "in")


@pytest.fixture(autouse=True)
def quick_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody pulls the plug here: syncing would only take time."""
    monkeypatch.setattr(os, "fsync", lambda fd: None)


class LosingDisk:
    """A slow disk that forgets what was written since the last fsync, says so once, and then is well: as Linux."""

    def __init__(self, partial: Path, fails_at: int) -> None:
        self.partial, self.fails_at = partial, fails_at
        self.write, self.sync = os.pwrite, os.fsync
        self.syncs = 0
        self.unsynced: list[tuple[int, int, int]] = []

    def pwrite(self, fd: int, data: memoryview, position: int) -> int:
        time.sleep(0.002)
        self.unsynced.append((fd, position, len(data)))
        return self.write(fd, data, position)

    def fsync(self, fd: int) -> None:
        if self.partial.exists() and os.path.samestat(os.fstat(fd), self.partial.stat()):
            self.syncs += 1
            lost, self.unsynced = self.unsynced, []
            if self.syncs >= self.fails_at and lost and self.fails_at:
                self.fails_at = 0
                for f, position, count in lost:
                    self.write(f, bytes(count), position)
                raise OSError(errno.EIO, "Input/output error")
        self.sync(fd)


@pytest.mark.skipif(not hasattr(os, "pwrite"), reason="this platform writes in another way")
def test_what_a_failed_sync_has_lost_is_made_again(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected, out = whole(source, tmp_path / "whole"), tmp_path / "out"
    out.mkdir()
    disk = LosingDisk(out / "x.gguf.partial", fails_at=2)
    monkeypatch.setattr(workers, "SYNC_SECONDS", 0.03)
    with monkeypatch.context() as m:
        m.setattr(os, "pwrite", disk.pwrite)
        m.setattr(os, "fsync", disk.fsync)
        with pytest.raises(CoderError, match="Input/output error"):
            run(source, out / "x.gguf")
    assert not disk.fails_at
    resumed, _ = run(source, out / "x.gguf")
    assert resumed
    assert sha(out) == expected


def test_a_file_whose_sync_failed_as_it_made_room_is_never_called_safe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fsync(fd: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(output_files, "OPEN_AT_ONCE", 1)
    files = OutputFiles([OutputFile(tmp_path / name, b"head", 8) for name in "ab"])
    files.create()
    files.write(0, 4, memoryview(b"data"))
    with monkeypatch.context() as m:
        m.setattr(os, "fsync", fsync)
        with pytest.raises(OSError, match="Input/output"):
            files.write(1, 4, memoryview(b"data"))
    for _ in range(2):
        with pytest.raises(OSError, match="Input/output"):
            files.sync()
    files.close()
    assert (tmp_path / "a.partial").read_bytes() == b"headdata"


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="cannot see the open files of a process here")
def test_a_split_output_needs_few_open_files(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def open_now(_: int = 0) -> None:
        links = []
        for p in Path("/proc/self/fd").iterdir():
            try:
                links.append(os.readlink(p))
            except OSError:  # closed meanwhile
                continue
        seen.append(sum(link.endswith(".partial") for link in links))

    expected, seen = whole(source, tmp_path / "whole", split=SPLIT), list[int]()
    assert len(expected) > 3
    (tmp_path / "out").mkdir()
    monkeypatch.setattr(output_files, "OPEN_AT_ONCE", 2)
    with closing(plan_source(source, tmp_path / "out" / "x.gguf", Options("q8_0", split_bytes=SPLIT))) as job:
        writer.carry_out(job.plan, job.store, threads=1, report=open_now)
    assert 1 <= max(seen) <= 2
    open_now()
    assert seen[-1] == 0
    assert sha(tmp_path / "out") == expected


def no_more_files(m: pytest.MonkeyPatch) -> None:
    def refuse(path: str | Path, flags: int, *more: int, **others: int) -> int:
        if "-00002-of-" in str(path) and str(path).endswith(".partial"):
            raise OSError(errno.EMFILE, "Too many open files")
        return real(path, flags, *more, **others)

    real = os.open
    m.setattr(os, "open", refuse)


def no_room_for_a_note(m: pytest.MonkeyPatch) -> None:
    def refuse(self: Journal, **more: bool) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    m.setattr(Journal, "go_on", refuse)


@pytest.mark.parametrize("fault", [no_more_files, no_room_for_a_note])
def test_a_run_that_cannot_be_taken_up_again_just_now_is_kept(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: Callable[[pytest.MonkeyPatch], None]
) -> None:
    expected, out = whole(source, tmp_path / "whole", split=SPLIT), tmp_path / "out"
    out.mkdir()
    interrupt(source, out / "x.gguf", split=SPLIT)
    names = sorted(p.name for p in out.iterdir())
    with monkeypatch.context() as m:
        fault(m)
        with pytest.raises(CoderError) as caught:
            run(source, out / "x.gguf", split=SPLIT)
    assert "goes on from here" in caught.value.hint
    assert sorted(p.name for p in out.iterdir()) == names
    resumed, reported = run(source, out / "x.gguf", split=SPLIT)
    assert resumed
    assert reported[0] > 0
    assert sha(out) == expected


def test_a_start_that_fails_leaves_nothing_and_promises_nothing(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    no_more_files(monkeypatch)
    with pytest.raises(CoderError, match="Too many open files") as caught:
        run(source, tmp_path / "x.gguf", split=SPLIT)
    assert "goes on" not in caught.value.hint
    assert list(tmp_path.iterdir()) == []


def test_a_journal_that_vanishes_before_it_is_locked_is_opened_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def late(file: object) -> None:
        if not late_once:
            late_once.append(1)
            path.unlink()  # the run that held it has just ended
        real(file)  # type: ignore[arg-type]

    path, real, late_once = tmp_path / "x.journal", journal_module._lock, list[int]()
    monkeypatch.setattr(journal_module, "_lock", late)
    held = Journal(path, "d", 9)
    assert path.exists()
    with pytest.raises(Busy):
        Journal(path, "d", 9)
    held.close(remove=True)
    assert list(tmp_path.iterdir()) == []


def test_a_complete_file_clears_up_only_what_nobody_needs(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "x.gguf"
    run(source, out)
    plan = plan_of(source, out)
    held = Journal(writer.journal_path(plan), plan.digest, len(plan.pieces))
    held.start()
    assert writer.existing_output(plan)
    assert writer.journal_path(plan).exists()  # a run with --force is under way
    held.close(remove=False)
    interrupt(source, out)  # of this very plan: nothing that the file has not
    assert writer.existing_output(plan)
    assert not {"x.gguf.partial", "x.gguf.journal"} & {p.name for p in tmp_path.iterdir()}
    interrupt(source, out, recipe="q4_0")
    names = sorted(p.name for p in tmp_path.iterdir())
    assert writer.existing_output(plan)
    assert sorted(p.name for p in tmp_path.iterdir()) == names
    assert run(source, out, recipe="q4_0")[0]


@pytest.mark.parametrize("size", [0, 1000])
def test_notes_about_a_file_that_was_changed_are_not_believed(source: Path, tmp_path: Path, size: int) -> None:
    expected, out = whole(source, tmp_path / "whole"), tmp_path / "out"
    out.mkdir()
    interrupt(source, out / "x.gguf")
    os.truncate(out / "x.gguf.partial", size)
    resumed, _ = run(source, out / "x.gguf")
    assert not resumed
    assert sha(out) == expected


@pytest.mark.parametrize("fresh", [True, False])
def test_killed_as_it_starts_over_old_notes_are_gone_before_the_data(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fresh: bool
) -> None:
    def create(self: OutputFiles) -> None:
        real(self)
        shutil.copytree(out, tmp_path / "killed")

    expected, out, real = whole(source, tmp_path / "whole"), tmp_path / "out", OutputFiles.create
    out.mkdir()
    interrupt(source, out / "x.gguf")
    if not fresh:
        os.truncate(out / "x.gguf.partial", 0)
    with monkeypatch.context() as m:
        m.setattr(OutputFiles, "create", create)
        assert not run(source, out / "x.gguf", fresh=fresh)[0]
    run(source, tmp_path / "killed" / "x.gguf")
    assert sha(tmp_path / "killed") == expected


def test_all_is_noted_but_nothing_is_there(source: Path, tmp_path: Path) -> None:
    expected, out = whole(source, tmp_path / "whole"), tmp_path / "out"
    out.mkdir()
    plan = plan_of(source, out / "x.gguf")
    journal = Journal(writer.journal_path(plan), plan.digest, len(plan.pieces))
    journal.start()
    journal.add(list(range(len(plan.pieces))))
    journal.close(remove=False)
    resumed, _ = run(source, out / "x.gguf")
    assert not resumed
    assert sha(out) == expected


def test_stopped_between_two_renames_nothing_is_made_again(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def replace(a: Path, b: Path) -> None:
        if b.name.startswith("x-00001-of-"):
            raise KeyboardInterrupt
        real(a, b)

    expected, out, real = whole(source, tmp_path / "whole", split=SPLIT), tmp_path / "out", os.replace
    out.mkdir()
    with monkeypatch.context() as m:
        m.setattr(os, "replace", replace)
        with pytest.raises(KeyboardInterrupt):
            run(source, out / "x.gguf", split=SPLIT)
    plan = plan_of(source, out / "x.gguf", split=SPLIT)
    assert not writer.existing_output(plan)
    assert writer.bytes_on_disk(plan) > 0.9 * plan.total_bytes
    resumed, reported = run(source, out / "x.gguf", split=SPLIT)
    assert resumed
    assert reported == [sum(t.info.nbytes for t in plan.tensors)]
    assert sha(out) == expected


def test_a_file_that_is_taken_away_meanwhile_is_missed(source: Path, tmp_path: Path) -> None:
    def report(_: int) -> None:
        (tmp_path / "x.gguf.partial").unlink(missing_ok=True)

    job = plan_source(source, tmp_path / "x.gguf", Options("q8_0"))
    with closing(job), pytest.raises(CoderError, match="cannot write"):
        writer.carry_out(job.plan, job.store, threads=1, report=report)


def test_a_number_cut_short_is_not_believed_two_runs_later(tmp_path: Path) -> None:
    path = tmp_path / "x.journal"
    first = Journal(path, "d", 1000)
    first.start()
    first.add([5, 123])
    first.close(remove=False)
    path.write_bytes(path.read_bytes()[:-2])  # "12" of "123\n"
    second = Journal(path, "d", 1000)
    assert second.done == {5}
    second.go_on()
    second.add([7])
    second.close(remove=False)
    path.write_bytes(path.read_bytes() + b"1" * 5000 + b"\n")
    third = Journal(path, "d", 1000)
    assert third.resumed
    assert third.done == {5, 7}
    third.close(remove=False)
    path.write_bytes(path.read_bytes().split(b"\n")[0])  # all of the first line but its end
    fourth = Journal(path, "d", 1000)
    assert not fourth.resumed
    assert not fourth.foreign
    fourth.close(remove=True)


def test_a_folder_in_the_way_is_refused_before_any_work(source: Path, tmp_path: Path) -> None:
    (tmp_path / "x.gguf").mkdir()
    with pytest.raises(InputError, match="is a folder"):
        run(source, tmp_path / "x.gguf", fresh=True)
    assert [p.name for p in tmp_path.iterdir()] == ["x.gguf"]


def test_the_shards_on_their_way_need_room_too(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = Checkpoint.open(source)
    shards = {t.shard: b"" for t in checkpoint.tensors.values()}
    folder = tmp_path / "x.gguf.download"
    folder.mkdir()
    (folder / "model-00002-of-000003.safetensors.abc.incomplete").write_bytes(bytes(1 << 16))
    store = HubStore(HubModel("a/b", "c", folder, checkpoint, shards))
    plan = plan_of(source, tmp_path / "x.gguf")
    needed = plan.total_bytes + 2 * store.model.shard_bytes - (1 << 16)
    for free, enough in ((needed - 1, False), (needed, True)):
        monkeypatch.setattr(writer.shutil, "disk_usage", lambda _, free=free: type("U", (), {"free": free}))
        if enough:
            writer.check_room(plan, store)
        else:
            with pytest.raises(InputError, match="GB free"):
                writer.check_room(plan, store)
    store.close()
