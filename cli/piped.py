"""Text on standard input."""

import sys

from quant.errors import InputError

MAX_CHARACTERS = 4_000_000


def piped_text() -> str:
    """All of stdin, its line ends untouched.

    Raises:
        InputError: it is no UTF-8 text, or longer than any context here.
    """
    data = sys.stdin.buffer.read(4 * MAX_CHARACTERS + 1)
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"the text on stdin is not UTF-8 (byte {error.start})", hint="pass text") from None
    if len(text) > MAX_CHARACTERS:
        raise InputError(f"more than {MAX_CHARACTERS} characters on stdin", hint="no model here reads so much")
    return text
