"""Conversion from the Hub: a local server, and the real command as a process."""

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from checkpoints import convert, read_tensors, write_checkpoint
from hub_server import COMMIT, Hub, serving

from converters import hub as hub_module
from converters.gguf_header import read_header
from converters.hub import HubModel, HubStore, is_repo_id
from converters.hub_file import RemoteFile
from converters.safetensors_shards import Checkpoint, read_shard_header

REPO = "someone/small-model"


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    folder = write_checkpoint(tmp_path / "served", n_shards=5)
    (tmp_path / "work").mkdir()
    with serving({REPO: folder}, tmp_path / "work") as server:
        yield server


def run(hub: Hub, repo: str = REPO, *more: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "cli", "convert", repo, "x.gguf", "-q", "q8_0", "--threads", "2", *more]
    return subprocess.run(command, env=hub.environment(), cwd=hub.work, capture_output=True, text=True, timeout=120)


def test_shards_are_fetched_used_and_dropped(hub: Hub, tmp_path: Path) -> None:
    done = run(hub)
    assert done.returncode == 0, done.stderr
    assert [p.name for p in hub.work.iterdir()] == ["x.gguf"]
    local = convert(hub.repos[REPO], tmp_path / "local.gguf", "q8_0")
    assert read_tensors(hub.work / "x.gguf") == read_tensors(local)
    m = read_header(hub.work / "x.gguf").metadata
    assert (m["coder.convert.repository"], m["coder.convert.revision"]) == (REPO, COMMIT)
    assert m["general.name"] == "small-model"
    assert sorted(hub.whole) == sorted(p.name for p in hub.repos[REPO].glob("*.safetensors"))
    assert 1 <= hub.most_shards <= 2
    assert "Bearer hf_secret" in hub.tokens


def test_a_broken_connection_is_said_and_the_next_run_goes_on(hub: Hub, tmp_path: Path) -> None:
    hub.faults.break_after = 2
    broken = run(hub)
    assert broken.returncode == 2, broken.stderr
    assert "Traceback" not in broken.stderr
    assert not (hub.work / "x.gguf").exists()
    hub.faults.break_after = None
    before = len(hub.whole)
    done = run(hub)
    assert done.returncode == 0, done.stderr
    assert "Went on" in done.stderr
    assert len(set(hub.whole[before:])) < 5  # the first shards were not fetched again
    assert [p.name for p in hub.work.iterdir()] == ["x.gguf"]
    local = convert(hub.repos[REPO], tmp_path / "local.gguf", "q8_0")
    assert read_tensors(hub.work / "x.gguf") == read_tensors(local)


def test_a_look_reads_headers_only_and_leaves_nothing(hub: Hub) -> None:
    done = run(hub, REPO, "--dry-run", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["source"] == REPO
    assert hub.whole == []
    assert list(hub.work.iterdir()) == []


def test_a_model_that_is_not_there_is_one_line(hub: Hub) -> None:
    done = run(hub, "someone/else")
    assert done.returncode == 2
    assert "someone/else" in done.stderr
    assert "hint:" in done.stderr
    assert "Traceback" not in done.stderr
    assert list(hub.work.iterdir()) == []


@pytest.mark.parametrize("source", ["../x", "a/b/c", "a", "/etc/passwd", "a/..", "-x/y", "a/b\n"])
def test_what_is_no_repo_id(source: str) -> None:
    assert not is_repo_id(source)
    assert is_repo_id("deepseek-ai/DeepSeek-Coder-V2-Lite-Base")


def test_a_damaged_model_on_the_hub_is_refused_before_its_weights_come(hub: Hub) -> None:
    config = json.loads((hub.repos[REPO] / "config.json").read_text())
    (hub.repos[REPO] / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 2}))
    done = run(hub)
    assert done.returncode == 2
    assert "left over" in done.stderr
    (hub.repos[REPO] / "config.json").write_text(json.dumps(config))
    shard = min(hub.repos[REPO].glob("*.safetensors"))
    shard.write_bytes(shard.read_bytes()[:-100])
    done = run(hub)
    assert done.returncode == 2
    assert "truncated" in done.stderr
    assert hub.whole == []
    assert list(hub.work.iterdir()) == []


def test_the_screen_hears_what_is_on_its_way(tmp_path: Path) -> None:
    checkpoint = Checkpoint.open(write_checkpoint(tmp_path / "in", n_shards=2))
    store = HubStore(HubModel(REPO, COMMIT, tmp_path / "work", checkpoint, {}))
    assert store.status() == ""
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "x.incomplete").write_bytes(bytes(20_000_000))
    store._fetching = "model-00002-of-000002.safetensors"
    assert store.status() == "fetching model-00002-of-000002: 0.02 of 0.00 GB"
    store.close()


def test_a_slow_reader_never_has_more_than_two_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    served, work = write_checkpoint(tmp_path / "in", n_shards=5), tmp_path / "work"
    work.mkdir()
    checkpoint = Checkpoint.open(served)
    fetched: list[str] = []

    def fetch(file: RemoteFile, folder: Path) -> Path:
        fetched.append(file.name)
        return Path(shutil.copy(served / file.name, folder / file.name))

    monkeypatch.setattr(hub_module, "fetch", fetch)
    shards = sorted(p.name for p in served.glob("*.safetensors"))
    headers = {s: read_shard_header(served / s) for s in shards}
    headers = {s: len(h).to_bytes(8, "little") + h for s, h in headers.items()}
    store = HubStore(HubModel(REPO, COMMIT, work, Checkpoint(work, checkpoint.tensors), headers))
    order = sorted(checkpoint.names, key=lambda n: checkpoint.tensors[n].shard)
    store.prepare(order)
    for name in order:
        out = np.empty(8, dtype=np.uint8)
        store.read(name, 0, out)
        assert out.tobytes() == checkpoint.raw(name)[:8].tobytes()
        time.sleep(0.005)
        here = sorted(p.name for p in work.glob("*.safetensors"))
        assert len(here) <= 2
        assert len(fetched) <= shards.index(checkpoint.tensors[name].shard) + 3
    assert fetched == shards
    assert list(work.iterdir()) == []
    store.close()
