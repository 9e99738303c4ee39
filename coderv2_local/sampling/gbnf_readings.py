"""How many readings of a text a grammar leaves open: what llama.cpp's work for a token grows with.

llama.cpp keeps a stack for every way in which the text so far can be read, and goes through all ways in which each
token of the vocabulary could be: it merges two that have become the same after a token, not inside one. A few
characters of grammar suffice for millions, as `(" "?){30}` does over a token of fifteen spaces, or
`a ::= "x" a "y" | "x" a "z" | ""` over a line of x's. Nothing can interrupt that work, so such grammars are found here
first: the stacks are followed from each place of the grammar, along the characters that the most of them take.

That finds what doubles, from wherever it begins; it is a search, no proof. What it misses grows from token to token,
and the sampler looks at the time that its grammar takes.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

MAX_READINGS = 10_000  # of one token; llama.cpp goes through about 200 in a millisecond
MAX_STACKS = 1000  # at a time: one is compared to all others
MAX_OPENED = 20_000  # rules entered and left between two characters
TOKEN = 16  # characters: after so many, readings that came to the same count as one
LONG, LONGER = 32, 96  # characters followed from one place; the longer where the first found more than `FEW`
FEW = 8
WIDTH = 2  # texts that are followed at a time
TRIED = 12  # characters that are tried after each
STEPS = 40_000  # for a whole grammar: a tenth of a second

Interval = tuple[int, int]
ANY: tuple[Interval, ...] = ((0, 0x10FFFF),)


@dataclass
class Item:
    """One item of a sequence: characters, a reference, a group, or one of these repeated; with its size in llama.cpp.

    Attributes:
        elements, symbols: characters and references, and rules, that llama.cpp makes of it when it is repeated.
        characters: what each character of a literal may be, or the one of a class.
        times: how often the one item of `group` comes, at least and at most; None where it is no repetition.
    """

    elements: int
    symbols: int = 1
    may_be_empty: bool = False
    reference: str | None = None
    characters: tuple[tuple[Interval, ...], ...] = ()
    times: tuple[int, int | None] | None = None
    group: "list[list[Item]]" = field(default_factory=list)


Rules = Mapping[str, Sequence[Sequence[Item]]]


class TooManyReadings(Exception):
    """A text was found that has more than are allowed."""


def look_for_many_readings(rules: Rules) -> None:
    """Search for a text with too many readings.

    Raises:
        TooManyReadings: there is one.
    """
    search = _Search(rules)
    for start in search.starts():
        search.follow(start)
        if search.steps > STEPS:
            break


class _Search:
    """Stacks are numbers: each stands for what is on top, and the number of the stack below.

    On top are ("in", sequence, place), ("times", item, at least, at most) for a repetition that may go on, or
    ("character", item, place). Stack 0 is empty: the grammar, or the part of it that is looked at, is at its end.
    """

    def __init__(self, rules: Rules) -> None:
        self.rules, self.steps = rules, 0
        self.objects: dict[int, object] = {}  # keeps what is known by its address alive
        self.numbers: dict[tuple[object, ...], int] = {}
        self.stacks: list[tuple[object, ...]] = [()]
        self.opened: dict[int, tuple[int, ...]] = {}
        self.seen: set[frozenset[int]] = set()

    def starts(self) -> Iterator[int]:
        """The root, then each place from which there is a choice."""
        yield from (self.stack(0, "in", sequence, 0) for sequence in self.rules["root"])
        waiting = [sequence for body in self.rules.values() for sequence in body]
        while waiting:
            sequence = waiting.pop(0)
            for place, item in enumerate(sequence):
                if item.times or len(item.group) > 1:
                    yield self.stack(0, "in", sequence, place)
                waiting.extend(item.group)

    def stack(self, below: int, *top: object) -> int:
        kind, what, *numbers = top
        self.objects[id(what)] = what
        key = (below, kind, id(what), *numbers)
        number = self.numbers.setdefault(key, len(self.stacks))
        if number == len(self.stacks):
            self.stacks.append((below, *top))
        return number

    def follow(self, start: int) -> None:
        """Along the characters that the most readings take. Raises TooManyReadings."""
        states = [dict.fromkeys(self.open(start), 1)]
        length = 0
        while states and self.steps < STEPS:
            length += 1
            found = [after for state in states for c in self.tried(state) if (after := self.after(state, c))]
            found.sort(key=lambda s: (-sum(s.values()), frozenset(s) in self.seen))
            states = found[:WIDTH]
            self.seen.update(frozenset(s) for s in states)
            most = max((sum(s.values()) for s in states), default=0)
            if most > MAX_READINGS or any(len(s) > MAX_STACKS for s in states):
                raise TooManyReadings
            if length >= LONGER or (length >= LONG and most <= FEW):
                return
            if length % TOKEN == 0:
                states = [dict.fromkeys(s, 1) for s in states]

    def tried(self, state: Mapping[int, int]) -> list[int]:
        """Characters with which something that stacks wait for begins: where the most wait for one, one does begin."""
        counts: dict[int, int] = {}
        tops = [top for number in state if (top := self.wanted(number))]
        for top in tops[:200]:
            for low, _ in top:
                counts[low] = counts.get(low, 0) + 1
        if len(counts) > TRIED:
            counts = {c: sum(_has(top, c) for top in tops[:200]) for c in list(counts)[:200]}
        return sorted(counts, key=lambda c: -counts[c])[:TRIED]

    def wanted(self, number: int) -> tuple[Interval, ...]:
        """The characters that a stack waits for; none where it is empty."""
        if not number:
            return ()
        _, _, item, place = self.stacks[number]
        assert isinstance(item, Item)
        assert isinstance(place, int)
        return item.characters[place]

    def after(self, state: Mapping[int, int], character: int) -> dict[int, int]:
        """The stacks after a character, and how many readings led to each."""
        found: dict[int, int] = {}
        for number, readings in state.items():
            self.steps += 1
            if not _has(self.wanted(number), character):
                continue
            below, _, item, place = self.stacks[number]
            assert isinstance(item, Item)
            assert isinstance(below, int)
            assert isinstance(place, int)
            if place + 1 < len(item.characters):
                following: tuple[int, ...] = (self.stack(below, "character", item, place + 1),)
            else:
                following = self.open(below)
            for one in following:
                found[one] = found.get(one, 0) + readings
        return found

    def open(self, start: int) -> tuple[int, ...]:
        """The stacks with a character on top that a stack becomes; the empty one, too, where it can end here."""
        if start in self.opened:
            return self.opened[start]
        waiting, seen, found = [start], {start}, []
        while waiting:
            number = waiting.pop()
            if not number or self.stacks[number][1] == "character":
                found.append(number)
                continue
            for one in self.entered(number):
                if one not in seen:
                    seen.add(one)
                    waiting.append(one)
            if len(seen) > MAX_OPENED:
                raise TooManyReadings
        self.steps += len(seen)
        if len(found) > MAX_STACKS:
            raise TooManyReadings
        self.opened[start] = tuple(found)
        return self.opened[start]

    def entered(self, number: int) -> list[int]:
        """A step into what is on top of a stack."""
        below, kind, what, *rest = self.stacks[number]
        assert isinstance(below, int)
        if kind == "in":
            assert isinstance(what, list)
            place = rest[0]
            assert isinstance(place, int)
            if place == len(what):
                return [below]
            if place + 1 < len(what):
                below = self.stack(below, "in", what, place + 1)
            return self.item(below, what[place])
        assert isinstance(what, Item)
        low, high = rest
        assert isinstance(low, int)
        assert high is None or isinstance(high, int)
        ways = [] if low else [below]
        if high != 0:
            more = self.stack(below, "times", what, max(low - 1, 0), None if high is None else high - 1)
            ways += self.item(more, what.group[0][0])
        return ways

    def item(self, below: int, item: Item) -> list[int]:
        """An item, put on top."""
        if item.characters:
            return [self.stack(below, "character", item, 0)]
        if item.times:
            return [self.stack(below, "times", item, *item.times)]
        body = self.rules[item.reference] if item.reference is not None else item.group
        return [self.stack(below, "in", sequence, 0) for sequence in body] or [below]


def _has(intervals: Sequence[Interval], character: int) -> bool:
    return any(low <= character <= high for low, high in intervals)


def outside(intervals: Sequence[Interval]) -> tuple[Interval, ...]:
    """All characters but these."""
    found, at = [], 0
    for low, high in sorted(intervals):
        if at < low:
            found.append((at, low - 1))
        at = max(at, high + 1)
    return (*found, (at, ANY[0][1])) if at <= ANY[0][1] else tuple(found)
