"""Pieces of other files, as they stand before a prefix: each under its path, within a budget."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from coderv2_local.fim.comments import path_comment

DEFINES = re.compile(
    r"\s{0,8}(?:@|export\s|default\s|public\s|protected\s|internal\s|static\s|abstract\s|async\s|pub(?:\([a-z]+\))?\s"
    r"|unsafe\s|inline\s|const\s|virtual\s|override\s|final\s|sealed\s|partial\s)*"
    r"(?:def|class|func|fn|function|interface|struct|enum|trait|impl|type|typedef|module|namespace|object|record|protocol"
    r"|sub|proc|macro|const|let|var|static|template)\b"
)
CONSTANT = re.compile(r"[A-Z][A-Z0-9_]+\s*(?::[^=]+)?=")
C_FUNCTION = re.compile(r"[A-Za-z_][\w:<>,*&\s]*\([^;{}]*\)\s*[{;]?\s*$")


@dataclass(frozen=True)
class Snippet:
    """A piece of another file: its path within the project, and its text."""

    label: str
    text: str = ""


def outline(text: str, *, most_lines: int = 200) -> str:
    """The lines of a source file that define names: what a reader of another file needs to know of it.

    It knows no language but what most have in common; where nothing is found, the text as it begins.
    """
    lines = text.splitlines()[:20_000]
    found = [
        line.rstrip()
        for line in lines
        if len(line) < 400 and (DEFINES.match(line) or CONSTANT.match(line) or C_FUNCTION.match(line))
    ]
    return "\n".join((found or lines)[:most_lines]) + "\n"


def preamble(snippets: Sequence[Snippet], own_label: str, count: Callable[[str], int], budget: int) -> str:
    """The snippets within `budget` tokens, each under its path, and last the path of the hole's own file.

    Whole lines are dropped from the end of a snippet that does not fit. "" where there is nothing to show. The order is
    kept: what stands here is evaluated once and used again as long as it stays the same.
    """
    if not snippets or budget <= 0:
        return ""
    last = path_comment(own_label)
    left = budget - count(last)
    out = ""
    for snippet in snippets:
        head = path_comment(snippet.label)
        text = _first_lines(snippet.text.replace("\r\n", "\n").strip("\n"), count, left - count(head) - 2)
        if not text:
            continue
        piece = f"{head}{text}\n\n"
        left -= count(piece)
        out += piece
    return out + last if out else ""


def _first_lines(text: str, count: Callable[[str], int], budget: int) -> str:
    """As many whole lines from the beginning as fit, found by bisection."""
    if budget <= 0:
        return ""
    lines = text[: 16 * budget].split("\n")
    if len(text) > 16 * budget:
        lines.pop()
    low, high = 0, len(lines)
    while low < high:
        middle = (low + high + 1) // 2
        if count("\n".join(lines[:middle])) <= budget:
            low = middle
        else:
            high = middle - 1
    return "\n".join(lines[:low])
