"""The lines of a session file: events as JSON, checked when they are read."""

import json
from typing import Any

from coderv2_local.sessions.conversation import Event
from quant.errors import InputError

FORMAT = 1
"""In the first line of each file, as ``coder_session``."""

FIELDS: dict[str, dict[str, type | tuple[type, ...]]] = {
    "system": {"text": str},
    "attach": {"name": str, "text": str, "digest": str},
    "detach": {"name": str},
    "clear": {},
    "ask": {"text": str, "changed": list},
    "answer": {"text": str, "cut": bool, "vocabulary": str, "ids": (list, type(None))},
    "take_back": {},
    "shrink": {"turns": int, "files": list},
}
"""What each event must have."""


def to_line(event: Event) -> bytes:
    """An event as a line of its file. Text may hold halves of surrogate pairs, which a terminal can produce."""
    return json.dumps(event, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass") + b"\n"


def parse(data: bytes, path: str) -> list[Event]:
    """The lines of a file: what it is, then its events.

    Raises:
        InputError: a line is none of ours; it is named.
    """
    events: list[Event] = []
    for n, line in enumerate(data.split(b"\n")[:-1], 1):
        try:
            event = json.loads(line.decode("utf-8", "surrogatepass"))
        except (ValueError, RecursionError):
            raise InputError(f"{path}, line {n}: not JSON", hint="remove that line, or the file") from None
        if wrong := _wrong_with(event, is_first=n == 1):
            raise InputError(f"{path}, line {n}: {wrong}", hint="remove that line, or the file")
        events.append(event)
    return events


def _wrong_with(event: Any, *, is_first: bool) -> str:
    """What is wrong with a line, or ""."""
    if not isinstance(event, dict):
        return "not an object"
    if is_first:
        known = event.get("coder_session")
        return "" if known == FORMAT else f"a session of format {known!r:.20}: this program reads {FORMAT}"
    fields = FIELDS.get(event.get("do", ""))
    if fields is None:
        return f"no event is called {event.get('do')!r:.40}"
    for name, kind in fields.items():
        if not isinstance(event.get(name), kind):
            return f"its {name!r} is not what it should be"
    if any(not isinstance(i, int) for i in event.get("ids") or ()):
        return "its ids are no numbers"
    for file in event.get("changed", ()):
        if not isinstance(file, dict) or not all(isinstance(file.get(k), str) for k in ("name", "text", "digest")):
            return "a changed file is not what it should be"
    return ""
