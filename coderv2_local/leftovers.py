"""What an interrupted `coder pull` has left in the folder of models: to be gone on with, or dropped."""

import re
from contextlib import suppress
from pathlib import Path

from coderv2_local.installed import folder, installed
from quant.recipes import RECIPES

ENDINGS = (".gguf.partial", ".gguf.journal", ".gguf.download", ".download", ".gguf")
"""After a model's key. A whole file is left over where only its entry is lost."""
_PART = r"(?:-\d{5}-of-\d{5})?"
"""Before the last of them: a part of a model in several files."""
UNKNOWN_TYPE = "file"
"""In place of a recipe: a ready file whose name does not say its types."""


def leftovers(name: str) -> list[Path]:
    """What lies there of `name` or ``name:recipe`` and belongs to no entry."""
    wanted, _, recipe = name.partition(":")
    claimed = {p for entry in installed() for p in entry.paths}
    middle = re.escape(recipe) if recipe else "|".join(map(re.escape, sorted({*RECIPES, UNKNOWN_TYPE})))
    pattern = re.compile(rf"{re.escape(wanted)}-(?:{middle})(?:{'|'.join(map(re.escape, ENDINGS))}|{_PART}\.gguf)")
    with suppress(OSError):
        return sorted(p for p in folder().iterdir() if pattern.fullmatch(p.name) and p not in claimed)
    return []


def key_of_leftover(path: Path) -> str:
    """The key of the model that it was to become."""
    stem = next(path.name.removesuffix(end) for end in ENDINGS if path.name.endswith(end))
    return re.sub(f"{_PART}$", "", stem)


def begun(name: str) -> list[str]:
    """The recipes in which an interrupted pull of `name` was begun."""
    found = {key_of_leftover(p).removeprefix(f"{name}-") for p in leftovers(name)}
    return sorted(found & set(RECIPES))
