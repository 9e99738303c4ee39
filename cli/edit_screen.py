"""What `coder chat` and `coder fim` share about edits: the undo journal, and a diff on the screen."""

from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from coderv2_local.stream import printable

if TYPE_CHECKING:
    from coderv2_local.edits import Journal

STYLES = {"+": "green", "-": "red", "@": "cyan"}


def undo_journal() -> "Journal":
    """The undo journal of this user; what made a change is told apart by its name there."""
    from coderv2_local.edits import Journal
    from coderv2_local.home import home_folder

    return Journal(home_folder("undo"))


def show_diff(diff: str, console: Console) -> None:
    """A unified diff, coloured where the console has colours."""
    for line in printable(diff).removesuffix("\n").split("\n"):
        style = "bold" if line.startswith(("+++", "---")) else STYLES.get(line[:1], "")
        console.print(Text(line, style), soft_wrap=True)
