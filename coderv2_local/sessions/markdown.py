"""A session as Markdown."""

from collections.abc import Sequence

from coderv2_local.sessions.conversation import Event

_HEADINGS = {"system": "System", "ask": "You", "answer": "Answer"}
_REMARKS = {"take_back": "The answer above was taken back.", "clear": "The conversation was cleared."}


def as_markdown(name: str, events: Sequence[Event]) -> str:
    """A session for people to read: every turn, also those that the model no longer saw."""
    parts = [f"# {name}"]
    goes_on = False  # the last part is an answer that was cut
    for event in events:
        kind, text = event["do"], event.get("text", "")
        if kind == "answer" and goes_on:
            parts[-1] += text
        elif kind in _HEADINGS:
            parts.append(f"## {_HEADINGS[kind]}\n\n{text}")
        elif kind == "attach":
            parts.append(f"*{event['name']} was added.*")
        elif kind in _REMARKS:
            parts.append(f"*{_REMARKS[kind]}*")
        goes_on = kind == "answer" and event["cut"]
    return "\n\n".join(parts) + "\n"
