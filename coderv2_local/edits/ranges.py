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
        text: the file's text as it was read, with or without its byte order mark; the offsets are into it.
        replacement: its line ends become those of the file at that place.

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
    if text.startswith("\ufeff") and text != was.text:  # read with its mark
        text, start, end = text[1:], max(start - 1, 0), max(end - 1, 0)
    if text != was.text:
        raise FileChanged(
            f"{path} changed after it was read: nothing was written", path=str(path), hint="run the command again"
        )
    if not 0 <= start <= end <= len(text):
        raise EditRefused(f"{path} has {len(text)} characters: there is no range from {start} to {end}", path=str(path))
    middle = replacement.replace("\r\n", "\n")
    if _ends_with_crlf(text, start):
        middle = middle.replace("\n", "\r\n")
    return workspace, EditedFile(name, "modify", was, text[:start] + middle + text[end:]).proposal()


def _ends_with_crlf(text: str, at: int) -> bool:
    """Does the line at `at` end with CRLF? The last line may have no end: the one before it counts."""
    end = text.find("\n", at)
    end = end if end >= 0 else text.rfind("\n", 0, at)
    return end > 0 and text[end - 1] == "\r"
