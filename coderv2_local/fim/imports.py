"""The import lines of a source file → files that they may mean, for the languages whose imports are paths."""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

MAX_CHARACTERS = 30_000  # imports stand at the beginning
MAX_NAMES = 60
BASES = ("", "src", "lib", "include")


@dataclass(frozen=True)
class Family:
    """Languages that import alike.

    Attributes:
        files: endings of their files.
        pattern: of an import line; its groups are a module and, where there are any, names out of it.
        dotted: are modules written ``a.b`` and not ``a/b``?
        tries: what to put after a module's path to make a file's.
    """

    files: tuple[str, ...]
    pattern: re.Pattern[str]
    dotted: bool
    tries: tuple[str, ...]


FAMILIES = (
    Family(
        (".py", ".pyi", ".pyx"),
        re.compile(r"^[ \t]*(?:from[ \t]+([.\w]+)[ \t]+import[ \t]*\(?([\w, \t]*)|import[ \t]+([\w., \t]+))", re.M),
        True,
        (".py", "/__init__.py"),
    ),
    Family(
        (".js", ".jsx", ".ts", ".tsx", ".mjs", ".cjs", ".mts", ".vue", ".svelte"),
        re.compile(r"""\b(?:from|import|require)\b[ \t(]*['"](\.[^'"\n]+)['"]"""),
        False,
        ("", ".ts", ".tsx", ".js", ".jsx", ".mjs", "/index.ts", "/index.js"),
    ),
    Family(
        (".c", ".h", ".cc", ".cpp", ".cxx", ".hpp", ".hh", ".m", ".mm", ".cu", ".cuh"),
        re.compile(r'^[ \t]*#[ \t]*include[ \t]*"([^"\n]+)"', re.M),
        False,
        ("",),
    ),
    Family((".rs",), re.compile(r"^[ \t]*(?:pub[ \t]+)?mod[ \t]+(\w+)[ \t]*;", re.M), False, (".rs", "/mod.rs")),
    Family(
        (".java", ".kt", ".kts", ".scala", ".groovy", ".hs", ".dart"),
        re.compile(r"""^[ \t]*import[ \t]+(?:static[ \t]+|qualified[ \t]+|['"])?([\w./]+)""", re.M),
        True,
        (".java", ".kt", ".scala", ".groovy", ".hs"),
    ),
    Family(
        (".rb", ".lua", ".sh", ".bash", ".php"),
        re.compile(r"""\b(?:require_relative|require|include|source)\b[ \t(]*['"]?([\w./-]+)""", re.M),
        False,
        ("", ".rb", ".lua", ".sh", ".php"),
    ),
)


def imported_files(own: Path, text: str, root: Path) -> Iterator[Path]:
    """Existing files that the import lines of `text` may mean, in their order, links followed.

    Args:
        own: the file that `text` is in; what it is called decides how the lines are read.
        root: of the project: modules are looked for beside the file, there, and in a few folders under it.
    """
    family = next((f for f in FAMILIES if own.suffix.lower() in f.files), None)
    if family is None:
        return
    folder = os.path.realpath(own.parent)
    for name in list(dict.fromkeys(_names(text[:MAX_CHARACTERS], family)))[:MAX_NAMES]:
        if found := _file(name, family, folder, str(root)):
            yield Path(found)


def _names(text: str, family: Family) -> Iterator[str]:
    """Modules that are imported; of ``from a import b`` both ``a.b``, which may be a module, and ``a``."""
    for match in family.pattern.finditer(text):
        module, *more = (group for group in match.groups() if group)
        if more:
            dot = "" if module.endswith(".") else "."
            yield from (f"{module}{dot}{name.split()[0]}" for name in more[0].split(",") if name.strip())
        for words in map(str.split, module.split(",")):
            if words and words[0].strip("."):
                yield words[0]


def _file(name: str, family: Family, folder: str, root: str) -> str | None:
    bases = [folder, *(os.path.join(root, base) for base in BASES)]
    if family.dotted:
        dots = len(name) - len(name.lstrip("."))
        if dots:
            bases = [os.path.join(folder, *[".."] * (dots - 1))]
        name = name.lstrip(".").replace(".", "/")
    if not name or name.startswith(("/", "~")):
        return None
    for base in dict.fromkeys(bases):
        for end in family.tries:
            path = os.path.join(base, name + end)
            if os.path.isfile(path):
                return os.path.realpath(path)
    return None
