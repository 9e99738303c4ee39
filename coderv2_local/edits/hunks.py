"""A hunk: lines that stay, go and come. Its place in a file is found by what the lines say, not by their numbers."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from difflib import SequenceMatcher
from itertools import pairwise

from coderv2_local.edits.refusal import EditRefused
from coderv2_local.edits.text_files import body, line_end, split_lines, usual_line_end

SHOWN_PLACES = 5


@dataclass(frozen=True)
class Hunk:
    """One change.

    Attributes:
        lines: (" ", kept), ("-", removed) or ("+", added), each without a line end, in order.
        start: the first old line's number as stated, counted from 1; None where nothing trustworthy is stated.
        final_newline: does the file end with a newline afterwards? None: as before.
        name: how to speak of it, such as "hunk 2".
    """

    lines: tuple[tuple[str, str], ...]
    start: int | None = None
    final_newline: bool | None = None
    name: str = "the hunk"

    @property
    def old(self) -> list[str]:
        return [text for op, text in self.lines if op != "+"]

    @property
    def new(self) -> list[str]:
        return [text for op, text in self.lines if op != "-"]


def hunk_between(old: list[str], new: list[str], name: str = "the change") -> Hunk:
    """The hunk that turns the lines `old` into `new` (both without line ends)."""
    head = 0
    while head < min(len(old), len(new)) and old[head] == new[head]:
        head += 1
    tail = 0
    while tail < min(len(old), len(new)) - head and old[-1 - tail] == new[-1 - tail]:
        tail += 1
    lines = [(" ", text) for text in old[:head]]
    middle_old, middle_new = old[head : len(old) - tail], new[head : len(new) - tail]
    for op, a, b, c, d in SequenceMatcher(None, middle_old, middle_new).get_opcodes():
        if op == "equal":
            lines += [(" ", text) for text in middle_old[a:b]]
        else:
            lines += [("-", text) for text in middle_old[a:b]] + [("+", text) for text in middle_new[c:d]]
    lines += [(" ", text) for text in old[len(old) - tail :]]
    return Hunk(tuple(lines), name=name)


def apply_hunks(text: str, hunks: list[Hunk], path: str) -> str:
    """`text` with all hunks made. Lines that stay keep their bytes; new ones end as the lines whose place they take.

    Raises:
        EditRefused: a hunk's lines are found nowhere or in several places, or two hunks change the same lines.
    """
    lines = split_lines(text)
    placed = sorted((_place(lines, hunk, path) for hunk in hunks), key=lambda p: p[0])
    for (at, one), (following, other) in pairwise(placed):
        if at + len(one.old) > following:
            raise EditRefused(
                f"{path}: {one.name} and {other.name} change the same lines, from line {following + 1}",
                path=path,
                hint="ask for one edit of these lines",
            )
    usual = usual_line_end(lines)
    final_newline = text.endswith("\n") or not text
    for at, hunk in reversed(placed):
        lines[at : at + len(hunk.old)] = _made(lines, at, hunk, usual)
        final_newline = hunk.final_newline if hunk.final_newline is not None else final_newline
    return _joined(lines, usual, final_newline=final_newline)


def replaced(old: str, new: list[str]) -> str:
    """The whole text replaced by the lines `new`; line ends and the end of the text stay as they were."""
    old_lines = split_lines(old)
    ends = {line_end(line) for line in old_lines} - {""}
    final_newline = old.endswith("\n") or not old
    if len(ends) <= 1:
        usual = usual_line_end(old_lines)
        return _joined([line + usual for line in new], usual, final_newline=final_newline)
    hunk = hunk_between([body(line) for line in old_lines], new)
    return _joined(_made(old_lines, 0, hunk, usual_line_end(old_lines)), "\n", final_newline=final_newline)


def _made(lines: list[str], at: int, hunk: Hunk, usual: str) -> list[str]:
    """What the hunk makes of the lines from `at`."""
    out: list[str] = []
    removed: list[str] = []  # line ends of lines that went, for those that come in their place
    end = line_end(lines[at - 1]) if at else line_end(lines[0]) if lines else ""
    for op, text in hunk.lines:
        if op == "+":
            end = removed.pop(0) if removed else end
            out.append(text + (end or usual))
            continue
        end = line_end(lines[at])
        if op == " ":
            out.append(lines[at])
            removed.clear()
        else:
            removed.append(end)
        at += 1
    return out


def _joined(lines: list[str], usual: str, *, final_newline: bool) -> str:
    lines = [line if line_end(line) else line + usual for line in lines]
    text = "".join(lines)
    return text if final_newline or not lines else text[: len(text) - len(line_end(lines[-1]))]


def _place(lines: list[str], hunk: Hunk, path: str) -> tuple[int, Hunk]:
    """Where the hunk's old lines are, and the hunk, perhaps without blank lines at its edges that are not there."""
    bodies = [body(line) for line in lines]
    if not hunk.old:
        if not lines:
            return 0, hunk
        raise EditRefused(
            f"{path}: {hunk.name} has no lines around it to find its place by",
            path=path,
            hint="ask for the diff with lines of context",
        )
    trimmed = _without_blank_edges(hunk)
    attempts: list[tuple[Hunk, Callable[[str], str]]] = [(hunk, str), (hunk, str.rstrip)]
    if trimmed.old and len(trimmed.lines) < len(hunk.lines):
        attempts += [(trimmed, str), (trimmed, str.rstrip)]
    for candidate, form in attempts:
        places = _find([form(b) for b in bodies], [form(b) for b in candidate.old])
        if len(places) == 1:
            return places[0], candidate
        if places:
            if candidate.start is not None and candidate.start - 1 in places:
                return candidate.start - 1, candidate
            raise _ambiguous(places, hunk, path)
    raise _not_found(bodies, hunk, path)


def _find(lines: list[str], wanted: list[str]) -> list[int]:
    first, n = wanted[0], len(wanted)
    return [
        i for i in range(len(lines) - n + 1) if lines[i] == first and all(lines[i + k] == wanted[k] for k in range(n))
    ]


def _without_blank_edges(hunk: Hunk) -> Hunk:
    lines = list(hunk.lines)
    start = hunk.start
    while lines and lines[0][0] == " " and not lines[0][1].strip():
        del lines[0]
        start = start + 1 if start is not None else None
    while lines and lines[-1][0] == " " and not lines[-1][1].strip():
        del lines[-1]
    return replace(hunk, lines=tuple(lines), start=start)


def _ambiguous(places: list[int], hunk: Hunk, path: str) -> EditRefused:
    shown = ", ".join(str(p + 1) for p in places[:SHOWN_PLACES]) + (", …" if len(places) > SHOWN_PLACES else "")
    return EditRefused(
        f"{path}: the lines of {hunk.name} are found in {len(places)} places, at lines {shown}",
        path=path,
        hint="ask for the edit with more lines around it",
    )


def _not_found(bodies: list[str], hunk: Hunk, path: str) -> EditRefused:
    message = f"{path}: the lines of {hunk.name} are not in the file, beginning with {_shown(hunk.old)}"
    if hunk.new and hunk.new != hunk.old and len(_find(bodies, hunk.new)) == 1:
        return EditRefused(message, path=path, hint="the file seems to have this change already")
    votes: Counter[int] = Counter()
    where: dict[str, list[int]] = {}
    for i, text in enumerate(bodies):
        if text.strip():
            where.setdefault(text.strip(), []).append(i)
    for k, text in enumerate(hunk.old):
        votes.update(max(i - k, 0) for i in where.get(text.strip(), ())[:1000])
    hint = "show the model the file as it is now, and ask again"
    if votes:
        hint = f"most like them is what begins at line {votes.most_common(1)[0][0] + 1}; {hint}"
    return EditRefused(message, path=path, hint=hint)


def _shown(lines: list[str]) -> str:
    text = next((line.strip() for line in lines if line.strip()), "")
    return repr(text if len(text) <= 60 else text[:59] + "…")
