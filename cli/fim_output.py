"""What `coder fim FILE:LINE` prints: the middle, its diff or its JSON on stdout; remarks on stderr."""

import io
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from cli.errors import remarks

if TYPE_CHECKING:
    from coderv2_local.fim.fill import Filling
    from coderv2_local.fim.hole import Hole


def write_utf8() -> None:
    """Have what goes into a pipe or a file be UTF-8 with the line ends of the text, whatever the system's habits.

    A terminal keeps its encoding; what that lacks is shown as `?`.
    """
    if not isinstance(sys.stdout, io.TextIOWrapper):
        return
    if sys.stdout.isatty():
        sys.stdout.reconfigure(errors="replace")
    else:
        # a name in a diff that is not UTF-8 keeps its bytes
        sys.stdout.reconfigure(encoding="utf-8", errors="surrogateescape", newline="\n")


def as_report(
    text: str, hole: "Hole", filling: "Filling", *, load_seconds: float, fill_seconds: float
) -> dict[str, object]:
    """What `--json` prints. Lines and columns count from 1; a column is a number of characters."""
    from coderv2_local.fim.target import replaced_range

    start, end = replaced_range(text, hole)
    return {
        "text": filling.text,
        "reason": filling.reason,
        "range": {"start": start, "end": end},
        "prompt_tokens": filling.prompt_tokens,
        "reused_tokens": filling.reused_tokens,
        "suffix_tokens": filling.suffix_tokens,
        "tokens": filling.tokens,
        "load_seconds": round(load_seconds, 3),
        "fill_seconds": round(fill_seconds, 3),
        "first_token_seconds": round(filling.prompt_seconds, 3),
    }


def show_filling(text: str, hole: "Hole", filling: "Filling", path: Path, nothing: str) -> None:
    """The middle: in its place on a terminal, alone in a pipe.

    Args:
        nothing: why there is none, if there is none.
    """
    from cli.fim_screen import in_place

    if not sys.stdout.isatty():
        sys.stdout.write(filling.text)
        if not filling.text and filling.reason == "time":
            notice(nothing)
        return
    replaced = text[len(hole.prefix) : len(text) - len(hole.suffix)]
    Console(highlight=False).print(in_place(hole, filling.text, replaced=replaced, path=path), soft_wrap=True)
    if not filling.text:
        notice(nothing)
    show_summary(filling)


def show_applied(diff: str, filling: "Filling", nothing: str) -> None:
    """What was written.

    Args:
        diff: "" where nothing was.
        nothing: why there is no middle, if there is none.
    """
    from cli.edit_screen import show_diff

    if diff:
        show_diff(diff, Console(highlight=False))
        notice("written; `coder fim --undo` takes it back")
    else:
        notice(f"nothing was written: {'this is what stands there already' if filling.text else nothing}")
    show_summary(filling)


def show_summary(filling: "Filling") -> None:
    """What it took, and what ended it."""
    from cli.fim_screen import summary

    remarks().print(Text(summary(filling), "dim"))


def notice(text: str) -> None:
    """A remark on stderr, beside the data."""
    from coderv2_local.stream import printable

    remarks().print(Text(printable(text), "yellow"))
