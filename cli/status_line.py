"""The line below the keyboard: model, how full the context is, how fast the last answer came."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from prompt_toolkit.formatted_text import StyleAndTextTuples

    from coderv2_local.backend import Generation

METER = 10  # cells
FULL, NEARLY_FULL = 0.95, 0.8  # shares of the context


def meter(used: int | None, size: int | None) -> str:
    """How much of the context is used, in words and as a bar."""
    if size is None:
        return "context unknown" if used is None else f"{used} tokens"
    if used is None:
        return f"context {size}"
    share = min(used / size, 1.0)
    filled = round(share * METER)
    return f"{'▓' * filled}{'░' * (METER - filled)} {used} of {size} tokens ({share:.0%})"


def speed(generation: "Generation | None") -> str:
    """Tokens a second of an answer; "" where there is none, or it was too short to tell."""
    if generation is None or generation.tokens < 2 or generation.seconds <= 0:
        return ""
    return f"{(generation.tokens - 1) / generation.seconds:.1f} tok/s"


def status(name: str, used: int | None, size: int | None, last: "Generation | None") -> "StyleAndTextTuples":
    """The line as styled text for prompt-toolkit."""
    share = used / size if used is not None and size else 0.0
    style = "ansired" if share >= FULL else "ansiyellow" if share >= NEARLY_FULL else ""
    parts = [("bold", name), (style, meter(used, size)), ("", speed(last))]
    line: StyleAndTextTuples = []
    for style, text in parts:
        if text:
            line += [("", " │ " if line else " "), (style, text)]
    return line
