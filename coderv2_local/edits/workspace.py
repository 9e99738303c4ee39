"""The folder that edits stay in. A path that a model wrote is data: it is checked first, and walked without links."""

import contextlib
import os
import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path

from coderv2_local.edits.folder import Folder
from coderv2_local.edits.refusal import EditRefused

INSIDE = "only files inside the workspace are edited; name it relative to {root}"
DRIVE = re.compile(r"[A-Za-z]:")
UNPRINTABLE = {"Cc", "Cf", "Cs", "Zl", "Zp"}  # Unicode categories: controls, invisible marks, line separators
GIT_FOLDERS = {".git", "git~1"}  # the second is its short name on Windows
WINDOWS_DEVICES = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|com[0-9¹²³]|lpt[0-9¹²³])(\..*)?$", re.IGNORECASE)


class Workspace:
    """A root folder, and what may be edited below it.

    Attributes:
        root: absolute, links followed.
    """

    def __init__(self, root: Path) -> None:
        """
        Raises:
            EditRefused: `root` is no folder.
        """
        self.root = Path(os.path.realpath(root))
        if not self.root.is_dir():
            raise EditRefused(f"{root} is not a folder", path=str(root))

    @classmethod
    def around(cls, path: Path) -> tuple["Workspace", str]:
        """The folder of a file that the user named, and the file's name in it: naming it was the consent.

        A link is followed: the file that it leads to is the one that is edited.
        """
        real = Path(os.path.realpath(path))
        return cls(real.parent), real.name

    def resolve(self, name: str) -> str:
        """The path, relative to the root with forward slashes and without links, of the file that `name` means.

        A backslash separates folders, too. The file need not exist.

        Raises:
            EditRefused: it is outside the root, or inside `.git`.
        """
        parts = self._parts(name)
        try:
            real = Path(os.path.realpath(self.root.joinpath(*parts)))
        except (OSError, ValueError) as error:
            raise EditRefused(f"{name}: {error}", path=name) from None
        if not real.is_relative_to(self.root):
            raise EditRefused(
                f"{name} leads out of the workspace through a link, to {real}", path=name, hint=self._inside()
            )
        inner = real.relative_to(self.root).parts
        if not inner:
            raise EditRefused(f"{name} is the workspace itself, not a file", path=name, hint=self._inside())
        _check_git(inner, name)
        return "/".join(inner)

    def read(self, path: str) -> tuple[bytes, os.stat_result] | None:
        """The bytes of a resolved path and what the system knows of the file; None where it is missing.

        Raises:
            EditRefused: not a regular file, unreadable, too large, or a link has come into its way.
        """
        with self.folder_of(path, make=False) as (folder, name):
            try:
                return folder.read(name, path) if folder else None
            except OSError as error:
                raise _failed(path, error) from None

    @contextlib.contextmanager
    def folder_of(self, path: str, *, make: bool) -> Iterator[tuple[Folder | None, str]]:
        """Open the folder of a resolved path, following no link; with `make`, create it where it is missing.

        Yields:
            The folder (None where it is missing) and the file's name in it.

        Raises:
            EditRefused: a link or a file is in the way.
        """
        *parents, name = path.split("/")
        if not {"", ".", ".."}.isdisjoint([*parents, name]):
            raise EditRefused(f"{path!r} is not a path in the workspace", path=path)
        try:
            folder = Folder(self.root)
        except OSError as error:
            raise _failed(str(self.root), error) from None
        with folder:
            inside = True
            for part in parents:
                try:
                    inside = folder.enter(part, make=make)
                except OSError as error:
                    raise EditRefused(
                        f"{path}: {part} is a link or not a folder, or cannot be entered"
                        f" ({(error.strerror or str(error)).lower()})",
                        path=path,
                        hint="nothing was written; look at the folder",
                    ) from None
                if not inside:
                    break
            yield (folder if inside else None), name

    def missing_folders(self, path: str) -> list[str]:
        """The folders that would have to be made for a resolved path, outermost first."""
        parents = path.split("/")[:-1]
        paths = ["/".join(parents[: i + 1]) for i in range(len(parents))]
        return [p for p in paths if not os.path.lexists(self.root / p)]

    def _parts(self, name: str) -> list[str]:
        """The parts of a path, checked as a string alone."""
        if not name.strip() or any(unicodedata.category(c) in UNPRINTABLE for c in name):
            raise EditRefused(f"{name!r} is no file name", path=name, hint=self._inside())
        slashed = name.replace("\\", "/")
        if slashed.startswith("/") or DRIVE.match(slashed):
            raise EditRefused(f"{name} is an absolute path", path=name, hint=self._inside())
        if slashed.startswith("~"):
            raise EditRefused(f"{name} is in a home folder", path=name, hint=self._inside())
        parts = [part for part in slashed.split("/") if part not in ("", ".")]
        if ".." in parts:
            raise EditRefused(f"{name} goes up with '..'", path=name, hint=self._inside())
        if not parts or slashed.endswith("/"):
            raise EditRefused(f"{name} is a folder, not a file", path=name, hint=self._inside())
        _check_git(parts, name)
        if os.name == "nt" and any(trouble_on_windows(part) for part in parts):
            raise EditRefused(f"{name} is a device or no file name on Windows", path=name)
        return parts

    def _inside(self) -> str:
        return INSIDE.format(root=self.root)


def trouble_on_windows(part: str) -> bool:
    """Would Windows take this part of a path for something else: a device, a stream, another name?"""
    return bool(WINDOWS_DEVICES.match(part)) or part[-1] in ". " or any(c in '<>:"|?*' for c in part)


def _check_git(parts: "list[str] | tuple[str, ...]", name: str) -> None:
    """Refuse `.git` in every spelling that some file system takes for it."""
    for part in parts:
        visible = "".join(c for c in part if unicodedata.category(c) != "Cf")  # ignored by HFS+
        if visible.split(":")[0].rstrip(". ").casefold() in GIT_FOLDERS:
            raise EditRefused(
                f"{name} is inside .git", path=name, hint="a change there could run programs; make it yourself"
            )


def _failed(path: str, error: OSError) -> EditRefused:
    return EditRefused(f"{path}: {(error.strerror or str(error)).lower()}", path=path)
