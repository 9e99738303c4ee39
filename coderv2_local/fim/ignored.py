"""What the ``.gitignore`` files of a project name: those in its folders, too, as git reads them."""

import posixpath
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathspec import GitIgnoreSpec

MAX_CHARACTERS = 200_000  # of one such file


class Ignored:
    """Asked for paths within a project. Each ``.gitignore`` is read once, when it is first needed.

    Args:
        root: of the project; its ``.gitignore`` is the outermost one that counts.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._specs: dict[str, GitIgnoreSpec | None] = {}
        self._folders: dict[str, bool] = {"": False}
        self._spec("")  # where there is one, the library that reads it is loaded now

    def file(self, path: str) -> bool:
        """Is a file ignored? `path` is relative to the root, with forward slashes."""
        return self.folder(posixpath.dirname(path)) or self._named(path, path)

    def folder(self, path: str) -> bool:
        """Is a folder ignored, or one that it is in? What is in such a folder cannot be taken out again."""
        if path not in self._folders:
            self._folders[path] = self.folder(posixpath.dirname(path)) or self._named(path, path + "/")
        return self._folders[path]

    def _named(self, path: str, spelling: str) -> bool:
        """What the nearest file that says something of it says."""
        folder = path
        while folder:
            folder = posixpath.dirname(folder)
            if spec := self._spec(folder):
                said = spec.check_file(spelling[len(folder) + 1 if folder else 0 :]).include
                if said is not None:
                    return said
        return False

    def _spec(self, folder: str) -> "GitIgnoreSpec | None":
        if folder not in self._specs:
            text = _text_of(self._root / folder / ".gitignore")
            self._specs[folder] = _spec_of(text) if text else None
        return self._specs[folder]


def _text_of(path: Path) -> str:
    """The beginning of a plain file; "" of anything else. git follows no link there, and a device may have no end."""
    try:
        if path.is_symlink() or not path.is_file():
            return ""
        with path.open(encoding="utf-8", errors="replace") as file:
            return file.read(MAX_CHARACTERS)
    except OSError:
        return ""


def _spec_of(text: str) -> "GitIgnoreSpec":
    """The patterns of one file. A line that is no pattern counts for nothing, as with git."""
    from pathspec import GitIgnoreSpec

    try:
        return GitIgnoreSpec.from_lines(text.splitlines())
    except ValueError:
        good = []
        for line in text.splitlines():
            try:
                GitIgnoreSpec.from_lines([line])
            except ValueError:
                continue
            good.append(line)
        return GitIgnoreSpec.from_lines(good)
