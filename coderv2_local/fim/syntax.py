"""What tells code from comments and strings, by language, as far as brackets and indentation have to know it."""

import re
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import PurePath

from coderv2_local.fim.comments import mark_of

LOOKS = re.compile(r"\(\?<?[!=][^)]*\)")
"""A look around in a regular expression."""


@dataclass(frozen=True)
class Span:
    """A comment or a string.

    Attributes:
        opening: a regular expression for the mark it begins with.
        end: matches from behind that mark; its group 1 is where it ends, and missing where it does not.
        is_string: of a comment False.
        is_long: may it run over lines?
    """

    opening: str
    end: re.Pattern[str]
    is_string: bool
    is_long: bool


def _until(closing: str, *, escapes: bool = False) -> re.Pattern[str]:
    """Text up to `closing`, each character looked at once; a backslash may take the next character's meaning."""
    first, rest = re.escape(closing[0]), re.escape(closing[1:])
    other, escaped = (rf"[^{first}\\]*", r"\\.|") if escapes else (rf"[^{first}]*", "")
    return re.compile(rf"{other}(?:(?:{escaped}{first}(?!{rest})){other})*({re.escape(closing)})?", re.S)


def _line_comment(*openings: str) -> tuple[Span, ...]:
    return tuple(Span(opening, re.compile(r"[^\n]*(\n)?"), False, False) for opening in openings)


def _comment(opening: str, closing: str, *, before: str = "") -> Span:
    return Span(before + re.escape(opening), _until(closing), False, True)


def _long(*marks: str) -> tuple[Span, ...]:
    """Strings over lines, between two marks that are the same."""
    return tuple(Span(re.escape(mark), _until(mark, escapes=True), True, True) for mark in marks)


def _quoted(*marks: str) -> tuple[Span, ...]:
    """Strings that end on their line."""
    ends = (re.compile(rf"[^\\{mark}\n]*(?:\\.[^\\{mark}\n]*)*({mark}|\n)?", re.S) for mark in marks)
    return tuple(Span(mark, end, True, False) for mark, end in zip(marks, ends, strict=True))


@lru_cache(maxsize=16)
def heredoc(word: str) -> Span:
    """A string of whole lines, up to a line that begins with `word`."""
    return Span("", re.compile(rf".*?(^[ \t]*{word}\b)", re.S | re.M), True, True)


@dataclass(frozen=True)
class Syntax:
    """Of a language, what hides brackets.

    Attributes:
        spans: comments and strings; where two could begin, the first one does.
        brackets: those that stand in pairs.
        skips: regular expressions of what is passed over whole, such as characters in quotes.
        has_regexes: does ``/`` begin a regular expression where no value stands before it?
        heredocs: what begins a string on the next line, as a regular expression with the group ``heredoc`` for the word
            that ends it; "" where the language has none.
        has_labels: may a line end in ``:`` and be indented less than the block that it is in, as ``private:`` is?
    """

    spans: tuple[Span, ...]
    brackets: str = "()[]{}"
    skips: tuple[str, ...] = ()
    has_regexes: bool = False
    heredocs: str = ""
    has_labels: bool = False

    @cached_property
    def mark(self) -> re.Pattern[str]:
        """All that has to be looked at. The group that matched says what it is; a span's is ``s`` and its number."""
        parts = [r"\\.", *self.skips, *(f"(?P<s{n}>{span.opening})" for n, span in enumerate(self.spans))]
        if self.heredocs:
            parts += [self.heredocs, r"(?P<newline>\n)"]
        if self.has_regexes:
            parts.append("(?P<slash>/)")
        if self.brackets:
            parts.append(f"(?P<brackets>[{re.escape(self.brackets)}]+)")
        return re.compile("|".join(parts), re.S)

    @cached_property
    def starts(self) -> re.Pattern[str]:
        """Finds the characters that a mark can begin with, and a few more, much faster than marks are found."""
        return re.compile(f"[{re.escape(self.mark_characters.decode())}]")

    @cached_property
    def starts_awaiting(self) -> re.Pattern[str]:
        """The same on a line after which a heredoc begins: its end counts, too."""
        return re.compile(f"[{re.escape(self.mark_characters.decode())}\n]")

    @cached_property
    def mark_characters(self) -> bytes:
        """The characters that a mark can begin with, and a few more, all ASCII; line ends are left out."""
        openings = "".join(LOOKS.sub("", span.opening).replace("\\", "") for span in self.spans)
        more = "".join(skip.lstrip("\\")[0] for skip in self.skips) + "<" * bool(self.heredocs) + "/" * self.has_regexes
        return "".join(sorted(set(openings + more + self.brackets + "\\"))).encode()


BLOCK = _comment("/*", "*/")
CHARACTER = r"'(?:\\[^'\n]{1,10}|[^'\\\n])'"  # a lone ' begins no string there: a lifetime, a type, a digit group
HASH = _line_comment(r"(?<!\S)#")
SLASHES = _line_comment("(?<!:)//")  # a URL's are none
RUBY_HEREDOC = r"(?<![\w)\]}<])<<[-~]?[\"'`]?(?P<heredoc>[A-Z_]\w*)[\"'`]?"  # behind a value << shifts or appends
PHP_HEREDOC = r"<<<[ \t]*[\"']?(?P<heredoc>[^\W\d]\w*)[\"']?"
SHELL_HEREDOC = r"<<<|<<-?[ \t]*[\"'\\]?(?P<heredoc>[^\W\d]\w*)[\"']?"  # three begin a string on the same line
ARITHMETIC = r"\((?<=\(\()(?:[^()\n]|\((?:[^()\n]|\([^()\n]*\))*\)){0,100}\)\)"  # of a shell, where << shifts
BY_MARK = {
    "#": Syntax((*HASH, *_long('"""', "'''"), *_quoted('"', "'"))),
    "//": Syntax((*SLASHES, BLOCK, *_long('"""'), *_quoted('"')), skips=(CHARACTER,), has_labels=True),
    "--": Syntax((*_line_comment("--"), *_quoted('"')), skips=(CHARACTER,)),
    ";": Syntax((*_line_comment(";"), _comment("#|", "|#"), *_long('"'))),
    "%": Syntax((*_line_comment("%"), *_quoted('"', "'"))),
    "!": Syntax((*_line_comment("!"), *_quoted('"', "'"))),
    "'": Syntax((*_line_comment("'"), *_quoted('"'))),
    '"': Syntax((*_line_comment(r'(?<![^\n])"', r'(?<=\n  )"', r'(?<=\n    )"', r'(?<=\n\t)"'), *_quoted('"', "'"))),
    "/* */": Syntax((BLOCK, *_line_comment("(?<![:(])//"), *_quoted('"', "'"))),  # nor are those of `url(//…)`
    "<!-- -->": Syntax((_comment("<!--", "-->"), *_quoted('"'))),
    "(* *)": Syntax((_comment("(*", "*)"), *SLASHES, *_quoted('"')), skips=(CHARACTER,)),
}
PROSE = Syntax((), brackets="")
PLAIN = Syntax(())
"""Nothing hides a bracket."""
PYTHON = Syntax((*_line_comment("#"), *_long('"""', "'''"), *_quoted('"', "'")))
SCRIPT = Syntax((*SLASHES, BLOCK, *_long("`"), *_quoted('"', "'")), has_regexes=True, has_labels=True)
RUBY = Syntax((*HASH, *_long('"', "'")), has_regexes=True, heredocs=RUBY_HEREDOC)
# a branch of `case` closes a round bracket that nothing opened
SHELL = Syntax(RUBY.spans, brackets="[]{}", skips=(ARITHMETIC,), heredocs=SHELL_HEREDOC)
HASKELL = Syntax((_comment("{-", "-}"), *_line_comment("--"), *_quoted('"')), skips=(CHARACTER,))
SPECIAL = {
    "md markdown rst txt text adoc org tex bib sty cls": PROSE,
    "py pyi pyx": PYTHON,
    "js jsx mjs cjs ts tsx mts cts json5 jsonc": SCRIPT,
    "html htm vue svelte": replace(SCRIPT, spans=(_comment("<!--", "-->"), *SCRIPT.spans), has_labels=False),
    "css": Syntax((BLOCK, *_quoted('"', "'"))),
    "fs": replace(BY_MARK["//"], has_labels=False),
    "go": replace(BY_MARK["//"], spans=(*BY_MARK["//"].spans, Span("`", _until("`"), True, True))),
    "rs": Syntax((*SLASHES, BLOCK, *_long('"')), skips=(CHARACTER,)),
    "dart groovy gradle": Syntax((*SLASHES, BLOCK, *_long('"""', "'''"), *_quoted('"', "'")), has_labels=True),
    "php": Syntax((*SLASHES, *HASH, BLOCK, *_long('"', "'")), heredocs=PHP_HEREDOC, has_labels=True),
    "rb pl pm": RUBY,
    "sh bash zsh ksh": SHELL,
    "sql": Syntax((*_line_comment("--"), BLOCK, *_long("'"), *_quoted('"'))),
    "lua": Syntax(
        (_comment("--[[", "]]"), *_line_comment("--"), Span(r"\[\[", _until("]]"), True, True), *_quoted('"', "'"))
    ),
    "hs lhs elm purs idr agda": HASKELL,
    "ini asm s": Syntax((*_line_comment("[;#]"), *_quoted('"'))),
    "pas": Syntax((_comment("(*", "*)"), _comment("{", "}"), *SLASHES, *_quoted("'")), brackets="()[]"),
}
BY_ENDING = {ending: syntax for endings, syntax in SPECIAL.items() for ending in endings.split()}
UNKNOWN = Syntax(
    (
        *_line_comment(r"(?<!\S)#", r"(?<!\S)//", r"(?<!\S)--(?=\s)"),
        _comment("/*", "*/", before=r"(?<![\w*])"),
        *_long('"""', "'''"),
        *_quoted('"', "'"),
    ),
    has_regexes=True,
)
"""Where the language is not known: what begins a comment in most."""


def syntax_of(name: str, text: str = "") -> Syntax:
    """The syntax of a file by its name, and where that has no ending, by the text near the hole."""
    ending = PurePath(name).suffix.lower().lstrip(".")
    if ending in BY_ENDING:
        return BY_ENDING[ending]
    if mark := mark_of(name):
        return BY_MARK[mark]
    if text.startswith("#!") and "python" in text.split("\n", 1)[0]:
        return PYTHON
    is_shell = text.startswith("#!") and "sh" in text.split("\n", 1)[0]
    return SHELL if not ending and (is_shell or "esac" in text) else UNKNOWN
