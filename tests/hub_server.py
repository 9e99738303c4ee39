"""A local server that speaks the Hub calls that are needed, and whose answers can go wrong in every known way."""

import hashlib
import json
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from conftest import ROOT

COMMIT = "0123456789abcdef0123456789abcdef01234567"
CHUNK = 1 << 16


@dataclass
class Faults:
    """What goes wrong.

    Attributes:
        break_after: cut the connection in the middle of every whole file after so many.
        cuts: so many answers with a file's content are cut after `cut_at` bytes.
        statuses: answered to requests for a file's content, one after the other, before it is sent; 0 sends it.
        api_status: answered to questions about a repository.
        said: what the Hub says of a file: name → size, SHA-256; where that differs from what it sends.
        pause: seconds before each 64 KB of a file's content.
        stalls: so many answers stop after `cut_at` bytes, and the connection stays open.
        no_ranges: files are sent as a whole only.
    """

    break_after: int | None = None
    cuts: int = 0
    cut_at: int = 100_000
    statuses: list[int] = field(default_factory=list)
    api_status: int = 200
    said: dict[str, tuple[int, str]] = field(default_factory=dict)
    pause: float = 0.0
    stalls: int = 0
    no_ranges: bool = False


class Hub(ThreadingHTTPServer):
    """Serves repositories from folders, and notes what it sees."""

    daemon_threads = True

    def __init__(self, repos: dict[str, Path], work: Path) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.repos, self.work = repos, work
        self.faults = Faults()
        self.commits = [COMMIT]
        """All with the same files, the newest last."""
        self.tokens: set[str | None] = set()
        self.most_shards = 0
        self.whole: list[str] = []
        self.starts: list[tuple[str, int]] = []
        """Requests for a file's content up to its end: its name, and from which byte on."""
        self.closing = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that go away in the middle are what the tests are about."""

    def environment(self, **more: str) -> dict[str, str]:
        """Variables that lead a process here."""
        variables = dict(
            os.environ, PYTHONPATH=str(ROOT), HF_ENDPOINT=self.url, HF_TOKEN="hf_secret", HF_HUB_OFFLINE="0",
            HF_HOME=str(self.work.parent / "home"), HF_HUB_DOWNLOAD_TIMEOUT="5", NO_COLOR="1",
            NO_PROXY="127.0.0.1", no_proxy="127.0.0.1",
        )  # fmt: skip
        return variables | more


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
        for repo, folder in hub.repos.items():
            asked, api = self.path.split("?")[0], f"/api/models/{repo}"
            for commit in reversed(hub.commits):
                if asked in (api, f"{api}/revision/{commit}"):
                    self._say_what_is_there(repo, folder, commit, body)
                    return
            prefix = f"/{repo}/resolve/{next((c for c in hub.commits if f'/{c}/' in asked), COMMIT)}/"
            path = folder / self.path.removeprefix(prefix).split("?")[0]
            if self.path.startswith(prefix) and path.is_file():
                self._send(path.read_bytes(), "application/octet-stream", body, name=path.name)
                return
            if self.path.startswith(prefix):
                self._refuse(404, "EntryNotFound")
                return
        self._refuse(404, "RevisionNotFound" if "/revision/" in self.path else "RepoNotFound")

    def _refuse(self, status: int, code: str = "") -> None:
        self.send_response(status)
        if code:
            self.send_header("X-Error-Code", code)
        if status == 429:
            self.send_header("Retry-After", "0")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _say_what_is_there(self, repo: str, folder: Path, commit: str, body: bool) -> None:
        status = self.server.faults.api_status
        if status != 200:
            self._refuse(status, {403: "GatedRepo", 401: "RepoNotFound"}.get(status, ""))
            return
        files = []
        for p in sorted(folder.iterdir()):
            size, digest = self.server.faults.said.get(p.name) or (p.stat().st_size, sha256(p))
            lfs = {"size": size, "sha256": digest, "pointerSize": 134}
            files.append({"rfilename": p.name, "size": size, "blobId": digest[:40]} | ({"lfs": lfs} if digest else {}))
        self._send(json.dumps({"id": repo, "sha": commit, "siblings": files}).encode(), "application/json", body)

    def _send(self, data: bytes, kind: str, body: bool, name: str = "") -> None:
        hub, faults = self.server, self.server.faults
        wanted = self.headers.get("Range", "") if not (faults.no_ranges and name) else ""
        status, total, first = 200, len(data), 0
        part = data
        if wanted.startswith("bytes="):
            start, _, last = wanted.removeprefix("bytes=").partition("-")
            first = int(start)
            if first >= total:
                self._refuse(416)
                return
            status, part = 206, data[first : min(total, int(last) + 1) if last else total]
        to_the_end = body and name.endswith((".safetensors", ".gguf")) and (not wanted or wanted.endswith("-"))
        if to_the_end:
            hub.starts.append((name, first))
            if faults.statuses and (status := faults.statuses.pop(0)):
                self._refuse(status)
                return
            status = 206 if wanted else 200
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(part)))
        self.send_header("ETag", f'"{hashlib.sha256(data).hexdigest()}"')
        self.send_header("X-Repo-Commit", next((c for c in hub.commits if f"/{c}/" in self.path), COMMIT))
        if status == 206:
            self.send_header("Content-Range", f"bytes {first}-{first + len(part) - 1}/{total}")
        self.end_headers()
        if not body:
            return
        if not to_the_end:
            self.wfile.write(part)
            return
        hub.whole.append(name)
        if faults.break_after is not None and len(hub.whole) > faults.break_after:
            self.wfile.write(part[: len(part) // 2])
            self.close_connection = True
            return
        self._send_content(part)

    def _send_content(self, part: bytes) -> None:
        faults = self.server.faults
        stop = None
        if faults.cuts or faults.stalls:
            stop = faults.cut_at
        for at in range(0, len(part), CHUNK):
            if faults.pause:
                time.sleep(faults.pause)
            if stop is not None and at + CHUNK > stop:
                self.wfile.write(part[at:stop])
                if faults.stalls:
                    faults.stalls -= 1
                    self.server.closing.wait(30)
                else:
                    faults.cuts -= 1
                self.close_connection = True
                return
            self.wfile.write(part[at : at + CHUNK])


_digests: dict[tuple[str, int, int], str] = {}


def sha256(path: Path) -> str:
    """Of a file, remembered while it does not change."""
    status = path.stat()
    key = str(path), status.st_size, status.st_mtime_ns
    if key not in _digests:
        _digests[key] = hashlib.sha256(path.read_bytes()).hexdigest()
    return _digests[key]


@contextmanager
def serving(repos: dict[str, Path], work: Path) -> Iterator[Hub]:
    """A server while the block runs."""
    server = Hub(repos, work)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield server
    server.closing.set()
    server.shutdown()
    server.server_close()
    thread.join()
