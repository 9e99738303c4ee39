"""Take back the last change, and with each further call the one before."""

from pathlib import Path

from coderv2_local.edits.journal import Change, Journal
from coderv2_local.edits.refusal import Busy, NothingToUndo
from coderv2_local.edits.restore import settle, take_back


def undo(
    journal: Journal, *, root: Path | None = None, made_by: str | None = None, only: Change | None = None
) -> Change:
    """Take back the last change, of one workspace or one command if given: every file has its bytes from before.

    A change that was interrupted is taken back, too. An undo that was interrupted is finished by the next.

    Args:
        only: this change, and no other.

    Returns:
        The change that was taken back.

    Raises:
        NothingToUndo: there is none.
        EditRefused: a file was changed by somebody else since; it is named, and nothing is undone.
    """
    with journal.locked():
        settle(journal)
        changes = journal.changes(root=root, made_by=made_by)
        if only is not None:  # a number is given again after an undo, the names of temporary files are not
            changes = [c for c in changes if (c.number, c.files) == (only.number, only.files)]
        if not changes:
            raise NothingToUndo("there is no edit to undo")
        change = changes[-1]
        take_back(change, journal)
        journal.forget(change)
    return change


def interrupted(journal: Journal, *, root: Path | None = None) -> list[Change]:
    """Changes that were half made when their process was killed, oldest first: for the user to be told of at start."""
    if not journal.folder.is_dir():
        return []
    try:
        with journal.locked():
            return [change for change in settle(journal) if root in (None, change.root)]
    except Busy:  # what is half made now is another process's, which is at work
        return []
