"""What a user may have meant."""

from collections.abc import Sequence
from difflib import get_close_matches

SHOWN = 4


def nearest(word: str, known: Sequence[str]) -> str:
    """A hint: the known word that is nearest, or some of them."""
    close = get_close_matches(word, known, 1)
    if close:
        return f"did you mean {close[0]}?"
    if len(known) == 1:
        return f"there is only {known[0]}"
    more = ", …" if len(known) > SHOWN else ""
    return f"there are {', '.join(known[:SHOWN])}{more}" if known else "there is nothing of the kind"
