"""Where a TOML text sets a key. The parser tells where a text is broken, but not where a sound value stands."""

import re

NAME = r"""(?:[\w-]+|"[^"\n]*"|'[^'\n]*')"""
LINE = re.compile(rf"\s*(?P<table>\[\[?)?\s*(?P<names>{NAME}(?:\s*\.\s*{NAME})*)\s*(?(table)\]|=)")
LONG_QUOTE = re.compile("\"\"\"|'''")


def line_of(text: str, key: tuple[str, ...]) -> int | None:
    """The number, from 1, of the line that sets `key`, such as ("chat", "context"), or else the table it is in.

    None where neither is there.
    """
    table: tuple[str, ...] = ()
    found, known, quote = None, 0, ""
    for number, line in enumerate(text.split("\n"), 1):
        if not quote and (match := LINE.match(line)):
            names = tuple(name.strip("\"'") for name in re.findall(NAME, match["names"]))
            names = names if match["table"] else table + names
            table = names if match["table"] else table
            length = min(len(names), len(key))
            if length > known and names[:length] == key[:length]:
                found, known = number, length
        for each in LONG_QUOTE.findall(line):  # a text of several lines, where all may look like keys
            quote = "" if each == quote else quote or each
    return found
