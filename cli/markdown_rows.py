"""A block of Markdown → rows for a terminal."""

import copy
from collections.abc import Iterable, Sequence
from functools import cache
from typing import TYPE_CHECKING

from rich.color import ColorSystem
from rich.console import Console
from rich.style import Style

from cli.highlight import PLAIN, CodeLines
from cli.markdown_blocks import Block, Kind
from cli.wrapping import Run, cells, fold, wrap_runs
from coderv2_local.stream import printable

if TYPE_CHECKING:
    from markdown_it import MarkdownIt
    from markdown_it.token import Token

MARKER = Style.parse("blue")
DIM = Style.parse("dim")
INLINE_CODE = Style.parse("cyan")
LINK = Style.parse("underline")
SPANS = {
    "strong_open": Style.parse("bold"), "em_open": Style.parse("italic"), "s_open": Style.parse("strike"),
    "link_open": LINK,
}  # fmt: skip
HEADINGS = {1: Style.parse("bold underline"), 2: Style.parse("bold"), 3: Style.parse("bold italic")}
LONGEST_RULE = 40
NARROWEST_COLUMN = 4  # cells a table's column must be able to have
WRAPPED_LINE = 60  # cells; a longer line was broken for its width, and is joined with the next
TAB = 4
COLOR_SYSTEMS = {
    "standard": ColorSystem.STANDARD,
    "256": ColorSystem.EIGHT_BIT,
    "windows": ColorSystem.WINDOWS,
}


class Painter:
    """Styled text as the terminal's escape sequences, in the colours it has."""

    def __init__(self, console: Console) -> None:
        name = console.color_system
        self.console = console
        self._colors = COLOR_SYSTEMS.get(name or "", ColorSystem.TRUECOLOR)
        self._has_color = name is not None and not console.no_color

    def paint(self, runs: Iterable[Run]) -> str:
        out = []
        for text, style in runs:
            visible = style if self._has_color else style.without_color
            out.append(visible.render(text, color_system=self._colors))
        return "".join(out)


class RowRenderer:
    """Blocks in, rows out. Holds what a code block needs from one line to the next."""

    def __init__(self, console: Console) -> None:
        self._painter = Painter(console)
        _parser()  # takes a while to load: now, not in the middle of an answer
        self._code: CodeLines | None = None
        self._code_prefix = ""

    def copy(self) -> "RowRenderer":
        other = copy.copy(self)
        other._code = self._code.copy() if self._code else None
        return other

    def rows(self, blocks: Iterable[Block], width: int, *, folded: bool = False) -> list[str]:
        """Rows of these blocks.

        Args:
            width: columns of the terminal.
            folded: break lines of code too, which else are left to the terminal, so that copying gives whole lines.
        """
        out: list[str] = []
        for block in blocks:
            if block.gap is not None:
                out.append(self._painter.paint([(block.gap.rstrip(), MARKER)]) if block.gap.strip() else "")
            out.extend(self._block(block, width, folded))
        return out

    def finish(self, width: int, *, folded: bool = False) -> list[str]:
        """Lines of code that were held back: a comment or string in them was never closed."""
        lines = self._code.finish() if self._code else []
        return self._code_rows(lines, self._code_prefix, width, folded)

    def _block(self, block: Block, width: int, folded: bool) -> list[str]:
        first, rest = (prefix[-(width // 2) :] for prefix in (block.first, block.rest))
        room = max(1, width - cells(rest))
        if self._code is not None and block.kind is Kind.CODE:
            self._code_prefix = rest
            return self._code_rows(self._code.add(block.text), rest, width, folded)
        held: list[str] = []
        if self._code is not None:
            held, self._code = self.finish(width, folded=folded), None
        if block.kind is Kind.FENCE_OPEN:
            self._code = CodeLines(block.text)
            lines = [[(part, DIM)] for part in fold("```" + block.text, room)]
        elif block.kind is Kind.FENCE_CLOSE:
            lines = [[("```", DIM)]]
        elif block.kind is Kind.RULE:
            lines = [[("─" * min(room, LONGEST_RULE), DIM)]]
        elif block.kind is Kind.HEADING:
            marks, _, text = block.text.partition(" ")
            lines = wrap_runs(inline_runs(text, HEADINGS.get(len(marks), HEADINGS[3])), room)
        elif block.kind is Kind.TEXT:
            lines = self._text(block.text, room)
        else:
            lines = [[(row, PLAIN)] for row in fold(block.text.expandtabs(TAB), room)]
        return held + [
            self._painter.paint([(rest if number else first, MARKER), *line]) for number, line in enumerate(lines)
        ]

    def _text(self, text: str, width: int) -> list[list[Run]]:
        """A paragraph, a table, or both, one after the other."""
        if "|" not in text:
            return wrap_runs(inline_runs(text, PLAIN), width)
        out: list[list[Run]] = []
        tokens = _parse(text)
        if tokens is None:
            return _as_written(text, width)
        at = 0
        while at < len(tokens):
            if tokens[at].type == "table_open":
                end = next(i for i in range(at, len(tokens)) if tokens[i].type == "table_close")
                out.extend(self._table(tokens[at:end], text, width))
                at = end
            elif tokens[at].type == "inline":
                out.extend(wrap_runs(runs_of(tokens[at], PLAIN), width))
            at += 1
        return out

    def _table(self, tokens: "Sequence[Token]", text: str, width: int) -> list[list[Run]]:
        from rich import box
        from rich.table import Table
        from rich.text import Text

        rows: list[list[Text]] = []
        justify = []
        for token, before in zip(tokens[1:], tokens, strict=False):
            if token.type == "tr_open":
                rows.append([])
            elif token.type == "inline":
                style = HEADINGS[2] if before.type == "th_open" else PLAIN
                rows[-1].append(Text.assemble(*runs_of(token, style)))
                if before.type == "th_open":
                    justify.append(str(before.attrs.get("style", "")).removeprefix("text-align:") or "left")
        if len(rows[0]) * NARROWEST_COLUMN > width:
            return _as_written(text, width)
        table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, border_style=DIM)
        for heading, side in zip(rows[0], justify, strict=True):
            table.add_column(heading, justify=side, overflow="fold")  # type: ignore[arg-type]
        for row in rows[1:]:
            table.add_row(*row)
        console = self._painter.console
        lines = console.render_lines(table, console.options.update(width=width, height=None), pad=False)
        return [_trimmed([(segment.text, segment.style or PLAIN) for segment in line]) for line in lines]

    def _code_rows(self, lines: list[list[Run]], prefix: str, width: int, folded: bool) -> list[str]:
        out: list[str] = []
        for line in lines:
            runs = _expand_tabs(line)
            if folded:
                out.extend(
                    self._painter.paint([(prefix, MARKER), *row]) for row in _fold_runs(runs, width - cells(prefix))
                )
            else:
                out.append(self._painter.paint([(prefix, MARKER), *runs]))
        return out


def inline_runs(text: str, style: Style) -> list[Run]:
    """The text of one paragraph or heading with its emphasis, code and links."""
    try:
        tokens = _parser().parseInline(text)
    except RecursionError:
        return [(text, style)]
    return runs_of(tokens[0], style)


def runs_of(inline: "Token", style: Style) -> list[Run]:
    """Styled text of an inline token. Character references may have brought control characters: they are dropped."""
    runs: list[Run] = []
    styles = [style]
    links: list[tuple[str, int]] = []  # destination, and the run it began at
    for token in inline.children or ():
        if token.type in SPANS:
            styles.append(styles[-1] + SPANS[token.type])
            if token.type == "link_open":
                links.append((str(token.attrs.get("href", "")), len(runs)))
        elif token.type.endswith("_close"):
            styles.pop()
            if token.type == "link_close":
                href, begin = links.pop()
                if href.removeprefix("mailto:") != "".join(text for text, _ in runs[begin:]):
                    runs.append((f" ({href})", styles[-1] + DIM))
        elif token.type == "hardbreak" or (token.type == "softbreak" and _last_line_length(runs) < WRAPPED_LINE):
            runs.append(("\n", styles[-1]))  # a short line was ended on purpose
        elif token.type == "softbreak":
            runs.append((" ", styles[-1]))
        elif token.type == "code_inline":
            runs.append((token.content, styles[-1] + INLINE_CODE))
        elif token.type == "image":
            runs.append((f"{token.content} ({token.attrs.get('src', '')})", styles[-1]))
        else:
            runs.append((token.content, styles[-1]))
    return [(printable(text).expandtabs(TAB), run_style) for text, run_style in runs]


def _last_line_length(runs: Sequence[Run]) -> int:
    """Cells since the last newline, as far as it matters."""
    length = 0
    for text, _ in reversed(runs):
        length += cells(text)
        if text == "\n" or length >= WRAPPED_LINE:
            break
    return length


def _parse(text: str) -> "list[Token] | None":
    try:
        return _parser().parse(text)
    except RecursionError:
        return None


@cache
def _parser() -> "MarkdownIt":
    """Inline Markdown and tables; the other blocks are found line by line, and HTML is text."""
    from markdown_it import MarkdownIt

    blocks = ["table", "paragraph"]
    inline = [
        "text",
        "newline",
        "escape",
        "backticks",
        "strikethrough",
        "emphasis",
        "link",
        "image",
        "autolink",
        "entity",
    ]
    second = ["balance_pairs", "strikethrough", "emphasis", "fragments_join"]
    parser = MarkdownIt("zero", {"html": False, "linkify": False})
    parser.block.ruler.enableOnly(blocks)
    parser.inline.ruler.enableOnly(inline)
    parser.inline.ruler2.enableOnly(second)
    return parser


def _as_written(text: str, width: int) -> list[list[Run]]:
    return [[(row, PLAIN)] for line in text.split("\n") for row in fold(line, width)]


def _trimmed(runs: list[Run]) -> list[Run]:
    while runs and not runs[-1][0].strip(" "):
        runs.pop()
    return [*runs[:-1], (runs[-1][0].rstrip(" "), runs[-1][1])] if runs else runs


def _expand_tabs(runs: list[Run]) -> list[Run]:
    """Tabs as spaces up to the next stop, counted in characters over the whole line."""
    if not any("\t" in text for text, _ in runs):
        return runs
    out: list[Run] = []
    column = 0
    for text, style in runs:
        parts = text.split("\t")
        for i, part in enumerate(parts):
            column += len(part)
            gap = TAB - column % TAB if i < len(parts) - 1 else 0
            column += gap
            out.append((part + " " * gap, style))
    return out


def _fold_runs(runs: list[Run], width: int) -> list[list[Run]]:
    """Styled text in rows filled to the last cell."""
    text = "".join(part for part, _ in runs)
    if cells(text) <= width:
        return [runs]
    characters = [(c, style) for part, style in runs for c in part]
    rows, at = [], 0
    for row in fold(text, max(1, width)):
        rows.append(characters[at : at + len(row)])
        at += len(row)
    return rows
