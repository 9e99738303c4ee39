"""What filling in by hand works on: an open file, a place in it, the suggestion for it, and what each line does."""

import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from cli.errors import show_error
from cli.fim_screen import in_place, summary, why_nothing
from coderv2_local.stream import printable
from quant.errors import CoderError, InputError

if TYPE_CHECKING:
    from cli.fim_wishes import FimWishes
    from coderv2_local.backend import Backend
    from coderv2_local.edits.journal import Change
    from coderv2_local.fim.fill import Filling
    from coderv2_local.fim.hole import Hole
    from coderv2_local.fim.target import Target


HELP = """\
open FILE[:LINE[:COL]]   open a file; its last line, unless a place is given
12   12:5   12-15        go to the end of a line, before a column, or replace lines
/text   /                go to the next line with this text; again
f   F                    go to the next function; to the one before
+   -   +5               go down a line, up a line, down five
Enter                    suggest what belongs here
a                        accept: write it into the file
n                        next: another suggestion
r                        retry: read the file again, and suggest
u                        undo what was accepted last
q                        leave (so does Ctrl-D)

Ctrl-C stops a suggestion."""
MOVE = re.compile(r"(?P<line>\d{1,9})(?::(?P<column>\d{1,9})|-(?P<last>\d{1,9}))?")
STEP = re.compile(r"([+-])\s*(\d{0,9})")


class Desk:
    """An open file, a place in it, and the suggestion for that place."""

    def __init__(self, backend: "Backend", wishes: "FimWishes", screen: Console) -> None:
        self.backend, self.wishes, self.screen = backend, wishes, screen
        self.target: Target | None = None
        self.text = ""
        self.filling: Filling | None = None
        self.sample = 0
        self.accepted: list[Change] = []
        self._asked: list[Target] = []  # for each of them, where it was suggested
        self._searched = ""

    def where(self) -> str:
        """The place, for the prompt."""
        return f" {replace(self.target, path=Path(self.target.path.name))}" if self.target else ""

    def obey(self, line: str) -> None:
        """Do what a line says. Errors are shown, not raised."""
        try:
            self._obey(line)
        except CoderError as error:
            show_error(error)
        except KeyboardInterrupt:
            self._say("stopped")

    def _obey(self, line: str) -> None:
        if line in ("?", "h", "help"):
            self.screen.print(Text(HELP))
        elif line == "open":
            raise InputError("open which file?", hint="open FILE, or open FILE:LINE")
        elif line.startswith("open ") or (self.target is None and Path(line).suffix):
            self.open(line.removeprefix("open ").strip())
        elif line == "u":
            self.undo()
        elif self.target is None:
            raise InputError("no file is open", hint="open FILE, or open FILE:LINE")
        elif line in ("", "r", "n"):
            self.suggest(another=line == "n", reread=line == "r")
        elif line == "a":
            self.accept()
        else:
            self._move(line)

    def open(self, name: str) -> None:
        """Open a file, at its last line or at the place that is given."""
        from coderv2_local.fim.source import read_source
        from coderv2_local.fim.target import TARGET, Target, parse_target

        target = parse_target(name) if TARGET.fullmatch(name) else Target(Path(name), 0)
        target = replace(target, path=target.path.expanduser())
        text = read_source(target.path).text
        if target.line == 0:
            target = replace(target, line=text.count("\n") + 1)
        self._go(target, text)

    def _move(self, line: str) -> None:
        from coderv2_local.fim.places import is_function, next_line

        assert self.target
        here, lines = self.target.line, self.text.split("\n")
        found: int | None
        if match := MOVE.fullmatch(line):
            column, last = match["column"], match["last"]
            self._go(
                replace(
                    self.target,
                    line=int(match["line"]),
                    column=int(column) if column else None,
                    last_line=int(last) if last else None,
                )
            )
            return
        if match := STEP.fullmatch(line):
            step = int(match[2] or 1)
            found = min(max(here + (step if match[1] == "+" else -step), 1), len(lines))
        elif line.startswith("/"):
            self._searched = line[1:] or self._searched
            if not self._searched:
                raise InputError("there is nothing to search for", hint="/text")
            found = next_line(lines, here, lambda text: self._searched in text)
            if found is None:
                raise InputError(f"{self.target.path} has no {self._searched!r}")
        elif line in ("f", "F"):
            found = next_line(lines, here, is_function, backwards=line == "F")
            if found is None:
                raise InputError(f"{self.target.path} has no function that is recognised")
        else:
            raise InputError(f"no command {line!r}", hint="? lists them")
        self._go(replace(self.target, line=found, column=None, last_line=None))

    def _go(self, target: "Target", text: str | None = None) -> None:
        """Make `target` the place, if it is one, and suggest."""
        from coderv2_local.fim.target import hole_at

        hole_at(self.text if text is None else text, target)
        self.target, self.filling = target, None
        self.text = self.text if text is None else text
        self.suggest()

    def suggest(self, *, another: bool = False, reread: bool = False) -> None:
        """Show what the model suggests here: its first choice, or another sample."""
        from coderv2_local.fim.source import read_source

        assert self.target
        if reread:
            self.text = read_source(self.target.path).text
        self.filling, self.sample = None, self.sample + 1 if another else 0
        hole, path = self._hole(), self.target.path
        with self.screen.status("…"):
            filling = self.wishes.fill(hole, self.backend, path, self.text, sample=self.sample)
        replaced = self.text[len(hole.prefix) : len(self.text) - len(hole.suffix)]
        if said := self.wishes.left_out(filling):
            self._say(said)
        self.screen.print(in_place(hole, filling.text, replaced=replaced, path=path), soft_wrap=True)
        self._say(summary(filling) if filling.text else why_nothing(filling, self.wishes.max_ms))
        self.filling = filling

    def accept(self) -> None:
        """Write the suggestion into the file, and go to its end."""
        from cli.fim_edits import write_middle
        from coderv2_local.edits.refusal import FileChanged
        from coderv2_local.fim.source import read_source

        assert self.target
        if self.filling is None or not self.filling.text:
            raise InputError("there is no suggestion to accept", hint="Enter asks for one")
        hole = self._hole()
        try:
            written = write_middle(self.target.path, self.text, hole, self.filling.text)
        except FileChanged as error:
            raise FileChanged(error.message, path=error.path, hint="r reads the file again, and suggests") from None
        if written is None:
            self._say("nothing was written: this is what stands there already")
            return
        self.accepted.append(written[0])
        self._asked.append(self.target)
        self.text = read_source(self.target.path).text
        before = self.text[: len(self.text) - len(hole.suffix)]
        line, column = before.count("\n") + 1, len(before) - before.rfind("\n")
        self.target = replace(self.target, line=line, column=column, last_line=None)
        self.filling = None
        self._say(f"written to {self.target.path}; u takes it back")

    def undo(self) -> None:
        """Take back what was accepted last, here and not in another process."""
        from cli.fim_edits import take_back
        from coderv2_local.edits.refusal import NothingToUndo
        from coderv2_local.fim.source import read_source

        if not self.accepted:
            raise InputError(
                "nothing that was accepted here is left to undo",
                hint="`coder fim --undo` takes back what was written before",
            )
        try:
            change = take_back(self.accepted[-1])
        except NothingToUndo:
            self.accepted.pop()
            self._asked.pop()
            raise NothingToUndo("what was accepted last has been taken back already") from None
        self.accepted.pop()
        asked = self._asked.pop()
        for file in change.files:
            self._say(f"{change.root / file.path} is as it was before")
        if self.target:
            self.text, self.filling = read_source(self.target.path).text, None
            lines = self.text.count("\n") + 1
            there = replace(self.target, line=min(self.target.line, lines), column=None, last_line=None)
            self.target = asked if self.target.path == asked.path else there

    def _hole(self) -> "Hole":
        from coderv2_local.fim.target import hole_at

        assert self.target
        return hole_at(self.text, self.target)

    def _say(self, text: str) -> None:
        self.screen.print(Text(printable(text), "dim"), soft_wrap=not self.screen.is_terminal)
