"""Put the files of a recorded change back, and look after changes whose process was killed."""

import contextlib

from coderv2_local.edits.journal import Change, Journal
from coderv2_local.edits.put import current_digest, put
from coderv2_local.edits.refusal import EditRefused
from coderv2_local.edits.workspace import Workspace


def take_back(change: Change, journal: Journal) -> None:
    """Put every file of the change that is as the change made it, or is gone, back to what it was before.

    Files that are as before already are left alone, so this can be done again after an interruption. Folders that were
    made for the change go if they are empty.

    Raises:
        EditRefused: a file was changed by somebody else, or the journal is damaged. No file is changed then.
    """
    workspace = Workspace(change.root)
    to_restore, foreign = [], []
    for i, file in enumerate(change.files):
        now = current_digest(workspace, file.path)
        if now == file.before:
            continue
        if now in (file.after, None):
            to_restore.append((file, journal.before(change, i), now))
        else:
            foreign.append(i)
    if foreign:
        raise _changed_since(change, foreign, journal)
    for file, data, now in reversed(to_restore):
        put(workspace, file.path, data, now, file.temporary, mode=file.mode)
    _tidy(workspace, change)
    for path in reversed(change.folders):
        with contextlib.suppress(EditRefused), workspace.folder_of(path, make=False) as (folder, name):
            if folder is not None:
                folder.remove_folder(name)


def settle(journal: Journal) -> list[Change]:
    """Look after changes whose process was killed: note those that were made whole, drop those that made nothing.

    To be called with the lock held.

    Returns:
        The changes that are half made. To undo takes them back.
    """
    half = []
    for change in journal.changes():
        if change.whole:
            continue
        try:
            workspace = Workspace(change.root)
            now = [current_digest(workspace, file.path) for file in change.files]
        except EditRefused:  # the workspace is gone, or not what it was: undo will say so
            half.append(change)
            continue
        if now == [file.before for file in change.files]:
            take_back(change, journal)  # what is left of it: temporary files and empty folders
            journal.forget(change)
        elif now == [file.after for file in change.files]:
            _tidy(workspace, change)
            journal.finish(change)
        else:
            half.append(change)
    return half


def _tidy(workspace: Workspace, change: Change) -> None:
    """Remove the temporary files that a killed process left."""
    for file in change.files:
        with contextlib.suppress(EditRefused), workspace.folder_of(file.path, make=False) as (folder, _):
            if folder is not None:
                folder.remove(file.temporary)


def _changed_since(change: Change, foreign: list[int], journal: Journal) -> EditRefused:
    kept = next((i for i in foreign if change.files[i].before is not None), None)
    where = f"; what it held before is in {journal.before_path(change, kept)}" if kept is not None else ""
    return EditRefused(
        f"{', '.join(change.files[i].path for i in foreign)} changed after the edit: nothing was undone",
        path=change.files[foreign[0]].path,
        hint=f"move your version away and undo again{where}",
    )
