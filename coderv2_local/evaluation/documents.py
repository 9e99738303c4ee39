"""Source files of a folder, in any language, as documents."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from coderv2_local.edits.refusal import EditRefused
from coderv2_local.edits.text_files import read_text
from coderv2_local.fim.related import SKIPPED_FOLDERS
from coderv2_local.languages import language_of_file
from quant.errors import InputError

MAX_BYTES = 200_000
MOST_FILES = 20_000
NOT_CODE = frozenset({"Markdown", "Text", "JSON", "CSV", "XML", "YAML", "SVG"})


@dataclass(frozen=True)
class Document:
    """A text to make holes in.

    Attributes:
        name: for reports; it also makes the order, so that equal folders give equal holes wherever they are.
        language: as the table of languages calls it.
        text: its line ends made one newline each.
    """

    name: str
    language: str
    text: str


def read_documents(paths: Sequence[Path]) -> list[Document]:
    """The source files among `paths` and in the folders among them, in the order of their names.

    Hidden, generated and vendored folders are left out, and files that are binary, large, or in no known programming
    language.

    Raises:
        InputError: a path is missing, or there is no source file at all.
    """
    found: list[Document] = []
    for path in paths:
        if not path.exists():
            raise InputError(f"{path}: no such file or folder")
        base = path if path.is_dir() else path.parent
        for file in sorted(_files(path)):
            if document := _document(file, file.relative_to(base).as_posix()):
                found.append(document)
    if not found:
        raise InputError(
            f"no source file in {', '.join(map(str, paths))}", hint="give a folder with code that is not in the model"
        )
    return sorted(found, key=lambda document: document.name)


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    out: list[Path] = []
    for folder, folders, names in os.walk(path):
        folders[:] = sorted(f for f in folders if f not in SKIPPED_FOLDERS and f[0] != ".")
        out += [Path(folder, name) for name in names if name[0] != "."]
        if len(out) > MOST_FILES:
            break
    return out


def _document(path: Path, name: str) -> Document | None:
    language = language_of_file(path)
    if language is None or language.name in NOT_CODE or path.is_symlink():
        return None
    try:
        if path.stat().st_size > MAX_BYTES:
            return None
        return Document(name, language.name, read_text(path).text.replace("\r\n", "\n"))
    except (EditRefused, OSError):
        return None
