"""JSON on its way out."""

import json
from typing import Any

from starlette.responses import JSONResponse


def to_json(value: Any) -> bytes:
    """`value` in as few bytes as ASCII takes.

    A string of a request may hold half of a surrogate pair, which no UTF-8 can hold: an answer that repeats it sends
    it as it came, as an escape.
    """
    return json.dumps(value, separators=(",", ":"), allow_nan=False).encode()


class JsonAnswer(JSONResponse):
    """An answer of JSON, or of bytes that are JSON already."""

    def render(self, content: Any) -> bytes:
        return content if isinstance(content, bytes) else to_json(content)
