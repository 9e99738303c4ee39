"""What a conversion does with its source: a download that was begun is kept, a source that changes is noticed."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from checkpoints import write_checkpoint
from hub_server import Hub, serving
from typer.testing import CliRunner, Result

from cli.convert import convert as command
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
