"""GBNF grammars, checked before llama.cpp sees them.

llama.cpp prints its opinion of a grammar that does not parse to stderr, loops for ever over a `{3,2}` and over a left
recursion that hides behind a rule which may be empty, and overflows the stack on deep nesting. So the text is read
here first, by the same rules (llama.cpp's grammars/README.md), and refused with its line. Elements that name a token
(`<think>`) are refused too: inside a longer token llama.cpp's two readings of them differ, and that ends the process.
"""

import re
from functools import lru_cache

from coderv2_local.sampling.gbnf_readings import (
    ANY,
    Interval,
    Item,
    TooManyReadings,
    look_for_many_readings,
    outside,
)
from quant.errors import InputError

ROOT = "root"
MAX_LENGTH = 200_000  # characters
MAX_NESTING = 100  # parentheses inside parentheses
MAX_REPETITIONS = 2000  # llama.cpp's own bound, for one repetition and for the rules that it is expanded into
MAX_SYMBOLS = 4000  # rules, with those that groups and repetitions are expanded into
MAX_ELEMENTS = 1_000_000  # characters and references after expansion

_ESCAPES = {"t": "\t", "n": "\n", "r": "\r"}
_BLANK = re.compile(r"(?:[ \t]|#[^\r\n]*)*")
_BLANK_LINES = re.compile(r"(?:[ \t\r\n]|#[^\r\n]*)*")
_NAME = re.compile(r"[a-zA-Z0-9-]+")
_CHARACTER = re.compile(r'\\(?:x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8}|[tnr\\"\[\]-])|[^\\]', re.DOTALL)
_BRACES = re.compile(
    r"\{(?:[ \t]|#[^\r\n]*)*(\d+)(?:[ \t]|#[^\r\n]*)*(?:(,)(?:[ \t]|#[^\r\n]*)*(\d+)?(?:[ \t]|#[^\r\n]*)*)?\}"
)


@lru_cache(maxsize=16)
def check_grammar(text: str) -> None:
    """Refuse a grammar that llama.cpp could not use, or not in time.

    Raises:
        InputError: it does not parse, names a rule that is not there, has no `root`, is left-recursive, too large, or
            leaves too many readings of a text open.
    """
    if len(text) > MAX_LENGTH:
        raise InputError(f"the grammar has {len(text)} characters: at most {MAX_LENGTH} are read")
    if "\0" in text or any("\ud800" <= c <= "\udfff" for c in text):
        raise InputError("the grammar holds characters that are no text", hint="write them as `\\x00` or `\\u…`")
    rules = _Reader(text).rules()
    if ROOT not in rules:
        raise InputError(f"the grammar has no rule `{ROOT}`", hint=f"the whole answer is what `{ROOT} ::= …` says")
    if loop := _left_recursive(rules):
        raise InputError(f"the grammar's rule `{loop}` begins with itself", hint="put something before it that is read")
    try:
        look_for_many_readings(rules)
    except TooManyReadings:
        raise InputError(
            "the grammar leaves too many readings of one text open",
            hint="repeat nothing that may be empty, and let alternatives begin with different characters",
        ) from None


class _Reader:
    """A position in the text, moved by the methods that read."""

    def __init__(self, text: str) -> None:
        self.text, self.at, self.nesting, self.elements = text, 0, 0, 0
        self.names: dict[str, int] = {}  # rule → where it was first named
        self.generated = 0

    def rules(self) -> "dict[str, list[list[Item]]]":
        found = {}
        self.skip(_BLANK_LINES)
        while self.at < len(self.text):
            name = self.name()
            self.skip(_BLANK)
            self.expect("::=")
            self.skip(_BLANK_LINES)
            found[name] = self.alternatives(_BLANK)
            if self.at < len(self.text) and self.text[self.at] not in "\r\n":
                raise self.error("the end of the line was expected")
            self.skip(_BLANK_LINES)
        for name, at in self.names.items():
            if name not in found:
                self.at = at
                raise self.error(f"there is no rule `{name}`")
        return found

    def alternatives(self, blank: re.Pattern[str]) -> list[list[Item]]:
        found = [self.sequence(blank)]
        while self.next("|"):
            self.skip(_BLANK_LINES)
            found.append(self.sequence(blank))
        return found

    def sequence(self, blank: re.Pattern[str]) -> list[Item]:
        items: list[Item] = []
        while self.at < len(self.text):
            c = self.text[self.at]
            if c == '"':
                items.append(self.characters('"'))
            elif c == "[":
                items.append(self.characters("]"))
            elif c == ".":
                self.at += 1
                items.append(Item(1, characters=(ANY,)))
            elif c == "(":
                items.append(self.group())
            elif c in "*+?{":
                self.repeat(items)
            elif c in "<!":
                raise self.error("elements that name a token are not supported")
            elif _NAME.match(c):
                items.append(Item(1, reference=self.name()))
            else:
                break
            self.count(items[-1].elements)
            self.skip(blank)
        return items

    def characters(self, end: str) -> Item:
        """A literal or a class of characters."""
        found: list[Interval] = []
        start = self.at
        self.at += 1
        is_negated = end == "]" and self.next("^")
        while not self.next(end):
            low = high = self.character(start)
            if end == "]" and self.text[self.at : self.at + 1] == "-" and self.text[self.at + 1 : self.at + 2] != "]":
                self.at += 1
                high = self.character(start)
            found.append((low, high))
        elements = len(found) + sum(low != high for low, high in found)
        if end == '"' or not found:
            return Item(elements, may_be_empty=not found, characters=tuple((one,) for one in found))
        return Item(elements, characters=(outside(found) if is_negated else tuple(found),))

    def character(self, start: int) -> int:
        """The code point of the one that comes now."""
        if self.at >= len(self.text):
            self.at = start
            raise self.error(f"`{self.text[start]}` is not closed")
        match = _CHARACTER.match(self.text, self.at)
        if not match:
            raise self.error("unknown escape")
        self.at = match.end()
        found = match[0]
        if len(found) == 1:
            return ord(found)
        return int(found[2:], 16) if found[1] in "xuU" else ord(_ESCAPES.get(found[1], found[1]))

    def group(self) -> Item:
        start, before = self.at, len(self.names) + self.generated
        self.at += 1
        self.nesting += 1
        if self.nesting > MAX_NESTING:
            raise self.error(f"more than {MAX_NESTING} parentheses inside each other")
        self.skip(_BLANK_LINES)
        self.generate(1)
        inside = self.alternatives(_BLANK_LINES)
        if not self.next(")"):
            self.at = start
            raise self.error("`(` is not closed")
        self.nesting -= 1
        return Item(1, symbols=max(1, len(self.names) + self.generated - before), group=inside)

    def repeat(self, items: list[Item]) -> None:
        """`*`, `+`, `?` or braces: replaces the last item by what llama.cpp expands it into."""
        if not items or not items[-1].elements:
            raise self.error(f"there is nothing before `{self.text[self.at]}` to repeat")
        if items[-1].times:
            raise self.error("a repetition cannot be repeated: put it in parentheses")
        low, high = self.bounds()
        item = items.pop()
        times = high or low or 1
        if low > MAX_REPETITIONS or (high or 0) > MAX_REPETITIONS or item.symbols * times > MAX_REPETITIONS:
            raise self.error(f"more than {MAX_REPETITIONS} repetitions")
        optional = 1 if high is None else high - low
        self.generate(optional)
        self.count((item.elements + 2) * optional)
        kept = item.elements * low + (1 if optional else 0)
        items.append(Item(kept, item.symbols * times, low == 0, times=(low, high), group=[[item]]))

    def bounds(self) -> tuple[int, int | None]:
        """Of a repetition: at least, and at most; None for any number."""
        c = self.text[self.at]
        if c != "{":
            self.at += 1
            return {"*": (0, None), "+": (1, None), "?": (0, 1)}[c]
        match = _BRACES.match(self.text, self.at)
        if not match or max(len(match[1]), len(match[3] or "")) > 9:
            raise self.error("`{n}`, `{n,}` or `{n,m}` was expected")
        low = int(match[1])
        high = low if match[2] is None else int(match[3]) if match[3] else None
        if high is not None and high < low:
            raise self.error(f"at least {low} and at most {high} cannot be")
        self.at = match.end()
        return low, high

    def name(self) -> str:
        match = _NAME.match(self.text, self.at)
        if not match:
            raise self.error("the name of a rule was expected")
        self.names.setdefault(match[0], self.at)
        self.at = match.end()
        self.generate(0)
        return match[0]

    def generate(self, n: int) -> None:
        self.generated += n
        if self.generated + len(self.names) > MAX_SYMBOLS:
            raise self.error(f"more than {MAX_SYMBOLS} rules, groups and repetitions")

    def count(self, elements: int) -> None:
        self.elements += elements
        if self.elements > MAX_ELEMENTS:
            raise self.error("the grammar is too large")

    def next(self, text: str) -> bool:
        """Step over `text` if it comes now."""
        if self.text.startswith(text, self.at):
            self.at += len(text)
            return True
        return False

    def expect(self, text: str) -> None:
        if not self.next(text):
            raise self.error(f"`{text}` was expected")

    def skip(self, blank: re.Pattern[str]) -> None:
        match = blank.match(self.text, self.at)
        self.at = match.end() if match else self.at

    def error(self, what: str) -> InputError:
        """With the line and column, both from 1."""
        line = self.text.count("\n", 0, self.at) + 1
        column = self.at - (self.text.rfind("\n", 0, self.at) + 1) + 1
        return InputError(f"the grammar, line {line}, column {column}: {what}", hint="grammars are written in GBNF")


def _left_recursive(rules: dict[str, list[list[Item]]]) -> str | None:
    """A rule that can be reached from its own beginning without a character being read; None where there is none."""
    empty: set[str] = set()

    def may_be_empty(item: Item) -> bool:
        if item.reference is not None:
            return item.reference in empty
        return item.may_be_empty or any(all(map(may_be_empty, sequence)) for sequence in item.group)

    size = -1
    while size != len(empty):
        size = len(empty)
        empty |= {n for n, body in rules.items() if any(all(map(may_be_empty, sequence)) for sequence in body)}

    def first(body: list[list[Item]]) -> set[str]:
        found: set[str] = set()
        for sequence in body:
            for item in sequence:
                found |= {item.reference} if item.reference is not None else first(item.group)
                if not may_be_empty(item):
                    break
        return found

    begins = {name: first(body) for name, body in rules.items()}
    done: set[str] = set()
    for name in begins:
        path = [(name, iter(begins[name]))]
        open_rules = {name}
        while path:
            following = next(path[-1][1], None)
            if following is None:
                rule = path.pop()[0]
                open_rules.discard(rule)
                done.add(rule)
            elif following in open_rules:
                return following
            elif following not in done:
                open_rules.add(following)
                path.append((following, iter(begins[following])))
    return None
