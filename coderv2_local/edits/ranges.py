"""Replace one range of a file that the user named: what accepting a fill-in does."""

from pathlib import Path

from coderv2_local.edits.proposal import EditedFile, Proposal
from coderv2_local.edits.refusal import EditRefused, FileChanged
from coderv2_local.edits.text_files import decode
from coderv2_local.edits.workspace import Workspace


def propose_range(path: Path, text: str, start: int, end: int, replacement: str) -> tuple[Workspace, Proposal]:
    """Replace the characters [start, end) of a file, wherever it is: naming it was the consent.

    The text before and after the range keeps its bytes.

    Args:
        text: the file's text as it was read, without its byte order mark; the offsets are into it.
        replacement: written as it is, with these line ends.

    Returns:
        The workspace to apply it in, and the proposal.

    Raises:
        FileChanged: the file is not the text that was read.
        EditRefused: it is missing, unreadable or binary, or has no such range.
    """
    workspace, name = Workspace.around(path)
    now = workspace.read(name)
    if now is None:
        raise EditRefused(f"{path}: there is no such file", path=str(path), hint="save it first")
    was = decode(now[0], name)
    if text != was.text:
        raise FileChanged(
            f"{path} changed after it was read: nothing was written", path=str(path), hint="run the command again"
        )
    if not 0 <= start <= end <= len(text):
        raise EditRefused(f"{path} has {len(text)} characters: there is no range from {start} to {end}", path=str(path))
    return workspace, EditedFile(name, "modify", was, text[:start] + replacement + text[end:]).proposal()
