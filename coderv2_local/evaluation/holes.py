"""Holes in documents, drawn by a seed: the same documents and seed give the same holes."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from typing import Literal

from coderv2_local.evaluation.documents import Document
from coderv2_local.fim.hole import Hole

Kind = Literal["line", "rest", "within", "lines", "span"]
KINDS: dict[Kind, str] = {
    "line": "a whole line, indentation included",
    "rest": "the rest of a line from some place in it",
    "within": "a part of a line, with text before and after it",
    "lines": "a block of 2 to 6 lines",
    "span": "any 1 to 200 characters",
}
LEAST_CHARACTERS = 4  # of a line, without blanks at its ends: `}` and `)` are no test
MOST_LINES = 6
MOST_CHARACTERS = 200
TRIES = 20  # rounds in a row, each with a draw in every document, that may bring nothing new


@dataclass(frozen=True)
class Sample:
    """A hole in a document, and what stood there."""

    kind: Kind
    document: Document
    start: int
    end: int

    @property
    def hole(self) -> Hole:
        return Hole(self.document.text[: self.start], self.document.text[self.end :], self.document.name)

    @property
    def middle(self) -> str:
        return self.document.text[self.start : self.end]


def draw_holes(documents: Sequence[Document], kind: Kind, number: int, seed: int) -> list[Sample]:
    """Up to `number` different holes of one kind, spread evenly over the documents; fewer where no more are found."""
    rng = random.Random(f"{seed}/{kind}")
    order = list(documents)
    rng.shuffle(order)
    usable = {n: document for n, document in enumerate(order) if _lines(document.text)[1]}
    found: dict[tuple[int, int, int], Sample] = {}  # names may be the same in two folders
    fruitless = 0
    while usable and fruitless < TRIES:
        before = len(found)
        for n, document in usable.items():
            if len(found) == number:
                return list(found.values())
            if place := _place(document.text, kind, rng):
                found.setdefault((n, *place), Sample(kind, document, *place))
        fruitless = fruitless + 1 if len(found) == before else 0
    return list(found.values())


def _place(text: str, kind: Kind, rng: random.Random) -> tuple[int, int] | None:
    """Where to make one hole: (start, end) in characters; None where the place that was drawn has none of the kind."""
    lines, choices = _lines(text)
    n = rng.choice(choices)
    start, line = lines[n]
    if kind == "line":
        return start, start + len(line.rstrip())
    if kind == "rest":
        indent = len(line) - len(line.lstrip())
        return start + rng.randint(indent + 1, len(line.rstrip()) - 1), start + len(line.rstrip())
    if kind == "within":
        first = len(line) - len(line.lstrip()) + 1
        a, b = sorted(rng.sample(range(first, len(line.rstrip())), 2))
        return (start + a, start + b) if line[a:b].strip() else None
    if kind == "lines":
        last = min(n + rng.randint(1, MOST_LINES - 1), len(lines) - 1)
        while last > n and not lines[last][1].strip():
            last -= 1
        return (start, lines[last][0] + len(lines[last][1].rstrip())) if last > n else None
    start = rng.randrange(start, start + len(line))
    end = min(start + rng.randint(1, MOST_CHARACTERS), len(text))
    return (start, end) if text[start:end].strip() else None


@lru_cache(maxsize=16)  # a few documents are asked for many holes
def _lines(text: str) -> tuple[Sequence[tuple[int, str]], Sequence[int]]:
    """The lines, each with its offset; and which of them have something to fill, by number: all but the first may."""
    lines = text.split("\n")
    starts = accumulate((len(line) + 1 for line in lines), initial=0)
    choices = tuple(n for n, line in enumerate(lines) if n and len(line.strip()) >= LEAST_CHARACTERS)
    return tuple(zip(starts, lines, strict=False)), choices
