"""What a conversion does with its source: a download that was begun is kept, a source that changes is noticed."""

import itertools
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import typer
from checkpoints import LITE, convert, read_tensors, write_checkpoint
from hub_server import COMMIT, Hub, serving
from typer.testing import CliRunner, Result

from cli import pulling
from cli.convert import convert as command
from coderv2_local.pulling import ready
from coderv2_local.pulling.wanted import Wanted
from coderv2_local.registry import ReadyFile
from converters import hub as hub_module
from converters import hub_file, writer
from converters.gguf_header import read_header
from converters.hub_errors import HubError
from converters.hub_file import RemoteFile
from converters.job import Job, Options, closing, plan_hub, plan_source
from converters.provenance import SAMPLE_BYTES, SAMPLES
from converters.safetensors_shards import read_shard_header
from converters.tokenizer import TOKENIZER_LIMIT
from quant.errors import CoderError, InputError
from quant.ggml import Bytes

REPO = "someone/small-model"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A Hub that this very process can reach, and an empty folder to work in."""
    from huggingface_hub import constants

    folder, work = write_checkpoint(tmp_path / "served"), tmp_path / "work"
    work.mkdir()
    with serving({REPO: folder}, work) as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", server.url + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        for name in ("NO_PROXY", "no_proxy"):
            monkeypatch.setenv(name, "127.0.0.1")
        monkeypatch.chdir(work)
        yield server


def run(*arguments: object) -> Result:
    app = typer.Typer()
    app.command()(command)
    return CliRunner().invoke(app, [str(a) for a in arguments])


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


# --- what was begun ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("trouble", ["no such model", "HTTP 500", "a mistyped recipe", "a damaged shard"])
def test_no_error_deletes_a_download_that_was_begun(hub: Hub, trouble: str) -> None:
    folder = hub.work / "x.gguf.download"
    folder.mkdir()
    begun = folder / "model-00001-of-000003.safetensors.abcdefabcdef.incomplete"
    begun.write_bytes(bytes(1000))
    if trouble == "HTTP 500":
        hub.faults.api_status = 500
    elif trouble == "a damaged shard":
        shard = min(hub.repos[REPO].glob("*.safetensors"))
        shard.write_bytes(shard.read_bytes()[:-100])
    repo = "someone/else" if trouble == "no such model" else REPO
    recipe = "q9" if trouble == "a mistyped recipe" else "q8_0"
    with pytest.raises(InputError):
        plan_hub(repo, None, hub.work / "x.gguf", Options(recipe))
    assert begun.stat().st_size == 1000
    assert trouble != "a mistyped recipe" or names(folder) == [begun.name]  # said before anything is fetched


def test_a_plan_that_fails_or_is_not_carried_out_leaves_nothing(hub: Hub) -> None:
    with closing(plan_hub(REPO, None, hub.work / "x.gguf", Options("q8_0"))):
        assert names(hub.work) == ["x.gguf.download"]
    assert names(hub.work) == []
    with closing(plan_hub(REPO, None, hub.work / "x.gguf", Options("q8_0"))):
        (hub.work / "x.gguf.download" / "x.safetensors.incomplete").touch()  # of another run, which was faster
    assert names(hub.work) == ["x.gguf.download"]
    shutil.rmtree(hub.work / "x.gguf.download")
    (hub.repos[REPO] / "tokenizer.json").unlink()
    with pytest.raises(HubError, match=r"no tokenizer\.json"):
        plan_hub(REPO, None, hub.work / "x.gguf", Options("q8_0"))
    assert names(hub.work) == []


def test_what_is_there_already_leaves_no_download(hub: Hub) -> None:
    assert run(REPO, "x.gguf", "-q", "q8_0").exit_code == 0
    (hub.work / "x.gguf.download").mkdir()  # of a run that was killed in its last moment
    for _ in range(2):
        again = run(REPO, "x.gguf", "-q", "q8_0")
        assert "already, complete" in again.stderr
        assert names(hub.work) == ["x.gguf"]
    other = run(REPO, "x.gguf", "-q", "q4_0")
    assert isinstance(other.exception, CoderError)
    assert names(hub.work) == ["x.gguf"]


# --- the revision at which it was begun ----------------------------------------------------------------------------

NEWER = "f" * 40


@contextmanager
def breaking() -> Iterator[None]:
    """Only one shard comes while the block runs, which a HubError ends."""
    came: list[str] = []

    def fetch(file: RemoteFile, folder: Path) -> Path:
        came.append(file.name)
        if len(came) > 1:
            raise HubError("the connection broke")
        return hub_file.fetch(file, folder)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hub_module, "fetch", fetch)
        with pytest.raises(HubError, match="connection broke"):
            yield


def interrupted(hub: Hub) -> None:
    """A run that ends in the middle; then somebody edits the README."""
    with breaking():
        raise run(REPO, "x.gguf", "-q", "q8_0").exception or AssertionError("it is complete")
    hub.commits.append(NEWER)


def revision(path: Path) -> str:
    return str(read_header(path).metadata["coder.convert.revision"])


def test_an_interrupted_run_goes_on_at_the_revision_at_which_it_began(hub: Hub) -> None:
    interrupted(hub)
    look = run(REPO, "x.gguf", "-q", "q8_0", "--dry-run")
    assert f"going on with revision {COMMIT[:12]}" in look.stdout
    done = run(REPO, "x.gguf", "-q", "q8_0")
    assert done.exit_code == 0, done.exception
    assert f"note: going on with revision {COMMIT[:12]}" in done.stderr
    assert "Went on" in done.stderr
    assert revision(hub.work / "x.gguf") == COMMIT
    assert names(hub.work) == ["x.gguf"]
    assert run(REPO, "y.gguf", "-q", "q8_0").exit_code == 0
    assert revision(hub.work / "y.gguf") == NEWER


def test_a_run_goes_on_at_another_revision_only_from_its_beginning(hub: Hub) -> None:
    interrupted(hub)
    other = run(REPO, "x.gguf", "-q", "q8_0", "--revision", NEWER)
    assert "other settings or another source" in str(other.exception)
    assert run(REPO, "x.gguf", "-q", "q8_0", "--fresh").exit_code == 0
    assert revision(hub.work / "x.gguf") == NEWER


def test_a_revision_that_the_hub_has_no_longer_is_said(hub: Hub) -> None:
    interrupted(hub)
    hub.commits.remove(COMMIT)
    gone = run(REPO, "x.gguf", "-q", "q8_0").exception
    assert isinstance(gone, HubError)
    assert COMMIT[:12] in gone.message
    assert "--fresh" in gone.hint


def test_coder_pull_goes_on_at_the_revision_at_which_it_began(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CODER_HOME", str(hub.work / "home"))
    (hub.work / "home").mkdir()
    (hub.work / "home" / "config.toml").write_text(f'[models.mine]\nrepo = "{REPO}"\n')
    with breaking():
        pulling.run(pulling.Request("mine", "q8_0"))
    hub.commits.append(NEWER)
    entry = pulling.run(pulling.Request("mine", "q8_0"))
    assert entry.source == f"{REPO}@{COMMIT[:12]}"
    assert f"note: going on with revision {COMMIT[:12]}" in capsys.readouterr().err
    assert names(entry.path.parent) == [".mine-q8_0.lock", "mine-q8_0.gguf", "mine-q8_0.json"]


# --- a source that changes -----------------------------------------------------------------------------------------


class Interrupted(Exception):
    """Whatever ends a run in its middle."""


def carry_out(job: Job, at: int = -1, happens: Callable[[], None] = lambda: None) -> bool:
    """Carry a plan out. After the read number `at` something `happens`."""
    count, read = itertools.count(), job.store.read

    def counted(stored: str, start: int, out: Bytes) -> None:
        read(stored, start, out)
        if next(count) == at:
            happens()

    job.store.read = counted  # type: ignore[method-assign]
    return writer.carry_out(job.plan, job.store, threads=1, report=lambda n: None)


def overwrite(shard: Path) -> None:
    """Other weights between the samples of the fingerprint: the same name, size and header, and another time."""
    start, size = 8 + len(read_shard_header(shard)), shard.stat().st_size
    step = (size - start) // SAMPLES
    assert step > SAMPLE_BYTES + 100
    with open(shard, "r+b") as f:
        f.seek(start + step + SAMPLE_BYTES + 10)
        f.write(bytes(64))


def in_shard(job: Job, shard: Path) -> int:
    """The number of a read in the middle of what is read of `shard`."""
    stored = [job.plan.tensors[p.tensor].wanted.parts[p.part].stored for p in job.plan.pieces]
    return [job.store.location(s)[0] for s in stored].index(shard.name) + 3


def end() -> None:
    raise Interrupted


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return write_checkpoint(tmp_path / "in", LITE | {"hidden_size": 256})


def shards(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.safetensors"))


def test_a_shard_that_is_overwritten_while_it_is_converted_is_named(checkpoint: Path, tmp_path: Path) -> None:
    out, shard = tmp_path / "x.gguf", shards(checkpoint)[1]
    with (
        closing(plan_source(checkpoint, out, Options("bf16"))) as job,
        pytest.raises(InputError, match=r"00002-of.*changed while") as found,
    ):
        carry_out(job, in_shard(job, shard), lambda: overwrite(shard))
    assert "--fresh" in found.value.hint
    assert not out.exists()
    for _ in range(2):
        again = run(checkpoint, out, "-q", "bf16").exception
        assert isinstance(again, InputError)
        assert "00002-of" in str(again)


def test_a_run_does_not_go_on_with_a_shard_that_was_changed(checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "x.gguf"
    with closing(plan_source(checkpoint, out, Options("bf16"))) as job, pytest.raises(Interrupted):
        carry_out(job, 3, end)
    overwrite(shards(checkpoint)[0])
    again = run(checkpoint, out, "-q", "bf16")
    assert isinstance(again.exception, InputError)
    assert "00001-of" in str(again.exception)
    assert "--fresh" in again.exception.hint
    assert run(checkpoint, out, "-q", "bf16", "--fresh").exit_code == 0
    assert names(tmp_path) == ["in", "x.gguf"]
    assert read_tensors(out) == read_tensors(convert(checkpoint, tmp_path / "y.gguf", "bf16"))


def test_a_run_goes_on_where_only_shards_were_changed_that_it_has_not_used(checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "x.gguf"
    with closing(plan_source(checkpoint, out, Options("bf16"))) as job, pytest.raises(Interrupted):
        carry_out(job, 3, end)
    overwrite(shards(checkpoint)[2])
    done = run(checkpoint, out, "-q", "bf16")
    assert done.exit_code == 0, done.exception
    assert "Went on" in done.stderr
    assert names(tmp_path) == ["in", "x.gguf"]
    assert read_tensors(out) == read_tensors(convert(checkpoint, tmp_path / "y.gguf", "bf16"))


def test_a_gguf_that_is_overwritten_while_it_is_requantized_is_named(checkpoint: Path, tmp_path: Path) -> None:
    source = convert(checkpoint, tmp_path / "source.gguf", "bf16")
    with (
        closing(plan_source(source, tmp_path / "x.gguf", Options("q8_0"))) as job,
        pytest.raises(InputError, match=r"source\.gguf was changed"),
    ):
        carry_out(job, 1, lambda: os.utime(source, (1, 1)))


def test_a_shard_that_is_newer_than_the_output_is_said(checkpoint: Path, tmp_path: Path) -> None:
    out = convert(checkpoint, tmp_path / "x.gguf", "bf16")
    assert "--force" not in run(checkpoint, out, "-q", "bf16").stderr
    overwrite(shards(checkpoint)[1])
    again = run(checkpoint, out, "-q", "bf16")
    assert again.exit_code == 0
    assert f"note: {shards(checkpoint)[1].name} is newer" in again.stderr
    assert "--force" in again.stderr


def test_a_copied_checkpoint_gives_the_same_bytes(checkpoint: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy" / "in"
    shutil.copytree(checkpoint, copy, copy_function=shutil.copyfile)
    one, other = (convert(folder, tmp_path / f"{n}.gguf", "bf16") for n, folder in enumerate((checkpoint, copy)))
    assert one.read_bytes() == other.read_bytes()


# --- sources that cannot be used -----------------------------------------------------------------------------------


def test_a_file_that_is_too_large_is_not_fetched(hub: Hub) -> None:
    hub.faults.said["tokenizer.json"] = TOKENIZER_LIMIT + 1, ""
    with pytest.raises(HubError, match=rf"tokenizer\.json of .* has {TOKENIZER_LIMIT + 1} bytes"):
        plan_hub(REPO, None, hub.work / "x.gguf", Options("q8_0"))
    assert names(hub.work) == []


@pytest.mark.skipif(sys.platform != "linux", reason="names are not bytes there")
@pytest.mark.parametrize("place", ["folder", "shard", "file"])
def test_a_name_that_is_not_utf8(tmp_path: Path, place: str) -> None:
    name = os.fsdecode(b"caf\xe9")
    source = write_checkpoint(tmp_path / (name if place == "folder" else "in"), n_shards=1)
    if place == "shard":
        (source / "model.safetensors.index.json").unlink()
        shards(source)[0].rename(source / f"{name}.safetensors")
        assert run(source, tmp_path / "x.gguf", "-q", "bf16").exit_code == 0
        return
    if place == "file":
        source = convert(source, tmp_path / "x.gguf", "bf16").rename(tmp_path / f"{name}.gguf")
    refused = run(source, tmp_path / "y.gguf", "-q", "q8_0").exception
    assert isinstance(refused, InputError)
    assert "not UTF-8" in refused.message
    refused.message.encode()


def test_a_name_that_is_too_long(hub: Hub) -> None:
    for arguments in (["x" * 300], ["x" * 300, "y.gguf"], ["x" * 300 + ".gguf"], [REPO, "y" * 300 + ".gguf"]):
        assert isinstance(run(*arguments).exception, InputError)
    assert names(hub.work) == []


def test_a_size_of_400_digits(tmp_path: Path) -> None:
    refused = run(tmp_path, tmp_path / "x.gguf", "--split-size", "9" * 400).exception
    assert isinstance(refused, InputError)
    assert len(refused.message) < 200


def test_a_ready_file_that_is_part_1_of_none(hub: Hub) -> None:
    wanted = Wanted("mine", REPO, "q8_0", ReadyFile(REPO, "m-00001-of-00000.gguf", "q8_0"))
    with pytest.raises(HubError, match="part 1 of none"):
        ready.parts_of(wanted, ready.look_up(REPO))
