"""One file from the Hub: fetched, gone on with after a break, and checked by its size and its SHA-256.

huggingface-hub's own download throws away what it has when it is interrupted; files here have gigabytes. Its streaming
call, which this uses, tries again by itself when a connection breaks, and waits when the Hub asks to.
"""

import errno
import glob
import hashlib
import importlib
import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from converters.hub_errors import HubError, explained
from quant.errors import CoderError

CHUNK = 1 << 22
STEP = 1 << 18
"""Bytes after which what has come is written down. huggingface-hub's own step is 10 MB: a slow line would lose minutes
with every break, and the progress would stand still."""
INCOMPLETE = ".incomplete"
Report = Callable[[int], None]
"""Told how many bytes of the file are here."""


@dataclass(frozen=True)
class RemoteFile:
    """A file at one commit.

    Attributes:
        name: its path in the repository.
        size: bytes, None where the Hub does not say.
        sha256: of its content, "" where the Hub does not say (it does for every file stored with LFS or Xet).
    """

    repo: str
    name: str
    revision: str
    size: int | None = None
    sha256: str = ""

    @property
    def local_name(self) -> str:
        """Its name without folders."""
        return PurePosixPath(self.name).name


def fetch(file: RemoteFile, folder: Path, report: Report = lambda here: None) -> Path:
    """Download `file` into `folder`, going on where an earlier call stopped.

    The file has its name only once it is complete and checked.

    Raises:
        HubError: it cannot be had, or what came is not it. What is here stays, if it can be gone on with.
        CoderError: it cannot be written.
    """
    final, partial = folder / file.local_name, partial_path(file, folder)
    for old in folder.glob(f"{glob.escape(file.local_name)}.*{INCOMPLETE}"):
        if old != partial:
            old.unlink(missing_ok=True)  # of another commit
    if final.exists() and is_right(file, final):
        report(final.stat().st_size)
        return final
    _fill(file, partial, report)
    size = partial.stat().st_size
    if file.size is not None and size != file.size:
        partial.unlink()
        raise HubError(f"{file.name} of {file.repo} came with {size} bytes, not {file.size}", hint="run it again")
    if file.sha256 and (found := sha256_of(partial)) != file.sha256:
        partial.unlink()
        raise HubError(
            f"{file.name} of {file.repo} is damaged: its SHA-256 is {found[:16]}…, not {file.sha256[:16]}…",
            hint="run it again: this file is fetched anew; if it stays so, a proxy on the way changes it",
        )
    partial.replace(final)
    return final


def partial_path(file: RemoteFile, folder: Path) -> Path:
    """Where an incomplete download lies. Its name tells one content from another."""
    return folder / f"{file.local_name}.{(file.sha256 or file.revision)[:12]}{INCOMPLETE}"


def bytes_here(file: RemoteFile, folder: Path) -> int:
    """How much of it is here already."""
    for path in (folder / file.local_name, partial_path(file, folder)):
        if path.exists():
            return path.stat().st_size
    return 0


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    h = hashlib.sha256()
    with open(path, "rb") as f:
        while chunk := f.read(CHUNK):
            h.update(chunk)
    return h.hexdigest()


class _Output(io.FileIO):
    """A file that tells how long it is, and keeps what the disk says when it cannot be written."""

    def __init__(self, path: Path, report: Report) -> None:
        path.touch()
        super().__init__(path, "r+")
        self.report = report
        self.failure: OSError | None = None

    def write(self, data: Any) -> int:
        rest = memoryview(data).cast("B")
        try:
            while rest:
                rest = rest[super().write(rest) or 0 :]
        except OSError as error:
            self.failure = error
            raise
        self.report(self.tell())
        return len(data)


def _fill(file: RemoteFile, partial: Path, report: Report) -> None:
    """Make `partial` complete."""
    from huggingface_hub import hf_hub_url

    utils: Any = importlib.import_module("huggingface_hub.utils")
    download: Any = importlib.import_module("huggingface_hub.file_download")
    utils.disable_progress_bars()  # they would write into ours
    importlib.import_module("huggingface_hub.constants").DOWNLOAD_CHUNK_SIZE = STEP  # type: ignore[attr-defined]
    url = hf_hub_url(file.repo, file.name, revision=file.revision)
    what = f"{file.name} of {file.repo}"
    try:
        out = _Output(partial, report)
    except OSError as error:
        raise _unwritable(partial, error) from None
    with out:
        start = out.seek(0, io.SEEK_END)
        if file.size is not None and start > file.size:
            start = out.truncate(0)
            out.seek(0)
        report(start)
        try:
            headers = {**utils.build_hf_headers(), "Accept-Encoding": "identity"}
            download.http_get(url, out, resume_size=start, headers=headers, expected_size=file.size)
        except Exception as error:
            if out.failure:
                raise _unwritable(partial, out.failure) from None
            said = explained(what, error)
            response = getattr(error, "response", None)
            wrong_size = response is None and isinstance(error, OSError) and "onsistency" in str(error)
            if wrong_size or getattr(response, "status_code", 0) == 416:
                said = HubError(
                    f"{what} came with {out.seek(0, io.SEEK_END)} bytes, not {file.size}", hint="run it again"
                )
                out.truncate(0)  # what is here is no beginning of it
            raise said from error


def is_right(file: RemoteFile, path: Path) -> bool:
    """Does `path` hold the file, by what the Hub says of its size and its SHA-256?"""
    if file.size is not None and path.stat().st_size != file.size:
        return False
    return not file.sha256 or sha256_of(path) == file.sha256


def _unwritable(path: Path, error: OSError) -> CoderError:
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    what = "the disk is full" if full else f"cannot write {path}: {error.strerror or error}"
    return CoderError(what, hint="run the same command again once it can be written: it goes on from here")
