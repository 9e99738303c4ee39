"""A checkpoint on the Hugging Face Hub: headers are read over the network, shards are fetched, used and dropped.

All traffic goes through huggingface-hub, which honours HF_ENDPOINT, tokens and proxies. Broken downloads are gone on
with, and what came is checked (`hub_file`). At most two shards are on disk at a time: the one in use and the one that
is coming.
"""

import contextlib
import hashlib
import importlib
import re
import shutil
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from converters.hub_begun import Begun
from converters.hub_errors import HubError, ask
from converters.hub_file import INCOMPLETE, RemoteFile, fetch
from converters.hub_header import remote_header
from converters.json_file import CONFIG_LIMIT
from converters.output_files import bytes_allocated
from converters.safetensors_shards import (
    INDEX_LIMIT,
    INDEX_NAME,
    SINGLE_NAME,
    Checkpoint,
    CheckpointError,
    join_shards,
    parse_shard_header,
    read_index,
)
from converters.store import CheckpointStore
from converters.tokenizer import TOKENIZER_LIMIT
from quant.block_types import BlockType
from quant.errors import CoderError, InputError
from quant.ggml import Bytes

SHARDS_ON_DISK = 2
_REPO_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")
_NEEDED_FILES = ("config.json", "tokenizer.json")
_SMALL_FILES = {
    "config.json": CONFIG_LIMIT,
    "tokenizer.json": TOKENIZER_LIMIT,
    "tokenizer_config.json": CONFIG_LIMIT,
    "chat_template.jinja": CONFIG_LIMIT,
    INDEX_NAME: INDEX_LIMIT,
}
"""And how many bytes each may have: what is larger would be refused when it is read."""


def is_repo_id(source: str) -> bool:
    """Could it be an id such as "deepseek-ai/DeepSeek-Coder-V2-Lite-Base"?"""
    return _REPO_ID.fullmatch(source) is not None and ".." not in source


@dataclass(frozen=True)
class HubModel:
    """A model on the Hub at one commit: its small files are here, its shards are known by their headers."""

    repo: str
    revision: str
    """The commit's hash."""
    folder: Path
    """Where small files and, in their turn, shards lie."""
    checkpoint: Checkpoint
    headers: dict[str, bytes]
    """Shard → its header, with the eight bytes of its length."""
    files: Mapping[str, RemoteFile] = field(default_factory=dict)
    """What the Hub says of the shards: sizes and checksums."""

    def shard(self, name: str) -> RemoteFile:
        """A shard, as it is fetched."""
        return self.files.get(name) or RemoteFile(self.repo, name, self.revision)

    @property
    def shard_bytes(self) -> int:
        """Bytes of the largest shard."""
        return max((t.end for t in self.checkpoint.tensors.values()), default=0)

    @property
    def bytes_at_once(self) -> int:
        """Bytes that shards take up on the disk at most while they are converted."""
        return min(SHARDS_ON_DISK, len(self.headers)) * self.shard_bytes

    @property
    def total_bytes(self) -> int:
        """Bytes of all shards."""
        ends: dict[str, int] = {}
        for t in self.checkpoint.tensors.values():
            ends[t.shard] = max(t.end, ends.get(t.shard, 0))
        return sum(ends.values())

    @property
    def fingerprint(self) -> str:
        """Identifies the weights: the commit, and every shard's header."""
        h = hashlib.sha256(f"{self.repo}@{self.revision}".encode())
        for shard in sorted(self.headers):
            h.update(shard.encode() + self.headers[shard])
        return h.hexdigest()


def open_model(repo: str, revision: str | None, folder: Path) -> HubModel:
    """Look a model up, fetch its small files into `folder`, and read the headers of its shards.

    Raises:
        HubError: no such model or revision, no access to it, no connection, or a file that is too large.
        InputError: its files are damaged, see `safetensors_shards`; or `folder` cannot be made.
    """
    from huggingface_hub import HfApi  # imported late: it costs start-up time that local conversions need not pay

    info = ask(f"the model {repo}", lambda: HfApi().model_info(repo, revision=revision, files_metadata=True))
    commit = str(info.sha)
    files = remote_files(repo, info)
    names = set(files)
    for name, limit in _SMALL_FILES.items():
        if name not in names and name in _NEEDED_FILES:
            raise HubError(f"{repo} has no {name}")
        if name in names and (files[name].size or 0) > limit:
            has = f"{files[name].size} bytes, more than the {limit} bytes"
            raise HubError(f"{name} of {repo} has {has} that such a file may have")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise InputError(f"cannot make {folder}: {e.strerror or e}", hint="choose another place or name") from None
    for name in _SMALL_FILES:
        if name in names:
            _download(repo, name, commit, folder)
    if INDEX_NAME in names:
        weight_map = read_index(folder / INDEX_NAME)
        shards = sorted(set(weight_map.values()))
    elif SINGLE_NAME in names:
        weight_map, shards = None, [SINGLE_NAME]
    else:
        hint = "it has pickle files (.bin), which are never loaded" if any(n.endswith(".bin") for n in names) else ""
        raise HubError(f"{repo} has no safetensors weights", hint=hint)
    headers, found = {}, {}
    for shard in shards:
        if shard not in names:
            raise CheckpointError(f"{INDEX_NAME} names the shard {shard}, which is not in {repo}")
        headers[shard], size = remote_header(repo, shard, commit)
        found[shard] = parse_shard_header(shard, headers[shard][8:], size)
    return HubModel(repo, commit, folder, Checkpoint(folder, join_shards(found, weight_map)), headers, files)


def remote_files(repo: str, info: Any) -> dict[str, RemoteFile]:
    """The files of a repository, by their names, from huggingface-hub's ModelInfo."""
    return {
        s.rfilename: RemoteFile(repo, s.rfilename, str(info.sha), s.size, str(s.lfs.sha256) if s.lfs else "")
        for s in info.siblings or []
    }


def drop_unused(folder: Path) -> None:
    """Remove a download folder, unless a shard is there or on its way: another run may be using it."""
    with contextlib.suppress(OSError):
        if not any(p.name.endswith((".safetensors", INCOMPLETE)) for p in folder.iterdir()):
            shutil.rmtree(folder, ignore_errors=True)


class HubStore:
    """Shards that come when they are needed and go when they have been used."""

    def __init__(self, model: HubModel, *, new: bool = False, begun: Begun | None = None) -> None:
        """Nothing is fetched before `prepare`.

        Args:
            model: its folder is where shards go.
            new: the folder is of this run, and goes with it if nothing is fetched into it.
            begun: noted there once something is.
        """
        self.model = model
        self._new, self._begun = new, begun
        self._local = CheckpointStore(model.checkpoint)
        self._lock = threading.Lock()
        self._left: Counter[str] = Counter()
        self._ready: dict[str, threading.Event] = {}
        self._slots = threading.Semaphore(SHARDS_ON_DISK)
        self._error: BaseException | None = None
        self._closed = threading.Event()
        self._fetching = ""

    def prepare(self, order: Sequence[str]) -> None:
        """See `Store`. Starts fetching shards in the order in which they will be read."""
        if self._begun:
            self._begun.note(self.model.folder)
        shards = [self.model.checkpoint.tensors[stored].shard for stored in order]
        self._left = Counter(shards)
        self._ready = {shard: threading.Event() for shard in dict.fromkeys(shards)}
        for shard in set(self.model.headers) - set(self._ready):
            (self.model.folder / shard).unlink(missing_ok=True)  # used up by an earlier run
        threading.Thread(target=self._fetch_all, name="download", daemon=True).start()

    def stored_type(self, stored: str) -> BlockType:
        """See `Store`."""
        return self._local.stored_type(stored)

    def location(self, stored: str) -> tuple[str, int]:
        """See `Store`."""
        return self._local.location(stored)

    def read(self, stored: str, start: int, out: Bytes) -> None:
        """See `Store`. Waits for the shard if it is still on its way."""
        shard = self.model.checkpoint.tensors[stored].shard
        while not self._ready[shard].wait(0.5):
            if self._closed.is_set():
                raise CoderError("the conversion was stopped")
        if self._error is not None:
            raise self._error
        self._local.read(stored, start, out)
        with self._lock:
            self._left[shard] -= 1
            used_up = self._left[shard] == 0
        if used_up:
            self._local.files.close_one(shard)
            (self.model.folder / shard).unlink(missing_ok=True)
            self._slots.release()

    def stop(self) -> None:
        """See `Store`."""
        self._closed.set()
        self._slots.release()

    def close(self) -> None:
        """See `Store`."""
        self.stop()
        self._local.close()
        if self._new and not self._ready:
            drop_unused(self.model.folder)

    def room(self) -> int:
        """See `Store`: for the shards."""
        here = sum(bytes_allocated(p) for p in self.model.folder.glob("*.safetensors*"))
        return max(0, self.model.bytes_at_once - here)

    def status(self) -> str:
        """See `Store`: the shard that is on its way, and how much of it is here."""
        shard = self._fetching
        if not shard:
            return ""
        size = max(t.end for t in self.model.checkpoint.tensors.values() if t.shard == shard)
        here = 0
        with contextlib.suppress(OSError):  # it may be complete, and renamed, just now
            here = sum(p.stat().st_size for p in self.model.folder.rglob(f"*{INCOMPLETE}"))
        return f"fetching {shard.removesuffix('.safetensors')}: {here / 1e9:.2f} of {size / 1e9:.2f} GB"

    def discard(self) -> None:
        """Remove what was fetched, once the output is complete."""
        shutil.rmtree(self.model.folder, ignore_errors=True)

    def _fetch_all(self) -> None:
        try:
            for shard, ready in self._ready.items():
                self._slots.acquire()
                if self._closed.is_set():
                    return
                self._fetching = shard
                path = fetch(self.model.shard(shard), self.model.folder)
                self._fetching = ""
                expected = self.model.headers[shard]
                with open(path, "rb") as f:
                    if f.read(len(expected)) != expected:
                        path.unlink()
                        raise HubError(f"shard {shard} came with another header than was announced", hint="try again")
                ready.set()
        except BaseException as e:  # handed to whoever waits for a shard
            self._error = e
            for ready in self._ready.values():
                ready.set()


def _download(repo: str, name: str, commit: str, folder: Path) -> Path:
    from huggingface_hub import hf_hub_download

    # its own progress bars would write into ours
    utils: Any = importlib.import_module("huggingface_hub.utils")
    utils.disable_progress_bars()
    path = ask(f"{name} of {repo}", lambda: hf_hub_download(repo, name, revision=commit, local_dir=folder))
    return Path(path)
