"""Code as it streams: each line is coloured once, with what the lexer knew at the end of the line before.

What one regular expression matches over several lines (a ``/* comment */``) is found by a trial: would the line look
otherwise if a ``*/`` came later? Such lines are held until the end has come.
"""

import copy
import re
from typing import Any

from pygments.token import Token
from rich.style import Style

from cli.code_lexers import State, TokenSequence, lexer_for
from cli.wrapping import Run, split_lines

MAX_HELD_LINES = 200  # an opener that nothing closes holds no more than this …
MAX_HELD_CHARACTERS = 8_000
MAX_LINE = 1_000  # longer lines are data, or minified: not coloured

# What may span lines: how it begins and ends.
PAIRS = (
    ("/*", "*/"), ("<!--", "-->"), ('"""', '"""'), ("'''", "'''"), ("{-", "-}"), ("(*", "*)"), ("[[", "]]"),
    ("#|", "|#"), ("#=", "=#"), ("%{", "%}"), ("<#", "#>"), ("/+", "+/"), ("[=", "=]"), ("/-", "-/"),
    ("=begin", "\n=end"), ("```", "```"), ('"', '"'), ("'", "'"), ("`", "`"),
)  # fmt: skip
RAW_STRING = re.compile(r'R"(\w*)\(')  # C++
HEREDOC = re.compile(r"<<[-~]?\s*['\"]?([A-Za-z_]\w*)")
EMBEDDED = re.compile(r"<(script|style)\b[^>]*>(?!.*</\1)[^<]*$", re.IGNORECASE)

PLAIN = Style.null()
# The terminal's own colours, those that can be read on dark and on light ground.
STYLES = {
    Token.Comment: "dim italic",
    Token.Comment.Preproc: "magenta",
    Token.Keyword: "magenta",
    Token.Keyword.Constant: "cyan",
    Token.Operator.Word: "magenta",
    Token.Literal: "cyan",
    Token.Literal.String: "green",
    Token.Literal.String.Escape: "cyan",
    Token.Literal.String.Interpol: "cyan",
    Token.Name.Function: "blue",
    Token.Name.Class: "bold blue",
    Token.Name.Builtin: "cyan",
    Token.Name.Builtin.Pseudo: "none",
    Token.Name.Decorator: "yellow",
    Token.Name.Tag: "magenta",
    Token.Name.Attribute: "cyan",
    Token.Generic.Deleted: "red",
    Token.Generic.Inserted: "green",
    Token.Generic.Heading: "bold",
    Token.Generic.Subheading: "cyan",
    Token.Generic.Prompt: "dim",
    Token.Generic.Strong: "bold",
    Token.Generic.Emph: "italic",
}


class CodeLines:
    """The lines of one code block.

    Args:
        info: the block's info string; a language that is not known, or has no lexer, is not coloured.
    """

    def __init__(self, info: str) -> None:
        self._lexer = lexer_for(info)
        self._state: State = None
        self._begun = False
        self._held: list[str] = []
        self._held_size = 0
        self._awaited: str | None = None  # what would close the comment or string that the held lines are in
        self._inner: CodeLines | None = None  # of a <script> or <style>
        self._inner_end = ""

    def copy(self) -> "CodeLines":
        other = copy.copy(self)
        other._held = list(self._held)
        other._inner = self._inner.copy() if self._inner else None
        return other

    def add(self, line: str) -> list[list[Run]]:
        """The runs of each line that is certain now: `line` and those held before it, or none."""
        if self._inner is not None:
            if self._inner_end not in line.lower():
                return self._inner.add(line)
            closing, self._inner = self._inner.finish(), None
            return [*closing, *self.add(line)]
        if self._lexer is None or len(line) > MAX_LINE:
            return [*self.finish(), [(line, PLAIN)] if line else []]
        if not self._begun:
            self._state, self._begun = self._lexer.first_state(line), True
        self._held.append(line)
        self._held_size += len(line) + 1
        is_full = len(self._held) >= MAX_HELD_LINES or self._held_size > MAX_HELD_CHARACTERS
        if self._awaited is not None and self._awaited not in line and not is_full:
            return []
        text = "\n".join(self._held) + "\n"
        tokens, after = self._lexer.lex(text, self._state)
        self._awaited = None if is_full else self._find_open(text, tokens)
        if self._awaited is not None:
            return []
        self._state = after
        if self._lexer.embeds and (tag := EMBEDDED.search(line)):
            self._inner = CodeLines("javascript" if tag[1].lower() == "script" else "css")
            self._inner_end = f"</{tag[1].lower()}"
        return self._release(tokens)

    def finish(self) -> list[list[Run]]:
        """The lines still held. What they are in was never closed: they look as if it ended here."""
        if self._inner is not None:
            return self._inner.finish()
        if not self._held or self._lexer is None:
            return []
        tokens, self._state = self._lexer.lex("\n".join([*self._held, self._awaited or ""]) + "\n", self._state)
        self._awaited = None
        return self._release(tokens)

    def _release(self, tokens: TokenSequence) -> list[list[Run]]:
        lines = list(split_lines([(text, style_of(kind)) for _, kind, text in tokens]))[: len(self._held)]
        if len(lines) < len(self._held):  # a lexer that dropped something
            lines = [[(line, PLAIN)] for line in self._held]
        self._held = []
        self._held_size = 0
        return lines

    def _find_open(self, text: str, tokens: TokenSequence) -> str | None:
        """What would change the look of `text` if it came later; None when nothing known would."""
        assert self._lexer is not None
        pairs = PAIRS if self._lexer.keeps_state else (*PAIRS, ("{", "}"))
        ends = [end for begin, end in pairs if begin in text]
        for end in [f'){word}"' for word in RAW_STRING.findall(text)] + ends:
            if self._differ(tokens, f"{text}{end}\n"):
                return end.strip()
        for word in dict.fromkeys(HEREDOC.findall(text)):
            unclosed, _ = self._lexer.lex(f"{text}x 1\n", self._state)
            if self._differ(unclosed, f"{text}x 1\n{word}\n"):
                return str(word)
        return None

    def _differ(self, tokens: TokenSequence, closed: str) -> bool:
        assert self._lexer is not None
        return any(a != b for a, b in zip(tokens, self._lexer.lex(closed, self._state)[0], strict=False))


def style_of(kind: Any) -> Style:
    """The style of a token: its own or that of its nearest ancestor."""
    style = _known_styles.get(kind)
    if style is None:
        ancestor = kind
        while ancestor is not None and ancestor not in STYLES:
            ancestor = ancestor.parent
        style = _known_styles[kind] = Style.parse(STYLES[ancestor]) if ancestor is not None else PLAIN
    return style


_known_styles: dict[Any, Style] = {}
