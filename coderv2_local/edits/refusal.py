"""Why an edit is not made."""

from quant.errors import CoderError


class EditRefused(CoderError):
    """An edit that is not made; no file was changed.

    Attributes:
        path: the file it is about, as it was named; "" when none was.
    """

    def __init__(self, message: str, *, path: str = "", hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.path = path


class FileChanged(EditRefused):
    """A file is no longer as it was read; somebody else has written it since."""


class TooLarge(EditRefused):
    """A file is larger than those that are read and edited."""


class Busy(EditRefused):
    """Another process is applying or undoing edits through the same journal."""


class NothingToUndo(EditRefused):
    """The journal holds no change of the kind asked for."""
