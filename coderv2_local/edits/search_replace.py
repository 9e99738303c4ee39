"""Search/replace blocks, the form that aider taught models::

path/to/file.py
<<<<<<< SEARCH
lines that are there
=======
lines to come in their place
>>>>>>> REPLACE
"""

from collections.abc import Callable

from coderv2_local.edits.blocks import REPLACE, SEARCH
from coderv2_local.edits.file_edits import FileEdit, HunkEdit
from coderv2_local.edits.hunks import Hunk, hunk_between

CUT = "the answer ends in the middle of a search/replace block"


def parse_search_replace(
    lines: tuple[str, ...], default_path: str, name_in: Callable[[str], str | None]
) -> list[FileEdit]:
    """The edits of the search/replace blocks in `lines` (without line ends).

    An empty search creates the file.

    Args:
        default_path: the file meant where no line names one; "" for none.
        name_in: the file that a line names, if it does.
    """
    edits: list[FileEdit] = []
    path, i = default_path, 0
    before = ""
    while i < len(lines):
        head = SEARCH.fullmatch(lines[i])
        if not head:
            before = lines[i] if lines[i].strip() else before
            i += 1
            continue
        path = name_in(before) or path
        before = ""
        end = next((k for k in range(i + 1, len(lines)) if REPLACE.fullmatch(lines[k])), None)
        if end is None:
            edits.append(FileEdit(path, CUT, "ask the model to continue, or to write it again"))
            break
        edits.append(_edit(path, lines[i + 1 : end], "=" * len(head[1]), f"search/replace block {len(edits) + 1}"))
        i = end + 1
    return edits


def _edit(path: str, lines: tuple[str, ...], divider: str, name: str) -> FileEdit:
    dividers = [k for k, line in enumerate(lines) if line.strip() == divider]
    if not path:
        return FileEdit("", f"{name} names no file", "ask for the file's name on the line before it")
    if len(dividers) != 1:
        how_many = "no" if not dividers else "more than one"
        return FileEdit(path, f"{name} has {how_many} line of {divider} in it", "ask for a diff instead")
    search, replacement = list(lines[: dividers[0]]), list(lines[dividers[0] + 1 :])
    if not any(line.strip() for line in search):
        return HunkEdit(path, hunks=(Hunk(tuple(("+", line) for line in replacement), name=name),), creates=True)
    return HunkEdit(path, hunks=(hunk_between(search, replacement, name),))
