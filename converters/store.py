"""Where tensors come from: raw rows of stored tensors, read by many threads at once."""

import os
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from converters.gguf_header import TensorInfo
from converters.safetensors_shards import Checkpoint
from converters.source_files import SourceFiles
from quant.block_types import BF16, BlockType, block_type
from quant.errors import InputError
from quant.ggml import Bytes

READ_AHEAD = 8 << 20
"""Bytes asked for beyond each read: pieces are read in the order of the file."""


class Store(Protocol):
    """Stored tensors, seen as rows."""

    def stored_type(self, stored: str) -> BlockType:
        """The type that the tensor is stored in."""

    def location(self, stored: str) -> tuple[str, int]:
        """The file that holds the tensor and the byte it starts at: reading in this order is reading in sequence."""

    def read(self, stored: str, start: int, out: Bytes) -> None:
        """Fill `out` with the tensor's bytes from its byte `start` on."""

    def prepare(self, order: Sequence[str]) -> None:
        """What will be read, one entry a `read`, in this order. Called once, before the first read."""

    def stop(self) -> None:
        """Let no `read` wait any longer for what is still to come: it raises CoderError instead."""

    def close(self) -> None:
        """Close all files."""

    def discard(self) -> None:
        """Remove temporary files, once the output is complete."""

    def room(self) -> int:
        """Bytes that temporary files will take up at most, over what they take up now."""

    def status(self) -> str:
        """What the store is busy with, a few words for the screen, or ""."""


class Local:
    """What stores on the local disk have in common: nothing to wait for or to discard."""

    sources: SourceFiles | None = None

    def location(self, stored: str) -> tuple[str, int]:
        """See `Store`."""
        raise NotImplementedError

    def prepare(self, order: Sequence[str]) -> None:
        """See `Store`. Raises InputError: a file was changed since it was used by an interrupted run."""
        if self.sources:
            self.sources.begin(self.location(stored)[0] for stored in order)

    def stop(self) -> None:
        """See `Store`."""

    def discard(self) -> None:
        """See `Store`."""

    def room(self) -> int:
        """See `Store`."""
        return 0

    def status(self) -> str:
        """See `Store`."""
        return ""


class Files:
    """Files held open for positioned reads; threads may read the same file at once."""

    def __init__(self, folder: Path, sources: SourceFiles | None = None) -> None:
        self.folder, self.sources = folder, sources
        self._open: dict[str, int] = {}
        self._lock = threading.Lock()

    def read(self, name: str, position: int, out: Bytes) -> None:
        """Fill `out` from byte `position` of the file on.

        Raises:
            InputError: the file has become unreadable, shorter or another since its header was checked.
        """
        view = out.data.cast("B")
        done = 0
        try:
            fd = self._descriptor(name)
            while done < len(view):
                got = self._read_some(fd, view[done:], position + done)
                if got == 0:
                    raise InputError(f"{self.folder / name} ends at byte {position + done}: it has shrunk while in use")
                done += got
            if hasattr(os, "posix_fadvise"):  # the next piece comes from disk while this one is quantized
                os.posix_fadvise(fd, position + len(view), READ_AHEAD, os.POSIX_FADV_WILLNEED)
        except OSError as e:
            raise InputError(f"cannot read {self.folder / name}: {e.strerror or e}") from None
        if self.sources:
            self.sources.check(name)

    def _descriptor(self, name: str) -> int:
        with self._lock:
            fd = self._open.get(name)
            if fd is None:
                fd = self._open[name] = os.open(self.folder / name, os.O_RDONLY | getattr(os, "O_BINARY", 0))
            return fd

    def _read_some(self, fd: int, view: memoryview, position: int) -> int:
        if hasattr(os, "preadv"):
            return os.preadv(fd, [view], position)
        with self._lock:  # no positioned read on this platform (Windows)
            os.lseek(fd, position, os.SEEK_SET)
            data = os.read(fd, len(view))
        view[: len(data)] = data
        return len(data)

    def close_one(self, name: str) -> None:
        """Close a file that will not be read again."""
        with self._lock:
            fd = self._open.pop(name, None)
        if fd is not None:
            os.close(fd)

    def close(self) -> None:
        """Close all files."""
        for name in list(self._open):
            self.close_one(name)


class CheckpointStore(Local):
    """The tensors of a local checkpoint folder."""

    def __init__(self, checkpoint: Checkpoint, sources: SourceFiles | None = None) -> None:
        """`sources`: its shards, if they must not change."""
        self.checkpoint, self.sources = checkpoint, sources
        self.files = Files(checkpoint.folder, sources)

    def stored_type(self, stored: str) -> BlockType:
        """See `Store`."""
        return block_type(self.checkpoint.dtype(stored))

    def location(self, stored: str) -> tuple[str, int]:
        """See `Store`."""
        t = self.checkpoint.tensors[stored]
        return t.shard, t.start

    def read(self, stored: str, start: int, out: Bytes) -> None:
        """See `Store`."""
        t = self.checkpoint.tensors[stored]
        self.files.read(t.shard, t.start + start, out)

    def close(self) -> None:
        """See `Store`."""
        self.files.close()
        if self.sources:
            self.sources.close()


class GgufStore(Local):
    """The tensors of a GGUF file, or of all the files of a split one."""

    def __init__(
        self, folder: Path, tensors: Mapping[str, tuple[str, TensorInfo]], sources: SourceFiles | None = None
    ) -> None:
        """`tensors`: name → the file's name in `folder`, and where in it the tensor lies. `sources`: those files."""
        self.tensors, self.sources = tensors, sources
        self.files = Files(folder, sources)

    def stored_type(self, stored: str) -> BlockType:
        """See `Store`."""
        return self.tensors[stored][1].type

    def location(self, stored: str) -> tuple[str, int]:
        """See `Store`."""
        name, info = self.tensors[stored]
        return name, info.offset

    def read(self, stored: str, start: int, out: Bytes) -> None:
        """See `Store`."""
        name, info = self.tensors[stored]
        self.files.read(name, info.offset + start, out)

    def close(self) -> None:
        """See `Store`."""
        self.files.close()
        if self.sources:
            self.sources.close()


class ShapeStore(Local):
    """A checkpoint that is not there: tensors are known to be BF16, and cannot be read."""

    def stored_type(self, stored: str) -> BlockType:
        """See `Store`."""
        return BF16

    def location(self, stored: str) -> tuple[str, int]:
        """See `Store`."""
        return "", 0

    def read(self, stored: str, start: int, out: Bytes) -> None:
        """There is nothing to read."""
        raise InputError(f"tensor {stored} has a shape, but no weights")

    def close(self) -> None:
        """See `Store`."""
