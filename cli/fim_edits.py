"""Writing a suggestion into its file, and taking it back."""

from pathlib import Path
from typing import TYPE_CHECKING

from cli.edit_screen import undo_journal

if TYPE_CHECKING:
    from coderv2_local.edits.journal import Change
    from coderv2_local.fim.hole import Hole


def write_middle(path: Path, text: str, hole: "Hole", middle: str) -> tuple["Change", str]:
    """Put `middle` into the file, whole or not at all. Naming the file was the consent.

    Args:
        text: of the file, as it was read.

    Returns:
        The change, and its diff.

    Raises:
        EditRefused: the file has changed since, or cannot be written; it is as it was.
    """
    from coderv2_local.edits.apply import apply_edits
    from coderv2_local.edits.ranges import propose_range

    workspace, proposal = propose_range(path, text, len(hole.prefix), len(text) - len(hole.suffix), middle)
    change = apply_edits([proposal], workspace, undo_journal(), made_by="fim")
    return change, proposal.diff()


def take_back(path: Path | None = None) -> "Change":
    """Undo the last suggestion that was written; of the given file's folder, if one is given.

    Raises:
        NothingToUndo: there is none.
        EditRefused: the file has changed since; nothing is undone.
    """
    from coderv2_local.edits.undo import undo
    from coderv2_local.edits.workspace import Workspace

    return undo(undo_journal(), root=Workspace.around(path)[0].root if path else None, made_by="fim")
