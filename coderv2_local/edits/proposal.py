"""What an answer would make of one file."""

import difflib
from dataclasses import dataclass, field
from typing import Literal

from coderv2_local.edits.refusal import EditRefused
from coderv2_local.edits.text_files import FileText, TextFormat, check_visible, decode, encode, split_lines

Kind = Literal["create", "replace", "modify", "delete"]
NO_NEWLINE = "\\ No newline at end of file\n"


@dataclass(frozen=True)
class Proposal:
    """A proposed edit of one file.

    Attributes:
        path: relative to the workspace, with forward slashes, links followed; where that is refused, as the answer
            names it.
        kind: "create" a file, "replace" all of it, "modify" places in it, or "delete" it.
        old, new: its text before and after, "" where there is no file.
        before: SHA-256 of its bytes as they were read; None where there is no file.
        after: its bytes to come; None: to be deleted, or refused.
        refusals: why it cannot be applied; empty: it can.
    """

    path: str
    kind: Kind
    old: str = ""
    new: str = ""
    before: str | None = None
    after: bytes | None = None
    refusals: tuple[EditRefused, ...] = ()

    @property
    def can_apply(self) -> bool:
        return not self.refusals

    def diff(self) -> str:
        """A unified diff for showing, without colour; "" where the text does not change.

        It holds what the model wrote: pass it through `stream.printable` on its way to a terminal.
        """
        old = "/dev/null" if self.kind == "create" else f"a/{self.path}"
        new = "/dev/null" if self.kind == "delete" else f"b/{self.path}"
        lines = difflib.unified_diff(split_lines(self.old), split_lines(self.new), old, new)
        return "".join(line if line.endswith("\n") else f"{line}\n{NO_NEWLINE}" for line in lines)


@dataclass
class EditedFile:
    """A file while the edits of an answer are made to it, in order.

    Attributes:
        was: as it is on disk; None where there is none.
        text: as the edits so far make it; None: no file.
    """

    path: str
    kind: Kind
    was: FileText | None
    text: str | None
    refusals: list[EditRefused] = field(default_factory=list)

    def proposal(self) -> Proposal:
        """The proposal, refused if its text cannot be shown or written."""
        old, before = (self.was.text, self.was.digest) if self.was else ("", None)
        after = None
        if not self.refusals:
            try:
                after = self._bytes(old)
            except EditRefused as error:
                self.refusals.append(error)
        return Proposal(self.path, self.kind, old, self.text or "", before, after, tuple(self.refusals))

    def _bytes(self, old: str) -> bytes | None:
        if self.text is None:
            return None
        if self.was is not None and self.text == old:
            raise EditRefused(f"{self.path} is already as the answer wants it", path=self.path)
        check_visible(old, self.text, self.path)
        data = encode(self.text, self.was.format if self.was else TextFormat(), self.path)
        decode(data, self.path)  # what is written can be read, and edited, again
        return data
