"""What is taken off a finished middle: each rule a function from the middle to what of it is kept.

The text before and after the hole is never changed.
"""

import re
from collections.abc import Callable

from coderv2_local.fim.brackets import CLOSES, Brackets
from coderv2_local.fim.duty import before_hole, duty
from coderv2_local.fim.hole import Hole
from coderv2_local.fim.syntax import PLAIN, PROSE, syntax_of

WORD = re.compile(r"[^\W\d]\w*")
FENCED = re.compile(r"\s*```[\w+#.-]*[ \t]*\n(.*?)\n?(?:[ \t]*```.*)?\Z", re.S)

Trim = Callable[[str, Hole], str]


def fenced_code(middle: str, hole: Hole) -> str:
    """Of an answer in a Markdown code block, as Instruct models like to give it, the code; not where Markdown is
    written: in a file of prose, and where such blocks are near.
    """
    match = FENCED.match(middle)
    if match is None or "```" in hole.prefix + hole.suffix or syntax_of(hole.name) is PROSE:
        return middle
    return match[1]


def line_again(middle: str, hole: Hole) -> str:
    """Of a middle that begins by writing the hole's line once more, from its first word or from within it, what goes
    on from the hole: ``turn total`` after ``return t`` becomes ``otal``.

    The line must have two different words, and be no list that goes on: such text may rightly stand there twice.
    """
    line = hole.line_before.lstrip()
    if len(set(WORD.findall(line))) < 2 or line.rstrip().endswith((",", ";", "|")):
        return middle
    written = middle.lstrip(" \t")
    first = WORD.search(line)
    for start in range(first.end() if first else 0):
        if written.startswith(line[start:]):
            return written[len(line) - start :]
    return middle


def blank_end(middle: str, hole: Hole) -> str:
    """Blanks at the end of a line, and line ends where one follows the hole anyway. At the end of a file one stays."""
    if hole.is_within_line:
        return middle
    kept = middle.rstrip()
    return kept + "\n" if kept and not hole.suffix and "\n" in middle[len(kept) :] else kept


def repeated_rest(middle: str, hole: Hole) -> str:
    """An end of the middle that is the same as the rest of the hole's line, and was written twice so.

    Not every such end is: in ``f(g(|)`` the middle ``x)`` is right. For closing brackets the brackets around the hole
    decide, for a quotation mark whether the middle has closed the string already.
    """
    kept = middle.rstrip()
    rest = hole.line_after if kept.endswith(hole.line_after) else hole.line_after.strip()
    if not rest or not kept.endswith(rest):
        return middle
    without, rest = kept[: -len(rest)], rest.strip()
    if all(c in CLOSES for c in rest) and not _closes_too_much(without, rest, hole):
        return middle
    if rest in ("'", '"', "`") and (hole.line_before + without).count(rest) % 2 == 0:
        return middle
    return without


def _closes_too_much(without: str, rest: str, hole: Hole) -> bool:
    """Are brackets closed once too often, when both the middle and the rest of the line close them?"""
    asked, before = duty(hole), before_hole(hole)
    text = without + rest
    is_comment = before.is_within_comment
    is_paired = all(bracket in before.syntax.brackets for bracket in rest)
    if asked is None or is_comment or not is_paired:
        # brackets elsewhere say nothing: the hole's own line has to decide
        line = Brackets(PLAIN if is_comment or not is_paired else before.syntax)
        line.read(hole.line_before + text + rest)
        return bool(line.unmatched)
    own = before.goes_on()
    own.read(hole.line_before + text, at=len(hole.line_before))
    return len(own.unmatched) > len(asked.to_close)


TRIMS: dict[str, Trim] = {
    "code block": fenced_code,
    "line written again": line_again,
    "repeated rest of the line": repeated_rest,
    "blank end": blank_end,
}
"""In the order in which they are applied."""


def trimmed(middle: str, hole: Hole) -> str:
    """The middle after all trims. `hole` is as :meth:`Hole.near <coderv2_local.fim.hole.Hole.near>` gives it."""
    for trim in TRIMS.values():
        middle = trim(middle, hole)
    return middle
