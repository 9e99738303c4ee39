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
QUOTE = re.compile("[\"'`]")
VARIABLE = re.compile(r"""^((?:[A-Z]|[^=(]*?\b(?:const|let|var|static)\b)[^=(]*=)[^=].*["'`].*""")
VALUE = re.compile(
    r"""([=:]\s*)[A-Za-z]{0,2}(["'`])(?:\\.|(?!\2)[^\\])*(?:\2|\\?$)"""
    r"(?!\s*\|)"  # of TypeScript's unions, the strings are types
)


@dataclass(frozen=True)
class Snippet:
    """A piece of another file: its path within the project, and its text."""

    label: str
    text: str = ""


def outline(text: str, *, most_lines: int = 200) -> str:
    """The lines of a source file that define names: what a reader of another file needs to know of it.

    It knows no language but what most have in common; where nothing is found, the text as it begins. Strings that are
    given a name are left out, since keys and passwords are such strings: ``TOKEN = ...``.
    """
    lines = text.splitlines()[:20_000]
    found = [shown for line in lines if len(line) < 400 and (shown := _definition(line))]
    return "\n".join((found or [VALUE.sub(r"\1...", line) for line in lines[:most_lines]])[:most_lines]) + "\n"


def _definition(line: str) -> str:
    """What is shown of a line that defines a name; "" for another one."""
    is_definition = DEFINES.match(line) or CONSTANT.match(line)
    if not is_definition and not C_FUNCTION.match(line):
        return ""
    shown = VALUE.sub(r"\1...", VARIABLE.sub(r"\1 ...", line.rstrip()))
    return shown if is_definition or not QUOTE.search(shown) else ""  # with a string in it, it is a call


@dataclass(frozen=True)
class Cut:
    """What of a snippet found no room: it is shown to its line `lines` of `of_lines`; 0 where it is left out."""

    label: str
    lines: int
    of_lines: int


def preamble(
    snippets: Sequence[Snippet],
    own_label: str,
    count: Callable[[str], int],
    budget: int,
    *,
    is_shared: bool = False,
    cut: list[Cut] | None = None,
) -> str:
    """The snippets within `budget` tokens, each under its path, and last the path of the hole's own file.

    Whole lines are dropped from the end of a snippet that does not fit. "" where there is nothing to show. The order is
    kept: what stands here is evaluated once and used again as long as it stays the same.

    Args:
        is_shared: all have the same right to the budget, and what one does not need goes to the others; else the first
            one takes what it needs.
        cut: what is not shown whole is appended.
    """
    if not snippets:
        return ""
    last = path_comment(own_label)
    texts = [snippet.text.replace("\r\n", "\n").strip("\n") for snippet in snippets]
    heads = [path_comment(snippet.label) for snippet in snippets]
    left = max(budget - count(last), 0) if budget > 0 else 0
    needs = [_need(head, text, count, left) for head, text in zip(heads, texts, strict=True)] if is_shared else []
    shares = _shares(needs, left) if is_shared else [left] * len(snippets)
    out = ""
    for snippet, head, text, share in zip(snippets, heads, texts, shares, strict=True):
        shown = _first_lines(text, count, min(share, left) - count(head) - 2)
        if cut is not None and shown != text:
            cut.append(Cut(snippet.label, shown.count("\n") + bool(shown), text.count("\n") + 1))
        if shown:
            piece = f"{head}{shown}\n\n"
            left -= count(piece)
            out += piece
    return out + last if out else ""


def _need(head: str, text: str, count: Callable[[str], int], budget: int) -> int:
    """Tokens that a snippet takes whole; of one that is too long anyway, not all are counted."""
    return count(head) + count(text) + 2 if len(text) <= 16 * budget else budget


def _shares(needs: Sequence[int], budget: int) -> list[int]:
    """The budget in equal parts; what one does not need goes to those that need more."""
    shares = [0] * len(needs)
    for n, i in enumerate(sorted(range(len(needs)), key=needs.__getitem__)):
        shares[i] = min(needs[i], budget // (len(needs) - n))
        budget -= shares[i]
    return shares


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
