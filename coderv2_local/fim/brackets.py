"""Which brackets a text opens and closes, read piece by piece."""

import re
from dataclasses import dataclass, field

from coderv2_local.fim.syntax import UNKNOWN, Span, Syntax, heredoc

CLOSES = {")": "(", "]": "[", "}": "{"}
REGEX = re.compile(r"/(?![/*])(?:[^/\\\[\n]|\\.|\[(?:[^\]\\\n]|\\.)*\])+/")
NO_VALUE = re.compile(r"(?:^|[(,=:\[!&|?;~\n]|\b(?:return|when|if|unless|and|or|case|in|split))[ \t]*\Z")
BEFORE_REGEX = 12  # characters that say whether a value stands before a `/`


@dataclass
class Brackets:
    """Reads text piece by piece and keeps what is open. Brackets within comments and strings do not count.

    A quotation mark that is not closed on its line is an apostrophe, unless its strings may run over lines or the text
    ends there.

    Attributes:
        syntax: what hides brackets in this language.
        open: brackets that wait for their closing one, outermost first, each with the offset it stands at.
        unmatched: closing brackets, with their offsets, that nothing here had opened.
        inside: the comment or string that is open, and the offset it began at.
        awaited: the word that ends a string which begins with the next line.
        no_regex: on the line that ends here, a ``/`` began no regular expression: the others there are not tried.
    """

    syntax: Syntax = UNKNOWN
    open: list[tuple[str, int]] = field(default_factory=list)
    unmatched: list[tuple[str, int]] = field(default_factory=list)
    inside: Span | None = None
    since: int = 0
    awaited: str = ""
    no_regex: int = -1

    def read(self, text: str, offset: int = 0, at: int = 0) -> None:
        """Read on from `text[at]`.

        Pass whole lines: no mark may be split over calls. What stands before `at` on its line may tell what follows.

        Args:
            offset: where the first character of `text` stands.
        """
        mark = self.syntax.mark
        self.no_regex = -1
        while at < len(text):
            if self.inside:
                match = self.inside.end.match(text, at)
                if not match or not match[1]:
                    return  # open to the end
                if match[1] != "\n":
                    at = match.end()
                elif not self.inside.is_string:
                    at = match.end() - 1
                self.inside = None
                continue
            starts = self.syntax.starts_awaiting if self.awaited else self.syntax.starts
            start = starts.search(text, at)
            if start is None:
                return
            match = mark.match(text, start.start())
            at = self._take(match, text, offset) if match else start.end()

    def _take(self, match: re.Match[str], text: str, offset: int) -> int:
        """Take one mark in; where to read on."""
        kind, start, end = match.lastgroup, match.start(), match.end()
        if kind == "brackets":
            for at, bracket in enumerate(match[0], offset + start):
                self._bracket(bracket, at)
        elif kind == "slash":
            return self._slash(text, start)
        elif kind == "heredoc":
            self.awaited = match[kind]
        elif kind == "newline":
            if self.awaited:
                self.inside, self.awaited = heredoc(self.awaited), ""
        elif kind:
            self.inside, self.since = self.syntax.spans[int(kind[1:])], offset + start
        return end

    def _slash(self, text: str, start: int) -> int:
        """Behind the regular expression that a ``/`` begins; behind the ``/`` where it begins none."""
        if start >= self.no_regex and NO_VALUE.search(text[max(start - BEFORE_REGEX, 0) : start]):
            if regex := REGEX.match(text, start):
                return regex.end()
            end = text.find("\n", start)
            self.no_regex = end if end >= 0 else len(text)
        return start + 1

    def _bracket(self, mark: str, at: int) -> None:
        if mark in "([{":
            self.open.append((mark, at))
        elif self.open and self.open[-1][0] == CLOSES[mark]:
            self.open.pop()
        else:
            self.unmatched.append((mark, at))

    @property
    def is_within_text(self) -> bool:
        """Is a comment or string open that may run over lines?"""
        return self.inside is not None and self.inside.is_long

    @property
    def is_within_comment(self) -> bool:
        """Is a comment open?"""
        return self.inside is not None and not self.inside.is_string

    def goes_on(self) -> "Brackets":
        """A reader for what follows: in the same comment or string, without a bracket yet."""
        return Brackets(self.syntax, inside=self.inside, awaited=self.awaited)
