"""From an answer to proposals: the edits that it describes, made to the files as they are now, in memory."""

from coderv2_local.edits.answers import find_edits
from coderv2_local.edits.elision import is_elision
from coderv2_local.edits.file_edits import Deletion, FileEdit, HunkEdit, WholeFile
from coderv2_local.edits.hunks import apply_hunks, replaced
from coderv2_local.edits.proposal import EditedFile, Proposal
from coderv2_local.edits.refusal import EditRefused
from coderv2_local.edits.text_files import body, decode, split_lines
from coderv2_local.edits.workspace import Workspace


def propose(answer: str, workspace: Workspace) -> list[Proposal]:
    """The edits that an answer proposes, one proposal a file, in the answer's order. Nothing is written.

    Several edits of one file are made one after another. If one of them is refused, the file's proposal is: half of an
    edit is worse than none.
    """
    files: dict[str, EditedFile] = {}
    for edit in find_edits(answer):
        key = edit.path
        try:
            key = workspace.resolve(edit.path) if edit.path else ""
            if key not in files:
                files[key] = _opened(key, workspace)
            _make(edit, files[key])
        except EditRefused as error:
            files.setdefault(key, EditedFile(key, "modify", None, None)).refusals.append(error)
    return [file.proposal() for file in files.values()]


def _opened(path: str, workspace: Workspace) -> EditedFile:
    now = workspace.read(path) if path else None
    was = decode(now[0], path) if now else None
    return EditedFile(path, "create" if was is None else "modify", was, was.text if was else None)


def _make(edit: FileEdit, file: EditedFile) -> None:
    """Make one edit to the file's text.

    Raises:
        EditRefused: it does not fit.
    """
    if edit.problem:
        raise EditRefused(f"{file.path}: {edit.problem}" if file.path else edit.problem, path=file.path, hint=edit.hint)
    if file.refusals:  # a first edit was refused: what it left to the next is not known
        return
    if isinstance(edit, WholeFile):
        _replace(edit, file)
    elif isinstance(edit, HunkEdit):
        _change(edit, file)
    elif isinstance(edit, Deletion):
        _delete(edit, file)


def _replace(edit: WholeFile, file: EditedFile) -> None:
    """Give the file the whole new text, unless that is only a part: the rest would be lost."""
    old_lines = [body(line) for line in split_lines(file.text or "")]
    old = {line.strip() for line in old_lines}
    lines = [edit.comment] * (old_lines[:1] == [edit.comment]) + list(edit.lines)
    if file.text and not any(line.strip() for line in lines):
        raise EditRefused(f"{file.path}: the block for it is empty", path=file.path, hint="delete the file yourself")
    left_out = next((x.strip() for x in lines if file.text and is_elision(x) and x.strip() not in old), None)
    if left_out:
        raise EditRefused(
            f"{file.path}: the block leaves out parts of the file ({left_out!r})",
            path=file.path,
            hint="ask for the whole file, or for a diff",
        )
    file.text = replaced(file.text or "", lines)
    file.kind = "create" if file.was is None else "replace"


def _change(edit: HunkEdit, file: EditedFile) -> None:
    if edit.creates and file.text:
        raise EditRefused(
            f"{file.path} exists already, and the edit creates it",
            path=file.path,
            hint="show the model the file and ask again",
        )
    if file.text is None and not edit.creates:
        raise _missing(file.path)
    file.text = apply_hunks(file.text or "", list(edit.hunks), file.path)
    file.kind = "create" if file.was is None else "modify"


def _delete(edit: Deletion, file: EditedFile) -> None:
    if file.text is None or file.was is None:
        raise _missing(file.path)
    if edit.lines and [line.rstrip() for line in edit.lines] != [body(x).rstrip() for x in split_lines(file.text)]:
        raise EditRefused(
            f"{file.path}: the diff deletes it, but shows other lines than it has",
            path=file.path,
            hint="delete it yourself if you mean it",
        )
    file.text, file.kind = None, "delete"


def _missing(path: str) -> EditRefused:
    return EditRefused(
        f"{path}: there is no such file to change", path=path, hint="name it relative to the workspace, or add it first"
    )
