"""Fill in the middle: where the hole is, what the model sees around it, and what of its answer is kept."""

import re
from dataclasses import dataclass
from pathlib import Path

from coderv2_local.backend import LocalBackend
from coderv2_local.fim_stops import Hole, end_of
from coderv2_local.sampling import SamplingOptions
from quant.errors import InputError

PREFIX_TOKENS = 1536
SUFFIX_TOKENS = 512
JOINS = 8  # BOS, the FIM ids, and places where encoding in parts costs a token more
MAX_FILE_BYTES = 10_000_000
TARGET = re.compile(r"(?P<path>.+?):(?P<line>\d+)(?::(?P<column>\d+)|-(?P<last>\d+))?")


@dataclass(frozen=True)
class Target:
    """FILE:LINE, FILE:LINE:COL or FILE:A-B, as typed; lines and columns count from 1."""

    path: Path
    line: int
    column: int | None = None
    last_line: int | None = None


@dataclass(frozen=True)
class Filling:
    """A middle.

    Attributes:
        text: trimmed.
        reason: what ended it: "end" (the model's own), "length", or the name of a rule of `fim_stops`.
        prompt_tokens, tokens: what the model read and wrote.
    """

    text: str
    reason: str
    prompt_tokens: int | None
    tokens: int


def parse_target(text: str) -> Target:
    """Read FILE:LINE[:COL] or FILE:A-B.

    Raises:
        InputError: no line is given, or A is after B.
    """
    match = TARGET.fullmatch(text)
    if not match:
        raise InputError(
            f"{text!r} names no line", hint="give FILE:LINE, FILE:LINE:COL or FILE:A-B, for example main.py:42"
        )
    column, last = match["column"], match["last"]
    target = Target(
        Path(match["path"]), int(match["line"]), int(column) if column else None, int(last) if last else None
    )
    if target.last_line is not None and target.last_line < target.line:
        raise InputError(
            f"{text}: line {target.line} comes after line {target.last_line}", hint="give the first line first"
        )
    return target


def replaced_range(text: str, hole: Hole) -> tuple[tuple[int, int], tuple[int, int]]:
    """What of `text` the middle replaces: (line, column) of its start and of its end, both counted from 1."""

    def place(before: str) -> tuple[int, int]:
        return before.count("\n") + 1, len(before) - (before.rfind("\n") + 1) + 1

    return place(hole.prefix), place(text[: len(text) - len(hole.suffix)])


def read_source(path: Path) -> str:
    """The text of a source file, its line ends untouched.

    Raises:
        InputError: missing, unreadable, a folder, too large, or not UTF-8 text.
    """
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise InputError(f"{path} is larger than {MAX_FILE_BYTES // 1_000_000} MB", hint="this is no source file")
        return path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text (byte {error.start})", hint="convert it to UTF-8 first") from None
    except OSError as error:
        raise InputError(f"{path}: {(error.strerror or str(error)).lower()}") from None


def hole_at(text: str, target: Target) -> Hole:
    """The hole that `target` means in `text`: the end of a line, a place in it, or whole lines to replace.

    Raises:
        InputError: a line or column past the end.
    """
    lines = text.split("\n")
    for line in (target.line, target.last_line):
        if line is not None and not 1 <= line <= len(lines):
            raise InputError(f"{target.path} has {len(lines)} lines: there is no line {line}")
    starts = [0]
    for line_text in lines:
        starts.append(starts[-1] + len(line_text) + 1)

    def end_of(line: int) -> int:
        return starts[line - 1] + len(lines[line - 1].removesuffix("\r"))

    if target.last_line is not None:
        return Hole(text[: starts[target.line - 1]], text[end_of(target.last_line) :])
    at = end_of(target.line)
    if target.column is not None:
        width = at - starts[target.line - 1]
        if not 1 <= target.column <= width + 1:
            raise InputError(f"{target.path}:{target.line} has {width} characters: there is no column {target.column}")
        at = starts[target.line - 1] + target.column - 1
    return Hole(text[:at], text[at:])


def fit(hole: Hole, backend: LocalBackend, max_tokens: int) -> Hole:
    """The part of the hole's surroundings that the model is shown: whole lines, nearest first, within the budgets.

    A quarter of the context at most is held free for the middle, so a large `max_tokens` does not blind the model.
    """
    size = backend.engine.n_ctx
    room = size - min(max_tokens, size // 4) - JOINS
    suffix_budget = min(SUFFIX_TOKENS, room // 4)
    prefix_budget = min(PREFIX_TOKENS, room - suffix_budget)
    before = _nearest(hole.prefix.splitlines(keepends=True)[::-1], backend, prefix_budget, end=True)
    after = _nearest(hole.suffix.splitlines(keepends=True), backend, suffix_budget, end=False)
    return Hole("".join(before[::-1]), "".join(after))


def _nearest(lines: list[str], backend: LocalBackend, budget: int, *, end: bool) -> list[str]:
    """The leading lines whose tokens fit the budget; of a first line that does not fit alone, its near end."""
    used = 0
    for i, line in enumerate(lines):
        used += backend.count(line)
        if used > budget:
            if i:
                return lines[:i]
            while line and backend.count(line) > budget:
                half = len(line) // 2
                line = line[-half:] if end and half else line[:half]
            return [line]
    return lines


def fill(hole: Hole, backend: LocalBackend, options: SamplingOptions, max_tokens: int) -> Filling:
    """The middle that the model proposes.

    Raises:
        InputError: the model file has no FIM ids.
    """
    seen = fit(hole, backend, max_tokens)
    generation = backend.infill(seen.prefix, seen.suffix, options, max_tokens)
    middle, end = "", None
    for chunk in generation:
        middle += chunk
        if end := end_of(middle, hole):
            break
    else:
        end = end_of(middle + "\n", hole)  # the last line is whole now, too
    reason = "length" if len(generation.ids) >= max_tokens else "end"
    if end and end[0] < len(middle):
        # what is cut before a line ends with the line before: the newline that stands after the hole serves it
        middle, reason = middle[: end[0]].removesuffix("\n"), end[1]
    return Filling(middle, reason, generation.prompt_tokens, len(generation.ids))
