"""Markdown, line by line: which block a line belongs to, without looking back and without looking ahead.

The block structure is CommonMark's where it matters on a screen, and lenient where models are: a nested list may be
indented by two columns under ``1.``, a fence inside a list need not be indented at all once it is open. Each list item,
paragraph and line of code is a block of its own, so that it is final as soon as the next one begins. The text inside a
block is not looked at here.
"""

import re
from dataclasses import dataclass, replace
from enum import Enum, auto

MAX_DEPTH = 12  # of lists and of quotes; deeper ones are text
MAX_BLOCK = 8_000  # characters of a paragraph or table; a longer one is shown as it was written

FENCE = re.compile(r"(`{3,})([^`]*)$|(~{3,})(.*)$")
HEADING = re.compile(r"(#{1,6})(?:[ \t]+(.*?))??(?:[ \t]+#+)?[ \t]*$")
RULE = re.compile(r"(?:(?:\*[ \t]*){3,}|(?:-[ \t]*){3,}|(?:_[ \t]*){3,})$")
UNDERLINE = re.compile(r"(=+|-+)[ \t]*$")
ITEM = re.compile(r"(?:([-*+])|(\d{1,9})([.)]))(?:[ \t]+|$)")
QUOTE_BAR, BULLET = "▌ ", "• "


class Kind(Enum):
    TEXT = auto()  # a paragraph, an item's text, or a table
    HEADING = auto()  # text: `#`s, a space, the heading
    RULE = auto()
    FENCE_OPEN = auto()  # text: the info string
    CODE = auto()  # text: one line
    FENCE_CLOSE = auto()
    PLAIN = auto()  # text: one line, shown as it is


@dataclass(frozen=True)
class Block:
    """A piece that is complete.

    Attributes:
        first: what stands before its first row: a bullet, a number, the bar of a quote, or the space under them.
        rest: what stands before its other rows.
        gap: what stands on the empty row above it; None for no such row.
    """

    kind: Kind
    text: str
    first: str = ""
    rest: str = ""
    gap: str | None = None


@dataclass(frozen=True)
class Item:
    """A list item that is open. What belongs to it is indented by two columns more than its marker."""

    indent: int
    marker: str
    is_shown: bool = False


@dataclass(frozen=True)
class Fence:
    mark: str
    indent: int


class BlockScanner:
    """Lines in, blocks out. :meth:`copy` tells what the screen would be if the text ended here."""

    def __init__(self, depth: int = 0) -> None:
        self._depth = depth
        self._items: tuple[Item, ...] = ()
        self._leaf: tuple[str, ...] = ()  # the lines of the paragraph or table that is open
        self._leaf_size = 0
        self._is_plain = False  # it was too long and is shown as written
        self._fence: Fence | None = None
        self._quote: BlockScanner | None = None
        self._blank = False  # an empty line came since the last block
        self._begun = False

    def copy(self) -> "BlockScanner":
        other = BlockScanner(self._depth)
        vars(other).update(vars(self))
        other._quote = self._quote.copy() if self._quote else None
        return other

    @property
    def is_in_code(self) -> bool:
        return self._fence is not None or (self._quote is not None and self._quote.is_in_code)

    @property
    def is_in_text(self) -> bool:
        return bool(self._leaf) or self._is_plain or (self._quote is not None and self._quote.is_in_text)

    def line(self, line: str) -> list[Block]:
        """The blocks that are complete with this line (without its newline)."""
        if self._quote is not None:
            return self._line_in_quote(line)
        if self._fence is not None:
            return [self._line_in_fence(line, self._fence)]
        content = line.lstrip(" \t")
        if not content:
            closed = [*self._close_leaf(), *self._show_empty_item()]
            self._blank = True
            return closed
        indent = len(line[: len(line) - len(content)].expandtabs(4))
        return self._content(content, indent, line)

    def finish(self) -> list[Block]:
        """What is still open, as if the text ended here."""
        return [*self._close_quote(), *self._close_leaf(), *self._leave_items(0)]

    def interrupt(self) -> list[Block]:
        """End the text that is open, because a line comes that is too long to be looked at."""
        out = [*self._close_quote(), *self._close_leaf()]
        if self._blank and self._begun and self._fence is None:
            out.append(Block(Kind.PLAIN, ""))
        self._blank, self._begun = False, True
        return out

    def prefix(self) -> str:
        """What stands before a row that belongs to the innermost open list item."""
        return "".join(" " * len(item.marker) for item in self._items)

    def _content(self, content: str, indent: int, line: str) -> list[Block]:
        """A line outside of code and quotes, from its first character that is no space."""
        item = ITEM.match(content) if len(self._items) < MAX_DEPTH else None
        if self.is_in_text:
            if UNDERLINE.match(content) and self._leaf and indent >= self._inner_indent():
                text = " ".join(self._leaf)
                self._leaf, self._leaf_size = (), 0
                return [self._block(Kind.HEADING, f"{'#' if content[0] == '=' else '##'} {text}")]
            if not self._interrupts(content, item, indent):
                return self._continue_leaf(content)
        out = [*self._close_leaf(), *self._leave_items(indent)]
        if indent >= 4 and not self._items:
            return [*out, self._block(Kind.PLAIN, line.expandtabs(4))]
        if RULE.match(content):
            return [*out, self._block(Kind.RULE, "")]
        if item is not None:
            marker = BULLET if item[1] else f"{item[2]}{item[3]} "
            self._items = (*self._items, Item(indent, marker))
            rest = content[item.end() :]
            return [*out, *(self._content(rest, indent + item.end(), rest) if rest else ())]
        if heading := HEADING.match(content):
            return [*out, self._block(Kind.HEADING, f"{heading[1]} {heading[2] or ''}")]
        if fence := FENCE.match(content):
            self._fence = Fence(fence[1] or fence[3], indent)
            return [*out, self._block(Kind.FENCE_OPEN, (fence[2] or fence[4] or "").strip())]
        if content[0] == ">" and self._depth < MAX_DEPTH:
            self._quote = BlockScanner(self._depth + 1)
            return [*out, *self._line_in_quote(content)]
        return [*out, *self._continue_leaf(content)]

    def _interrupts(self, content: str, item: "re.Match[str] | None", indent: int) -> bool:
        """Does this line end the paragraph that is open?"""
        if indent >= 4 and not self._items:
            return False
        if item is not None and not RULE.match(content):
            # outside of a list, a number that is not 1 is most often a line that happens to begin so
            return bool(self._items) or (item.end() < len(content) and item[2] in (None, "1"))
        is_quote = content[0] == ">" and self._depth < MAX_DEPTH
        return is_quote or any(pattern.match(content) for pattern in (RULE, HEADING, FENCE))

    def _continue_leaf(self, content: str) -> list[Block]:
        if self._is_plain:
            return [self._block(Kind.PLAIN, content)]
        self._leaf = (*self._leaf, content)
        self._leaf_size += len(content) + 1
        if self._leaf_size <= MAX_BLOCK:
            return []
        lines, self._leaf, self._leaf_size, self._is_plain = self._leaf, (), 0, True
        return [self._block(Kind.PLAIN, line) for line in lines]

    def _close_leaf(self) -> list[Block]:
        lines, self._leaf, self._leaf_size, self._is_plain = self._leaf, (), 0, False
        return [self._block(Kind.TEXT, "\n".join(lines))] if lines else []

    def _inner_indent(self) -> int:
        """The indentation from which a line belongs to the innermost open item."""
        return self._items[-1].indent + 2 if self._items else 0

    def _leave_items(self, indent: int) -> list[Block]:
        """Close the items that a line of this indentation does not belong to."""
        out: list[Block] = []
        while self._items and indent < self._inner_indent():
            out += self._show_empty_item()
            self._items = self._items[:-1]
        return out

    def _show_empty_item(self) -> list[Block]:
        return [self._block(Kind.TEXT, "")] if self._items and not self._items[-1].is_shown else []

    def _line_in_fence(self, line: str, fence: Fence) -> Block:
        content = line.strip()
        if content.startswith(fence.mark) and not content.strip(fence.mark[0]):
            self._fence = None
            return self._block(Kind.FENCE_CLOSE, "")
        indent = len(line) - len(line.lstrip(" "))
        if content and indent < fence.indent:  # code that is not indented with its fence keeps its own indentation
            fence = self._fence = replace(fence, indent=indent)
        return self._block(Kind.CODE, line[min(indent, fence.indent) :])

    def _line_in_quote(self, line: str) -> list[Block]:
        assert self._quote is not None
        content = line.lstrip(" \t")
        if content.startswith(">"):
            return self._quoted(self._quote.line(content[1:].removeprefix(" ")))
        if content and self._quote.is_in_text and not self._interrupts(content, ITEM.match(content), 0):
            return self._quoted(self._quote.line(content))
        return [*self._close_quote(), *self.line(line)]

    def _close_quote(self) -> list[Block]:
        quote, self._quote = self._quote, None
        return self._quoted(quote.finish()) if quote else []

    def _quoted(self, blocks: list[Block]) -> list[Block]:
        out = []
        for block in blocks:
            outer = self._block(block.kind, block.text)
            gap = outer.gap if outer.gap is not None or block.gap is None else outer.rest + QUOTE_BAR + block.gap
            first, rest = outer.first + QUOTE_BAR + block.first, outer.rest + QUOTE_BAR + block.rest
            out.append(replace(outer, first=first, rest=rest, gap=gap))
        return out

    def _block(self, kind: Kind, text: str) -> Block:
        """A block at this place; the markers of its list items are shown with it, once."""
        rest = self.prefix()
        first = "".join(" " * len(item.marker) if item.is_shown else item.marker for item in self._items)
        gap = "" if self._blank and self._begun and kind is not Kind.CODE else None
        self._items = tuple(item if item.is_shown else replace(item, is_shown=True) for item in self._items)
        self._blank, self._begun = False, True
        return Block(kind, text, first, rest, gap)
