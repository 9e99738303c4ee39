"""A picture of a real terminal for the documents: runs `coder`, types what a user types, draws the screen as SVG.

    python tools/picture.py docs/pictures/chat.svg

It needs the development extras (pexpect, pyte). The conversation is a real one, with the embedded model.
"""

import argparse
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.text import Text

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT / "tests"), str(ROOT)]

from terminal import Terminal  # noqa: E402 - found once the path is set

COLUMNS, ROWS = 92, 26
COLORS = {"brown": "yellow", "default": ""}  # pyte's name → rich's
FILE = 'def average(numbers):\n    """The mean of a list of numbers."""\n    return sum(numbers) / len(numbers)\n'
TYPED = (
    "Write a Python function `add`: Add two numbers",
    "/add stats.py",
    "/tokens",
)


def styled(screen) -> Text:
    """The screen's characters with their colours."""
    text = Text()
    for y in range(screen.lines):
        row = screen.buffer[y]
        for x in range(screen.columns):
            cell = row[x]
            if cell.data:
                color = COLORS.get(cell.fg, cell.fg)
                color = f"#{color}" if len(color) == 6 and all(c in "0123456789abcdef" for c in color) else color
                style = " ".join(
                    [
                        *(["bold"] if cell.bold else []),
                        *(["reverse"] if cell.reverse else []),
                        color.replace("bright", "bright_"),
                    ]
                )
                text.append(cell.data, style.strip() or None)
        text.append("\n")
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("svg", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder) / "project"
        work.mkdir()
        (work / "stats.py").write_text(FILE)
        with Terminal("chat", cwd=work, home=Path(folder) / "home", columns=COLUMNS, rows=ROWS) as terminal:
            for line in TYPED:
                terminal.say(line)
            text = styled(terminal.screen)
    console = Console(record=True, width=COLUMNS, file=open("/dev/null", "w"), force_terminal=True)  # noqa: SIM115
    console.print(text, end="")
    console.save_svg(str(args.svg), title="coder chat")


if __name__ == "__main__":
    main()
