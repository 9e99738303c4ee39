"""Fenced blocks, bare diffs and search/replace blocks in an answer's Markdown.

More than CommonMark's rules is needed: what a diff or a search/replace block holds may itself be fences, and models
nest Markdown in Markdown without longer fences. So this is a line-by-line scan that knows all three.
"""

import re
from dataclasses import dataclass

FENCE = re.compile(r"([ \t]*)(`{3,}|~{3,})[ \t]*(.*)")
SEARCH = re.compile(r"[ \t]*(<{5,9}) ?SEARCH\b[ \t>]*")
REPLACE = re.compile(r"[ \t]*>{5,9} ?REPLACE\b[ \t]*")
MARKDOWN = {"markdown", "md", "mdx", "rst"}
HUNK_LINE = (" ", "+", "-", "\\", "@@")
GIT_HEADERS = ("index ", "new file mode ", "deleted file mode ", "old mode ", "new mode ", "rename ", "copy ")
MORE_HEADERS = ("similarity index ", "dissimilarity index ", "Binary files ", "GIT binary patch", "--- ", "+++ ")


@dataclass(frozen=True)
class Block:
    """A block of an answer.

    Attributes:
        info: the fence's info string; None where there is no fence: a bare diff or search/replace block.
        lines: what is in it, without line ends and without the fence's indentation.
        label: the line before it, "" where that is blank, too far off or part of another block.
        closed: did it come to its end? False: the answer was cut.
    """

    info: str | None
    lines: tuple[str, ...]
    label: str
    closed: bool

    @property
    def language(self) -> str:
        words = re.split(r"[\s:,{]", (self.info or "").strip(), maxsplit=1)
        return words[0].lower()


def find_blocks(answer: str) -> list[Block]:
    """The blocks of an answer, in order. Line ends may be LF or CRLF."""
    lines = answer.replace("\r\n", "\n").split("\n")
    if lines[-1] == "":
        lines.pop()
    blocks: list[Block] = []
    i = floor = 0
    while i < len(lines):
        info: str | None = None
        indent = ""
        first = i
        if SEARCH.fullmatch(lines[i]):
            end, closed = _end_of_search(lines, i)
            after = end
        elif starts_diff(lines, i):
            end = after = _end_of_diff(lines, i)
            closed = True
        elif fence := _opening(lines[i]):
            indent, info, first = fence[1], fence[3], i + 1
            end, closed = _end_of_fence(lines, first, fence)
            after = end + 1
        else:
            i += 1
            continue
        content = tuple(_unindented(line, indent) for line in lines[first:end])
        blocks.append(Block(info, content, _label(lines, i, floor), closed))
        i = floor = max(after, i + 1)
    return blocks


def starts_diff(lines: "list[str] | tuple[str, ...]", i: int) -> bool:
    """Does a diff's header stand at line `i`?"""
    if lines[i].startswith("diff --git "):
        return True
    return lines[i].startswith("--- ") and i + 1 < len(lines) and lines[i + 1].startswith("+++ ")


def _opening(line: str) -> re.Match[str] | None:
    match = FENCE.fullmatch(line)
    return match if match and not (match[2][0] == "`" and "`" in match[3]) else None


def _end_of_fence(lines: list[str], i: int, fence: re.Match[str]) -> tuple[int, bool]:
    """Index of the line that closes the fence, and whether there is one."""
    mark, width = fence[2][0], len(fence[2])
    indent = len(fence[1].expandtabs(4))
    language = re.split(r"[\s:{]", fence[3].strip(), maxsplit=1)[0].lower()
    in_markdown = language in MARKDOWN or fence[3].strip().lower().endswith((".md", ".mdx", ".rst", '.md"'))
    is_diff = language in ("diff", "patch", "udiff")
    depth = 0
    while i < len(lines):
        if SEARCH.fullmatch(lines[i]):
            i, closed = _end_of_search(lines, i)
            if not closed:
                return i, False
            continue
        inner = FENCE.fullmatch(lines[i])
        i += 1
        if not inner or inner[2][0] != mark or len(inner[2]) < width or len(inner[1].expandtabs(4)) > indent:
            continue
        if inner[3].strip():
            depth += not is_diff and "`" not in inner[3]
        elif depth:
            depth -= 1
        elif in_markdown and i < len(lines) and lines[i].strip() and _closes_later(lines, i, inner):
            depth += 1
        else:
            return i - 1, True
    return len(lines), False


def _closes_later(lines: list[str], i: int, fence: re.Match[str]) -> bool:
    """Are there two more bare fences, one to close an inner block and one to close the outer?"""
    found = 0
    for k in range(i, len(lines)):
        found += lines[k].strip() == fence[2]
        if found == 2:
            return True
    return False


def _end_of_search(lines: list[str], i: int) -> tuple[int, bool]:
    """Index after the line that ends a search/replace block, and whether there is one."""
    for k in range(i + 1, len(lines)):
        if REPLACE.fullmatch(lines[k]):
            return k + 1, True
    return len(lines), False


def _end_of_diff(lines: list[str], i: int) -> int:
    """Index after the last line of a diff that stands outside of fences."""
    in_hunk = False
    end = i
    while i < len(lines):
        line = lines[i]
        if starts_diff(lines, i):
            in_hunk = False
            i += 1 if line.startswith("diff ") else 2
        elif line.startswith("@@"):
            in_hunk = True
            i += 1
        elif (in_hunk and line.startswith(HUNK_LINE)) or (not in_hunk and line.startswith(GIT_HEADERS + MORE_HEADERS)):
            i += 1
        elif in_hunk and not line and any(after.startswith(HUNK_LINE) for after in lines[i + 1 : i + 2]):
            i += 1  # an empty context line whose space was lost
            continue
        elif not line and i + 1 < len(lines) and starts_diff(lines, i + 1):
            i += 1
            continue
        else:
            break
        end = i
    return end


def _label(lines: list[str], i: int, floor: int) -> str:
    """The line before line `i`, over at most one blank line."""
    for k in (i - 1, i - 2):
        if k < floor:
            return ""
        if lines[k].strip():
            return lines[k]
    return ""


def _unindented(line: str, indent: str) -> str:
    if line.startswith(indent):
        return line[len(indent) :]
    return line.lstrip(" \t") if indent and not line[: len(indent)].strip() else line
