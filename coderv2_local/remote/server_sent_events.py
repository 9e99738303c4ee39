"""Server-sent events: a stream of bytes, cut anywhere, → the data of each event.

The format is the one of the HTML standard, section 9.2 (``text/event-stream``). What memory it takes is bounded.
"""

from collections.abc import Iterable, Iterator

EVENT_LIMIT = 1 << 20
"""Bytes that one event may have; those of a chat have a few hundred."""


class EventTooLarge(ValueError):
    """A line or an event longer than the limit."""


def event_data(chunks: Iterable[bytes], limit: int = EVENT_LIMIT) -> Iterator[str]:
    """The data of each event. An event whose last line was never completed is dropped.

    Raises:
        EventTooLarge: a line or an event has more than `limit` bytes.
    """
    data: list[str] = []
    size = 0
    for line in lines(chunks, limit):
        if not line:
            if data:
                yield "\n".join(data)
            data, size = [], 0
            continue
        field, _, value = line.partition(b":")
        if field == b"data":  # other fields, and comments, which have an empty name, carry no text
            size += len(value) + 1
            if size > limit:
                raise EventTooLarge(f"an event of more than {limit} bytes")
            data.append(value.removeprefix(b" ").decode("utf-8", "replace"))
    if data:  # some servers leave out the empty line after the last event
        yield "\n".join(data)


def lines(chunks: Iterable[bytes], limit: int = EVENT_LIMIT) -> Iterator[bytes]:
    """Complete lines, without their ends, which may be LF, CR LF or CR. A byte order mark at the start is skipped.

    Raises:
        EventTooLarge: a line has more than `limit` bytes.
    """
    pending = bytearray()
    begun = ended_with_cr = False
    for chunk in chunks:
        if ended_with_cr and chunk:
            chunk = chunk.removeprefix(b"\n")  # the second half of a CR LF
            ended_with_cr = False
        # bytes.splitlines knows exactly the three line ends of this format
        for piece in chunk.splitlines(keepends=True):
            content = piece.rstrip(b"\r\n")
            if len(pending) + len(content) > limit:
                raise EventTooLarge(f"a line of more than {limit} bytes")
            pending += content
            if len(content) < len(piece):
                line = bytes(pending)
                pending.clear()
                yield line if begun else line.removeprefix(b"\xef\xbb\xbf")
                begun = True
        ended_with_cr = chunk.endswith(b"\r") or (ended_with_cr and not chunk)
