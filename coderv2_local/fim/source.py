"""The text of a source file, as the edits read it, so that what is shown is what can be written back."""

from pathlib import Path

from coderv2_local.edits.refusal import EditRefused, TooLarge
from coderv2_local.edits.text_files import FileText, read_text
from quant.errors import InputError

PART = "`coder fim FILE:LINE --stdin` takes the lines around the place, without the rest; LINE counts in them"


def read_source(path: Path) -> FileText:
    """Read a source file: UTF-8 with or without a byte order mark, or UTF-16 with one. Line ends are untouched.

    Raises:
        InputError: missing, unreadable, no plain file, too large, binary, or in another encoding.
    """
    try:
        return read_text(path)
    except TooLarge as error:
        raise InputError(error.message, hint=PART) from None
    except EditRefused as error:
        raise InputError(error.message, hint=error.hint) from None
