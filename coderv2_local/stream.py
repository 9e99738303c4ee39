"""Token bytes → text that is safe to show: characters completed across tokens, stop strings, no control characters."""

import codecs
import unicodedata
from collections.abc import Generator, Iterable, Iterator, Sequence


def decode_utf8(pieces: Iterable[bytes]) -> Iterator[str]:
    """Text of a stream of bytes whose characters may be split over pieces; impossible bytes become U+FFFD."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    for piece in pieces:
        text = decoder.decode(piece)
        if text:
            yield text
    tail = decoder.decode(b"", final=True)
    if tail:
        yield tail


def until(chunks: Iterable[str], stops: Sequence[str]) -> Generator[str, None, bool]:
    """The stream up to the first of `stops`, which may be split over chunks.

    Text that could be the beginning of a stop is held back until it cannot be. Empty stops are ignored.

    Returns:
        Whether a stop ended it.
    """
    stops = [s for s in stops if s]
    held = ""
    for chunk in chunks:
        held += chunk
        end = _first(held, stops)
        open_from = len(held) - max((_overlap(held, stop) for stop in stops), default=0)
        if end < len(held) and end <= open_from:
            if end:
                yield held[:end]
            return True
        # a stop that may have begun before the one that was found comes first, if it is one
        if open_from:
            yield held[:open_from]
            held = held[open_from:]
    end = _first(held, stops)
    if end:
        yield held[:end]
    return end < len(held)


def whole_pieces(pieces: Iterable[bytes], length: int) -> tuple[int, str]:
    """How many of the leading `pieces` make up no more than `length` characters, and the characters that then lack.

    A piece that ends inside a character is not counted without the one that completes it.
    """
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    text, count, counted = "", 0, 0
    for n, piece in enumerate(pieces, 1):
        text += decoder.decode(piece)
        if len(text) > length:
            break
        if not decoder.getstate()[0]:
            count, counted = n, len(text)
    else:
        text += decoder.decode(b"", final=True)
    return count, text[counted:length]


def _first(text: str, stops: Sequence[str]) -> int:
    """Where the first of `stops` begins; the length of `text` where there is none."""
    return min((at for at in (text.find(stop) for stop in stops) if at >= 0), default=len(text))


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that begins `stop`."""
    return next((n for n in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:n])), 0)


def printable(text: str) -> str:
    """`text` without what could steer a terminal or hide text: control characters but tab and newline, and the
    invisible marks that reorder text (Unicode bidirectional controls).
    """
    return "".join(c for c in text if c in "\t\n" or (unicodedata.category(c) != "Cc" and c not in REORDERING))


REORDERING = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
