"""A suggestion in its place: the lines around it dim, the suggestion bright."""

from typing import TYPE_CHECKING

from rich.text import Text

from coderv2_local.stream import printable

if TYPE_CHECKING:
    from coderv2_local.fim.fill import Filling
    from coderv2_local.fim.hole import Hole

LINES_BEFORE = 6
LINES_AFTER = 4
MOST_LINES = 60  # of a suggestion
SUGGESTION = "bold green"


def in_place(hole: "Hole", middle: str) -> Text:
    """`middle` between the lines around the hole, each line with its number; `+` marks lines that it touches."""
    before = _tame(hole.prefix).split("\n")
    after = _tame(hole.suffix).split("\n")
    new = _tame(middle).split("\n")
    number = max(len(before) - LINES_BEFORE, 1)
    out = Text()
    width = len(str(number + LINES_BEFORE + LINES_AFTER + len(new)))

    def line(parts: list[tuple[str, str]], *, touched: bool) -> None:
        nonlocal number
        out.append(f"{number:>{width}} {'+' if touched else ' '} ", "dim")
        for text, style in parts:
            out.append(text, style)
        out.append("\n")
        number += 1

    for text in before[number - 1 : -1]:
        line([(text, "dim")], touched=False)
    for n, text in enumerate(new[:MOST_LINES]):
        parts = [(before[-1], "dim")] if n == 0 else []
        parts.append((text, SUGGESTION))
        if n == len(new) - 1:
            parts.append((after[0], "dim"))
        line(parts, touched=bool(middle))
    if len(new) > MOST_LINES:
        out.append(f"{'':>{width}} … {len(new) - MOST_LINES} more lines\n", "dim")
        number += len(new) - MOST_LINES
    for text in after[1 : LINES_AFTER + 1]:
        line([(text, "dim")], touched=False)
    out.right_crop(1)
    return out


def summary(filling: "Filling") -> str:
    """What it took, in one line."""
    prompt = "" if filling.prompt_tokens is None else f"prompt {filling.prompt_tokens}"
    if filling.reused_tokens:
        prompt += f", {filling.reused_tokens} of them known"
    parts = [
        f"{filling.tokens} token{'s' * (filling.tokens != 1)}",
        f"ended by: {filling.reason}",
        prompt,
        f"first token after {filling.prompt_seconds:.2f} s, then {filling.seconds:.2f} s",
    ]
    return " · ".join(part for part in parts if part)


def _tame(text: str) -> str:
    """Text that is safe to show, its tabs four columns wide."""
    return printable(text.replace("\r\n", "\n")).expandtabs(4)
