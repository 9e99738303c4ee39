"""The files that `coder fim` changes: writing a suggestion, and taking it back."""

from pathlib import Path
from typing import TYPE_CHECKING

from cli.edit_screen import undo_journal

if TYPE_CHECKING:
    from coderv2_local.edits.journal import Change
    from coderv2_local.fim.hole import Hole


def write_middle(path: Path, text: str, hole: "Hole", middle: str) -> "tuple[Change, str] | None":
    """Put `middle` into the file, whole or not at all. Naming the file was the consent.

    Args:
        text: of the file, as it was read.
        middle: written as it is, with its line ends.

    Returns:
        The change, and its diff; None where `middle` is what stands there already: nothing is written then.

    Raises:
        EditRefused: the file has changed since, or cannot be written; it is as it was.
    """
    from coderv2_local.edits.apply import apply_edits
    from coderv2_local.edits.ranges import propose_range

    workspace, proposal = propose_range(path, text, len(hole.prefix), len(text) - len(hole.suffix), middle)
    if proposal.new == proposal.old:
        return None
    change = apply_edits([proposal], workspace, undo_journal(), made_by="fim")
    return change, proposal.diff()


def take_back(change: "Change | None" = None) -> "Change":
    """Undo this change, or the last suggestion that was written anywhere.

    Raises:
        NothingToUndo: there is none.
        EditRefused: the file has changed since; nothing is undone.
    """
    from coderv2_local.edits.undo import undo

    return undo(undo_journal(), made_by="fim", only=change)
