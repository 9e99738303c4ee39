"""Other files of the same project that a hole's file has to do with: imported by it, or edited lately.

Bounded by time and number, inside the project only, and never a file that could hold a secret. What it answers for a
file does not depend on the cursor, so that the evaluated context can be used again.
"""

import fnmatch
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from coderv2_local.edits.refusal import EditRefused
from coderv2_local.edits.text_files import read_text
from coderv2_local.fim.context import Snippet, outline
from coderv2_local.languages import language_of_file

MAX_SECONDS = 0.04
MAX_IMPORTED = 6
MAX_RECENT = 3
RECENT_SECONDS = 3 * 24 * 3600
MAX_ENTRIES = 4000  # of folders looked at for recently edited files
MAX_BYTES = 300_000
SKIPPED_FOLDERS = frozenset(
    (
        "node_modules", "bower_components", "vendor", "third_party", "site-packages", "dist", "build", "out", "target",
        "bin", "obj", "coverage", "htmlcov", "venv", "env", "__pycache__", "__pypackages__", "Pods", "DerivedData",
    )
)  # fmt: skip
SECRETS = (
    ".*", "*.pem", "*.key", "*.p12", "*.pfx", "*.jks", "*.keystore", "*.kdbx", "*.asc", "*.gpg", "id_rsa*", "id_dsa*",
    "id_ecdsa*", "id_ed25519*", "*secret*", "*credential*", "*password*", "*token*.json", "*.env", "*.env.*",
    "*.tfvars", "*.min.js", "*.lock", "*.map",
)  # fmt: skip
IMPORTS = (
    re.compile(r"^\s*from\s+([.\w]+)\s+import\s+([\w, (]*)", re.M),  # Python
    re.compile(r"^\s*import\s+([\w.]+(?:\s*,\s*[\w.]+)*)", re.M),  # Python, Java, Kotlin, Scala, Haskell, Swift
    re.compile(r"""(?:\bfrom|\bimport|\brequire\s*\(|\bimport\s*\()\s*['"]([^'"\n]+)['"]"""),  # JavaScript, TypeScript
    re.compile(r'^\s*#\s*include\s*"([^"\n]+)"', re.M),  # C, C++
    re.compile(r"^\s*(?:pub\s+)?mod\s+(\w+)\s*;", re.M),  # Rust
    re.compile(r"""^\s*(?:require_relative|require|load|source|\.)\s+['"]?([\w./-]+)""", re.M),  # Ruby, shell
)
ENDINGS = (".py", "/__init__.py", ".ts", ".tsx", ".js", ".jsx", ".mjs", "/index.ts", "/index.js", ".rs", "/mod.rs",
           ".rb", ".lua", ".sh", ".java", ".kt", ".scala", ".hs", ".swift", ".pyi", "")  # fmt: skip


def project_root(path: Path) -> Path:
    """The folder that a file's project lives in: the nearest one above it with a ``.git``, else the file's own."""
    folder = Path(os.path.realpath(path)).parent
    return next((f for f in (folder, *folder.parents) if (f / ".git").exists()), folder)


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
    deadline = time.monotonic() + max_seconds
    root = project_root(own)
    ignored = _Ignored(root)
    found: list[Path] = []
    for path in _imported(own, text, root):
        if time.monotonic() > deadline or len(found) == MAX_IMPORTED:
            break
        if path not in found and _is_fit(path, own, root, ignored):
            found.append(path)
    imported = len(found)
    recent = [path for path in _recent(own, root, ignored, deadline) if path not in found]
    found += sorted(recent[:MAX_RECENT])
    out = []
    for n, path in enumerate(found):
        if time.monotonic() > deadline and n >= min(imported, 1):
            break
        try:
            out.append(Snippet(_label(path, root), outline(read_text(path).text)))
        except EditRefused:
            continue  # binary, unreadable, in another encoding: nobody asked for it
    return out


def _imported(own: Path, text: str, root: Path) -> Iterator[Path]:
    """Existing files that the import lines of `text` may mean, in their order."""
    folder = Path(os.path.realpath(own)).parent
    names: list[str] = []
    for pattern in IMPORTS:
        for match in pattern.finditer(text[:60_000]):
            groups = [g for g in match.groups() if g]
            module = groups[0]
            if pattern is IMPORTS[0] and len(groups) == 2:
                names += [f"{module.rstrip('.')}.{n.strip(' (')}" if module.strip(".") else module + n.strip(" (")
                          for n in groups[1].split(",")]  # fmt: skip
            names += [n.strip() for n in module.split(",")] if pattern is IMPORTS[1] else [module]
    for name in dict.fromkeys(names[:120]):
        yield from _files_for(name, folder, root)


def _files_for(name: str, folder: Path, root: Path) -> Iterator[Path]:
    """Where a module called `name` may be: beside the file, above it by leading dots, at the root, or under src."""
    bases = [folder, root, root / "src", root / "lib", root / "include"]
    if "/" not in name and PurePosixPath(name).suffix.lstrip(".") not in ("h", "hpp", "hh", "js", "ts", "c", "cc"):
        stripped = name.lstrip(".")
        ups = len(name) - len(stripped)
        if ups:
            up = folder
            for _ in range(ups - 1):
                up = up.parent
            bases = [up]
        name = stripped.replace(".", "/")
    if not name or name.startswith(("/", "~")):
        return
    for base in dict.fromkeys(bases):
        for ending in ENDINGS:
            path = base / (name + ending)
            if path.is_file():
                yield Path(os.path.realpath(path))
                return


def _recent(own: Path, root: Path, ignored: "_Ignored", deadline: float) -> list[Path]:
    """Files of the same language changed in the last days, latest first."""
    language = language_of_file(own)
    oldest = time.time() - RECENT_SECONDS
    folders, looked = [root], 0
    found: list[tuple[float, Path]] = []
    while folders and looked < MAX_ENTRIES and time.monotonic() < deadline:
        try:
            entries = list(os.scandir(folders.pop(0)))
        except OSError:
            continue
        looked += len(entries)
        for entry in entries:
            if entry.is_symlink():
                continue
            path = Path(entry.path)
            if entry.is_dir():
                if entry.name not in SKIPPED_FOLDERS and entry.name[0] != "." and not ignored.has(path):
                    folders.append(path)
            elif language_of_file(entry.name) == language and _is_fit(path, own, root, ignored):
                changed = entry.stat().st_mtime
                if changed > oldest:
                    found.append((changed, path))
    return [path for _, path in sorted(found, key=lambda f: (-f[0], f[1]))]


def _is_fit(path: Path, own: Path, root: Path, ignored: "_Ignored") -> bool:
    """May this file be shown unasked? `path` has no links left in it."""
    if path == Path(os.path.realpath(own)) or not path.is_relative_to(root) or ignored.has(path):
        return False
    parts = path.relative_to(root).parts
    if any(part in SKIPPED_FOLDERS or part[0] == "." for part in parts[:-1]):
        return False
    if any(fnmatch.fnmatch(parts[-1].lower(), pattern) for pattern in SECRETS) or language_of_file(path) is None:
        return False
    try:
        return 0 < path.stat().st_size <= MAX_BYTES
    except OSError:
        return False


class _Ignored:
    """The plain patterns of a project's ``.gitignore``: names and globs. What it cannot read it takes for a name."""

    def __init__(self, root: Path) -> None:
        self.root = root
        try:
            lines = (root / ".gitignore").read_text("utf-8", "replace")[:20_000].splitlines()
        except OSError:
            lines = []
        self.patterns = [line.strip().strip("/") for line in lines if line.strip() and line[0] not in "#!"]

    def has(self, path: Path) -> bool:
        """Does a pattern match the path or a folder above it?"""
        parts = path.relative_to(self.root).parts if path.is_relative_to(self.root) else ()
        return any(
            fnmatch.fnmatch(part, pattern) or fnmatch.fnmatch("/".join(parts[: n + 1]), pattern)
            for pattern in self.patterns
            for n, part in enumerate(parts)
        )


def label_of(path: Path) -> str:
    """How a file is called within its project."""
    return _label(path, project_root(path))


def _label(path: Path, root: Path) -> str:
    """The path within the project, with forward slashes; of a file elsewhere, its name."""
    real = Path(os.path.realpath(path))
    return real.relative_to(root).as_posix() if real.is_relative_to(root) else path.name
