"""A text with a place to fill."""

from dataclasses import dataclass
from functools import cached_property

NEAR = 4_000
"""Characters on each side of a hole that the rules look at. Reading them takes the time of the rules, which is to stay
below 2 ms, in files of many megabytes, too."""


@dataclass(frozen=True)
class Hole:
    """What stands before and after the place to fill.

    Attributes:
        name: of the file: its ending says what begins a comment or a string. "" where it is not known.
    """

    prefix: str
    suffix: str
    name: str = ""

    def near(self) -> "Hole":
        """The neighbourhood that the rules look at, its line ends made one newline each."""
        prefix, suffix = self.prefix[-2 * NEAR :], self.suffix[: 2 * NEAR]
        return Hole(prefix.replace("\r\n", "\n")[-NEAR:], suffix.replace("\r\n", "\n")[:NEAR], self.name)

    @cached_property
    def newline(self) -> str:
        """How most of the lines near the hole end."""
        around = self.prefix[-NEAR:] + self.suffix[:NEAR]
        return "\r\n" if 2 * around.count("\r\n") > around.count("\n") else "\n"

    @cached_property
    def line_before(self) -> str:
        """The hole's own line, as far as it stands before the hole."""
        return self.prefix[self.prefix.rfind("\n") + 1 :]

    @cached_property
    def line_after(self) -> str:
        """The hole's own line, as far as it follows the hole; line ends and blanks at its end are left out."""
        return self.suffix.split("\n", 1)[0].rstrip()

    @property
    def is_within_line(self) -> bool:
        """Does text follow on the hole's own line? Then only that line is filled."""
        return bool(self.line_after)

    @cached_property
    def following_line(self) -> str | None:
        """The first line after the hole's own that is not blank, without blanks at its end; None where there is
        none.
        """
        at = self.suffix.find("\n")
        while at >= 0:
            end = self.suffix.find("\n", at + 1)
            line = self.suffix[at + 1 : end if end >= 0 else len(self.suffix)].rstrip()
            if line:
                return line
            at = end
        return None
