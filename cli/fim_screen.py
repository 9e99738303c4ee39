"""A suggestion in its place: the lines around it dim, what it replaces marked `-`, itself coloured and marked `+`."""

from pathlib import Path
from typing import TYPE_CHECKING

from rich.style import Style
from rich.text import Text

from coderv2_local.stream import printable

if TYPE_CHECKING:
    from coderv2_local.fim.fill import Filling
    from coderv2_local.fim.hole import Hole

LINES_BEFORE = 6
LINES_AFTER = 4
MOST_LINES = 60  # of a suggestion, and of what it replaces
MOST_CHARACTERS = 400  # of a line, on each side of the suggestion
LEXED = 20_000  # characters on each side that decide how the suggestion is coloured: it may stand in a long string
DIM, OLD, NEW, BRIGHT = "dim", "dim red", "bold green", Style(dim=False)
GUTTER = {" ": DIM, "-": OLD, "+": NEW}


def in_place(hole: "Hole", middle: str, *, replaced: str = "", path: Path | None = None) -> Text:
    """`middle` between the lines around the hole, each line with its number.

    Args:
        replaced: the text that it would replace: those lines come first, marked `-`.
        path: of the file; its name tells the language.
    """
    number = hole.prefix.count("\n") + 1
    before = _tame(_lines_end(hole.prefix)).split("\n")
    after = _tame(hole.suffix[:LEXED]).split("\n")
    before = [*(_clip(line) for line in before[:-1]), _clip(before[-1], keep_end=True)]
    after = [_clip(line) for line in after]
    head, tail = "\n".join(before), "\n".join(after)
    shown = _tame(middle or replaced)
    text = Text(head + shown + tail, DIM)
    if middle:
        _colour(text, len(head), len(head + shown), path)
    lines = list(text.split("\n", allow_blank=True))
    first, last = len(before) - 1, len(lines) - len(after)
    above, below = min(LINES_BEFORE, first), lines[last + 1 : last + 1 + LINES_AFTER]
    old = [Text(line, OLD) for line in (before[-1] + _tame(replaced) + after[0]).split("\n")] if replaced else []

    out = Text()
    width = len(str(number + last - first + LINES_AFTER))

    def show(start: int, mark: str, rows: list[Text]) -> None:
        for n, row in enumerate(rows[:MOST_LINES], start):
            out.append(f"{n:>{width}} ", DIM).append(f"{mark} ", GUTTER[mark]).append_text(row).append("\n")
        if len(rows) > MOST_LINES:
            out.append(f"{'':>{width}} … {len(rows) - MOST_LINES} more lines\n", DIM)

    show(number - above, " ", lines[first - above : first])
    if middle:
        show(number, "-", old)
    show(number, "+" if middle else " ", lines[first : last + 1])
    show(number + last - first + 1, " ", below)
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


def why_nothing(filling: "Filling", max_ms: int | None, *, load_seconds: float = 0.0) -> str:
    """Why there is no middle, in one line.

    Args:
        max_ms: that it could take, loading and all.
        load_seconds: until the model was loaded; 0 where it was there, or is on a server.
    """
    if filling.reason != "time" or max_ms is None:
        return "the model suggests nothing here"
    most_was_loading = load_seconds * 2000 > max_ms
    helps = (
        f"loading took {load_seconds:.1f} s; `coder serve` keeps the model loaded" if most_was_loading else "allow more"
    )
    return f"no time was left to suggest anything (--max-ms {max_ms}): {helps}"


def _colour(text: Text, start: int, end: int, path: Path | None) -> None:
    """Colour what stands between `start` and `end` as code of the file's language, where that is known."""
    from cli.code_lexers import lexer_for
    from cli.highlight import MAX_LINE, style_of
    from coderv2_local.languages import fence_name

    text.stylize(BRIGHT, start, end)
    code = text.plain
    lexer = lexer_for(fence_name(path)) if path else None
    if lexer is None or any(len(line) > MAX_LINE for line in code.split("\n")):
        return
    at = 0
    for _, kind, token in lexer.lex(code, lexer.first_state(code))[0]:
        if at < end and at + len(token) > start and code.startswith(token, at):
            text.stylize(style_of(kind) + BRIGHT, max(at, start), min(at + len(token), end))
        at += len(token)


def _lines_end(text: str) -> str:
    """The last lines of a text, of which no more than the last can have lost its beginning."""
    if len(text) <= LEXED:
        return text
    near = text[-LEXED:]
    return near[near.find("\n") + 1 :]


def _clip(line: str, *, keep_end: bool = False) -> str:
    if len(line) <= MOST_CHARACTERS:
        return line
    return "…" + line[-MOST_CHARACTERS:] if keep_end else line[:MOST_CHARACTERS] + "…"


def _tame(text: str) -> str:
    """Text that is safe to show, its tabs four columns wide."""
    return printable(text.replace("\r\n", "\n")).expandtabs(4)
