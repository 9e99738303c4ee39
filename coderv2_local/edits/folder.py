"""An open folder: its files are read and replaced relative to a handle, so that nobody can swap a parent for a link.

Where the platform has no such handles (Windows), full paths are used and each step is checked right before it.
"""

import contextlib
import errno
import os
import stat
from pathlib import Path

from coderv2_local.edits.refusal import EditRefused
from coderv2_local.edits.text_files import MAX_FILE_BYTES, too_large

HAS_HANDLES = {os.open, os.stat, os.mkdir, os.unlink, os.rename} <= os.supports_dir_fd and hasattr(os, "O_NOFOLLOW")
NO_FOLLOW = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
FOLDER = os.O_RDONLY | getattr(os, "O_DIRECTORY", 0) | NO_FOLLOW
REGULAR = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | NO_FOLLOW  # without waiting for the writer of a pipe


class Folder:
    """A folder held open; use it with `with`."""

    def __init__(self, path: Path) -> None:
        """Open `path`, a folder that is no link.

        Raises:
            OSError: it is none.
        """
        self.path = path
        self._fd: int | None = os.open(path, FOLDER) if HAS_HANDLES else None
        if self._fd is None and (not path.is_dir() or path.is_symlink()):
            raise NotADirectoryError(errno.ENOTDIR, "not a directory", str(path))

    def __enter__(self) -> "Folder":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def enter(self, name: str, *, make: bool) -> bool:
        """Go into the folder `name`; with `make`, create it first where it is missing.

        Returns:
            False where it is missing.

        Raises:
            OSError: it is a link or not a folder.
        """
        if make:
            with contextlib.suppress(FileExistsError):
                os.mkdir(self._at(name), dir_fd=self._fd)
                self.sync()
        try:
            inner = os.open(name, FOLDER, dir_fd=self._fd) if self._fd is not None else None
            if inner is None and not stat.S_ISDIR(os.lstat(self._at(name)).st_mode):
                raise NotADirectoryError(errno.ENOTDIR, "a link, or not a folder", name)
        except FileNotFoundError:
            return False
        self.close()
        self._fd, self.path = inner, self.path / name
        return True

    def read(self, name: str, shown: str) -> tuple[bytes, os.stat_result] | None:
        """The bytes of a regular file and what the system knows of it; None where it is missing.

        Args:
            shown: what errors call it.

        Raises:
            EditRefused: a link, a folder, a device, or larger than `MAX_FILE_BYTES`.
            OSError: it cannot be read.
        """
        try:
            before = os.stat(self._at(name), dir_fd=self._fd, follow_symlinks=False)
            if not stat.S_ISREG(before.st_mode):  # before opening: to open a device may do something
                raise EditRefused(f"{shown} is {_kind(before.st_mode)}, not a file", path=shown)
            fd = os.open(self._at(name), REGULAR, dir_fd=self._fd)
        except FileNotFoundError:
            return None
        with open(fd, "rb") as file:
            info = os.fstat(fd)
            if not stat.S_ISREG(info.st_mode):
                raise EditRefused(f"{shown} is {_kind(info.st_mode)}, not a file", path=shown)
            data = file.read(MAX_FILE_BYTES + 1)
        if len(data) > MAX_FILE_BYTES:
            raise too_large(shown)
        return data, info

    def write(self, name: str, data: bytes, *, like: os.stat_result | None = None, mode: int | None = None) -> None:
        """Write a new file and wait until the disk has it. Owner and mode are those of `like`, or the mode is `mode`.

        Raises:
            OSError: it exists already, or cannot be written.
        """
        wanted = stat.S_IMODE(like.st_mode) if like is not None else mode
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | NO_FOLLOW
        fd = os.open(self._at(name), flags, 0o666 if wanted is None else 0o600, dir_fd=self._fd)
        with open(fd, "wb") as file:
            file.write(data)
            file.flush()
            if like is not None and hasattr(os, "fchown"):
                with contextlib.suppress(OSError):  # only its owner and root may
                    os.fchown(fd, like.st_uid, like.st_gid)
            if wanted is not None and hasattr(os, "fchmod"):
                os.fchmod(fd, wanted)
            os.fsync(fd)

    def replace(self, source: str, target: str) -> None:
        """Give the file `source` the name `target`, in one step."""
        os.replace(self._at(source), self._at(target), src_dir_fd=self._fd, dst_dir_fd=self._fd)
        self.sync()

    def create(self, source: str, target: str) -> None:
        """Like `replace`, for a target that must not exist yet.

        Raises:
            FileExistsError: it does.
        """
        try:
            os.link(self._at(source), self._at(target), src_dir_fd=self._fd, dst_dir_fd=self._fd, follow_symlinks=False)
        except FileExistsError:
            raise
        except (OSError, NotImplementedError):  # a file system without hard links
            self.replace(source, target)
        else:
            self.remove(source)

    def remove(self, name: str) -> None:
        """Delete a file, if it is there."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._at(name), dir_fd=self._fd)
            self.sync()

    def remove_folder(self, name: str) -> None:
        """Delete a folder, if it is there and empty."""
        with contextlib.suppress(OSError):
            os.rmdir(self._at(name), dir_fd=self._fd)
            self.sync()

    def sync(self) -> None:
        """Wait until the disk knows the folder's names."""
        if self._fd is not None:
            os.fsync(self._fd)

    def _at(self, name: str) -> str:
        return name if self._fd is not None else str(self.path / name)


def _kind(mode: int) -> str:
    kinds = {
        stat.S_IFDIR: "a folder",
        stat.S_IFLNK: "a link",
        stat.S_IFIFO: "a pipe",
        stat.S_IFSOCK: "a socket",
        stat.S_IFCHR: "a device",
        stat.S_IFBLK: "a device",
    }
    return kinds.get(stat.S_IFMT(mode), "something else")
