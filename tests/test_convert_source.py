"""What a conversion does with its source: a download that was begun is kept, a source that changes is noticed."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from checkpoints import write_checkpoint
from hub_server import COMMIT, Hub, serving
from typer.testing import CliRunner, Result

from cli import pulling
from cli.convert import convert as command
from converters.gguf_header import read_header
from converters.hub_errors import HubError
from converters.job import Options, closing, plan_hub
from quant.errors import CoderError, InputError

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


def interrupted(hub: Hub) -> None:
    """A run that ends in the middle; then somebody edits the README."""
    hub.faults.break_after = 1
    assert isinstance(run(REPO, "x.gguf", "-q", "q8_0").exception, HubError)
    hub.faults.break_after = None
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
    hub.faults.break_after = 1
    with pytest.raises(HubError):
        pulling.run(pulling.Request("mine", "q8_0"))
    hub.faults.break_after = None
    hub.commits.append(NEWER)
    entry = pulling.run(pulling.Request("mine", "q8_0"))
    assert entry.source == f"{REPO}@{COMMIT[:12]}"
    assert f"note: going on with revision {COMMIT[:12]}" in capsys.readouterr().err
    assert names(entry.path.parent) == [".mine-q8_0.lock", "mine-q8_0.gguf", "mine-q8_0.json"]
