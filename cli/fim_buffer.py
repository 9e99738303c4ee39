"""The text that `coder fim` works on: a file's, or that of an editor's buffer on stdin, read in the same way."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from quant.errors import InputError

if TYPE_CHECKING:
    from coderv2_local.fim.target import Target


def source_text(place: "Target", *, stdin: bool, notify: Callable[[str], None]) -> str:
    """The text of the file that `place` names, or of its unsaved buffer on stdin. Line ends are untouched.

    Raises:
        InputError: missing, unreadable, too large, binary, or in an encoding that is not read.
    """
    from coderv2_local.fim.source import read_source
    from coderv2_local.fim.target import TARGET

    if _is_missing(place.path):
        if TARGET.fullmatch(str(place.path)):  # a.py:3:1:2 is line 1 of a.py:3, if there were such a file
            raise InputError(
                f"{place} has a number too many: there is no file {place.path}",
                hint="give FILE:LINE, FILE:LINE:COL or FILE:A-B",
            )
        if not stdin:
            raise InputError(
                f"{place.path}: no such file", hint="save it first; or --stdin reads its text, as an editor has it"
            )
    return _buffer_text(notify) if stdin else read_source(place.path).text


def _is_missing(path: Path) -> bool:
    """Is there no such file? What else keeps it from being read is said where it is read."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        return False
    return False


def _buffer_text(notify: Callable[[str], None]) -> str:
    """All of stdin, as a file with these bytes would be read."""
    from coderv2_local.edits.refusal import EditRefused, TooLarge
    from coderv2_local.edits.text_files import MAX_FILE_BYTES, decode

    if sys.stdin.isatty():
        notify("--stdin: the file's text is read from here; Ctrl-D on a line of its own ends it")
    data = sys.stdin.buffer.read(MAX_FILE_BYTES + 1)
    try:
        return decode(data, "the text on stdin").text
    except EditRefused as error:
        hint = "the lines near the cursor are enough" if isinstance(error, TooLarge) else "send it as UTF-8"
        raise InputError(error.message, hint=hint) from None
