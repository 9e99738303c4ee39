"""Conversion from the Hub: a local server that speaks the calls needed, and the real command as a process."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from checkpoints import convert, read_tensors, write_checkpoint

from converters import hub as hub_module
from converters.gguf_header import read_header
from converters.hub import HubModel, HubStore, is_repo_id
from converters.hub_file import RemoteFile
from converters.safetensors_shards import Checkpoint, read_shard_header

REPO, COMMIT = "someone/small-model", "0123456789abcdef0123456789abcdef01234567"
ROOT = Path(__file__).parent.parent


class Hub(ThreadingHTTPServer):
    """Serves one model from a folder, and notes what it sees."""

    daemon_threads = True

    def __init__(self, folder: Path, work: Path) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.folder, self.work = folder, work
        self.tokens: set[str | None] = set()
        self.most_shards = 0
        self.whole: list[str] = []
        self.break_after: int | None = None
        """Cut the connection in the middle of the next shard after so many."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    server: Hub

    def log_message(self, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, body: bool) -> None:
        hub = self.server
        hub.tokens.add(self.headers.get("Authorization"))
        there = {*hub.work.rglob("*.safetensors"), *hub.work.rglob("*.incomplete")}
        hub.most_shards = max(hub.most_shards, len(there))
        if self.path.startswith(f"/api/models/{REPO}"):
            names = [{"rfilename": p.name} for p in sorted(hub.folder.iterdir())]
            self._send(json.dumps({"id": REPO, "sha": COMMIT, "siblings": names}).encode(), "application/json", body)
            return
        prefix = f"/{REPO}/resolve/{COMMIT}/"
        path = hub.folder / self.path.removeprefix(prefix)
        if not self.path.startswith(prefix) or not path.is_file():
            self.send_response(404)
            self.send_header("X-Error-Code", "EntryNotFound" if self.path.startswith(prefix) else "RepoNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self._send(path.read_bytes(), "application/octet-stream", body, name=path.name)

    def _send(self, data: bytes, kind: str, body: bool, name: str = "") -> None:
        wanted = self.headers.get("Range", "")
        status, total = 200, len(data)
        if wanted.startswith("bytes="):
            first, _, last = wanted.removeprefix("bytes=").partition("-")
            end = min(total, int(last) + 1) if last else total
            status, part = 206, data[int(first) : end]
        else:
            part = data
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(part)))
        self.send_header("ETag", f'"{hashlib.sha256(data).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        if status == 206:
            self.send_header("Content-Range", f"bytes {int(first)}-{int(first) + len(part) - 1}/{total}")
        self.end_headers()
        if not body:
            return
        if name.endswith(".safetensors") and (not wanted or wanted.endswith("-")):
            self.server.whole.append(name)
            if self.server.break_after is not None and len(self.server.whole) > self.server.break_after:
                self.wfile.write(part[: len(part) // 2])
                self.close_connection = True
                return
        self.wfile.write(part)


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    folder = write_checkpoint(tmp_path / "served", n_shards=5)
    (tmp_path / "work").mkdir()
    server = Hub(folder, tmp_path / "work")
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def run(hub: Hub, repo: str = REPO, *more: str) -> "subprocess.CompletedProcess[str]":
    environment = dict(
        os.environ, PYTHONPATH=str(ROOT), HF_ENDPOINT=hub.url, HF_TOKEN="hf_secret", HF_HUB_OFFLINE="0",
        HF_HOME=str(hub.work.parent / "home"), HF_HUB_DOWNLOAD_TIMEOUT="5", NO_COLOR="1",
        NO_PROXY="127.0.0.1", no_proxy="127.0.0.1",
    )  # fmt: skip
    command = [sys.executable, "-m", "cli", "convert", repo, "x.gguf", "-q", "q8_0", "--threads", "2", *more]
    return subprocess.run(command, env=environment, cwd=hub.work, capture_output=True, text=True, timeout=120)


def test_shards_are_fetched_used_and_dropped(hub: Hub, tmp_path: Path) -> None:
    done = run(hub)
    assert done.returncode == 0, done.stderr
    assert [p.name for p in hub.work.iterdir()] == ["x.gguf"]
    local = convert(hub.folder, tmp_path / "local.gguf", "q8_0")
    assert read_tensors(hub.work / "x.gguf") == read_tensors(local)
    m = read_header(hub.work / "x.gguf").metadata
    assert (m["coder.convert.repository"], m["coder.convert.revision"]) == (REPO, COMMIT)
    assert m["general.name"] == "small-model"
    assert sorted(hub.whole) == sorted(p.name for p in hub.folder.glob("*.safetensors"))
    assert 1 <= hub.most_shards <= 2
    assert "Bearer hf_secret" in hub.tokens


def test_a_broken_connection_is_said_and_the_next_run_goes_on(hub: Hub, tmp_path: Path) -> None:
    hub.break_after = 2
    broken = run(hub)
    assert broken.returncode == 2, broken.stderr
    assert "Traceback" not in broken.stderr
    assert not (hub.work / "x.gguf").exists()
    hub.break_after = None
    before = len(hub.whole)
    done = run(hub)
    assert done.returncode == 0, done.stderr
    assert "Went on" in done.stderr
    assert len(set(hub.whole[before:])) < 5  # the first shards were not fetched again
    assert [p.name for p in hub.work.iterdir()] == ["x.gguf"]
    local = convert(hub.folder, tmp_path / "local.gguf", "q8_0")
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
    config = json.loads((hub.folder / "config.json").read_text())
    (hub.folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 2}))
    done = run(hub)
    assert done.returncode == 2
    assert "left over" in done.stderr
    (hub.folder / "config.json").write_text(json.dumps(config))
    shard = min(hub.folder.glob("*.safetensors"))
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
