"""Other files of the same project that a hole's file has to do with: imported by it, or edited lately.

Bounded by time and number, inside the project only, and no file whose name or kind says that it holds secrets; what
strings in the others stand for is left out (:func:`coderv2_local.fim.context.outline`). What it answers for a file does
not depend on the cursor, so that the evaluated context can be used again.
"""

import fnmatch
import os
import re
import time
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice, takewhile
from pathlib import Path

from coderv2_local.edits.refusal import EditRefused
from coderv2_local.edits.text_files import read_text
from coderv2_local.fim.context import Snippet, outline
from coderv2_local.fim.ignored import Ignored
from coderv2_local.fim.imports import FAMILIES, imported_files

MAX_SECONDS = 0.04
MAX_IMPORTED = 6
MAX_RECENT = 3
RECENT_SECONDS = 3 * 24 * 3600
MAX_ENTRIES = 1500  # of folders looked at for recently edited files; the time is a limit for slow disks only
MAX_BYTES = 100_000
SKIPPED_FOLDERS = frozenset(
    (
        "node_modules", "bower_components", "vendor", "third_party", "site-packages", "dist", "build", "out", "target",
        "bin", "obj", "coverage", "htmlcov", "venv", "env", "__pycache__", "__pypackages__", "Pods", "DerivedData",
    )
)  # fmt: skip
NEVER = (
    ".*", "*.pem", "*.key", "*.p12", "*.pfx", "*.jks", "*.keystore", "*.kdbx", "*.asc", "*.gpg", "id_rsa*", "id_dsa*",
    "id_ecdsa*", "id_ed25519*", "*secret*", "*credential*", "*password*", "*token*.json", "*.env", "*.env.*",
    "*.tfvars", "*.min.js", "*.lock", "*.map",
)  # fmt: skip
CONFIGURATION = frozenset(
    (
        ".cfg", ".conf", ".config", ".env", ".hcl", ".ini", ".json", ".json5", ".jsonc", ".jsonl", ".plist",
        ".properties", ".tf", ".toml", ".xml", ".yaml", ".yml",
    )
)  # fmt: skip
"""Endings of files where a password is a value as any other."""

SECRET = re.compile("|".join(map(fnmatch.translate, NEVER)))


def project_root(path: Path) -> Path:
    """The folder that a file's project lives in: the nearest one above it with a ``.git``, else the file's own."""
    folder = Path(os.path.realpath(path)).parent
    return next((f for f in (folder, *folder.parents) if (f / ".git").exists()), folder)


def label_of(path: Path) -> str:
    """How a file is called within its project."""
    return _label(path, project_root(path))


def named_snippets(paths: list[Path], own: Path) -> list[Snippet]:
    """The whole text of files that the user named. Raises EditRefused as :func:`read_text`."""
    root = project_root(own)
    return [Snippet(_label(path, root), read_text(path).text) for path in paths]


def related_snippets(own: Path, text: str, *, max_seconds: float = MAX_SECONDS) -> list[Snippet]:
    """Outlines of files that `own` imports, then of others lately edited in the same language.

    Args:
        own: the hole's file; it need not exist.
        text: what is in it now.
        max_seconds: after this long, what has been found is the answer.
    """
    project = _Project(own)
    deadline = time.monotonic() + max_seconds
    found: list[Path] = []
    for path in imported_files(own, text, project.root):
        if path not in found and project.has(path):
            found.append(path)
        if time.monotonic() > deadline or len(found) == MAX_IMPORTED:
            break
    recent: list[Path] = []
    for path in _recent(project, deadline):
        if path not in found and project.has(path):
            recent.append(path)
        if time.monotonic() > deadline or len(recent) == MAX_RECENT:
            break
    out: list[Snippet] = []
    for path in (*found, *sorted(recent)):
        try:
            out.append(Snippet(_label(path, project.root), outline(read_text(path).text)))
        except EditRefused:
            continue  # binary, unreadable, in another encoding: nobody asked for it
        if time.monotonic() > deadline:
            break
    return out


class _Project:
    """What may be shown unasked of the project that a file is in.

    Attributes:
        files: endings of files in the same language; none where the file's own name has none, and of configuration.
    """

    def __init__(self, own: Path) -> None:
        self.own = Path(os.path.realpath(own))
        self.root = project_root(own)
        ending = own.suffix.lower()
        alone = () if ending in CONFIGURATION or not ending else (ending,)
        self.files = next((f.files for f in FAMILIES if ending in f.files), alone)
        self.ignored = Ignored(self.root)

    def has(self, path: Path) -> bool:
        """Is it such a file? `path` has no links left in it."""
        if path == self.own or not path.is_relative_to(self.root):
            return False
        *folders, name = path.relative_to(self.root).parts
        if any(folder in SKIPPED_FOLDERS or folder[0] == "." for folder in folders) or SECRET.match(name.lower()):
            return False
        if self.ignored.file(path.relative_to(self.root).as_posix()):
            return False
        try:
            return 0 < path.stat().st_size <= MAX_BYTES
        except OSError:
            return False


def _recent(project: _Project, deadline: float) -> Iterator[Path]:
    """Files of the same languages that were changed in the last days, latest first; near the root first where the
    project is large.
    """
    if not project.files:
        return iter(())
    oldest = time.time() - RECENT_SECONDS
    folders, left = [str(project.root)], MAX_ENTRIES
    found: list[tuple[float, str]] = []
    while folders and left and time.monotonic() < deadline:
        entries = _listed(folders.pop(0), left, deadline)
        left -= len(entries)
        for entry in takewhile(lambda _: time.monotonic() < deadline, entries):
            with suppress(OSError):  # it is gone, or in a folder that can only be listed
                if entry.is_dir(follow_symlinks=False):
                    within = Path(entry.path).relative_to(project.root).as_posix()
                    if (
                        entry.name not in SKIPPED_FOLDERS
                        and entry.name[0] != "."
                        and not project.ignored.folder(within)
                    ):
                        folders.append(entry.path)
                elif os.path.splitext(entry.name)[1].lower() in project.files and not entry.is_symlink():
                    changed = entry.stat().st_mtime
                    if changed > oldest:
                        found.append((-changed, entry.path))
    return (Path(path) for _, path in sorted(found))


def _listed(folder: str, most: int, deadline: float) -> "list[os.DirEntry[str]]":
    """Up to `most` entries of a folder, by name; none of one that cannot be listed."""
    found: list[os.DirEntry[str]] = []
    with suppress(OSError), os.scandir(folder) as entries:
        found.extend(takewhile(lambda _: time.monotonic() < deadline, islice(entries, most)))
    return sorted(found, key=lambda entry: entry.name)


def _label(path: Path, root: Path) -> str:
    """The path within the project, with forward slashes; of a file elsewhere, its name."""
    real = Path(os.path.realpath(path))
    return real.relative_to(root).as_posix() if real.is_relative_to(root) else path.name
