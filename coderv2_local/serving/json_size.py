"""How much memory the values of a JSON text take: seen from its punctuation, before any of them is made.

`{"":0},` are seven bytes as text and up to 240 in memory: a body within its limit could become thirty times as large.
"""

MOST = 64 << 20
"""Bytes that the values of one request may take: a million token ids take 48 MB."""
ITEM = 48  # a number and its place in an array; a place alone for what is counted below
STRING = 72
ARRAY = 72
OBJECT = 144
MEMBER = 96  # of an object: its place, and those that the table holds free


def size_of_values(data: bytes) -> int:
    """Bytes that the values in `data` take at most, beyond the text of its strings; of no JSON, those up to the fault.

    Beyond `MOST` it is only known that there are more.
    """
    bare = data.replace(b"\\\\", b"").replace(b'\\"', b"")  # each quote begins or ends a string now
    strings = bare.count(b'"') // 2
    size = strings * STRING
    if size > MOST:  # to take so many out would take as much memory
        return size
    outside = b"".join(bare.split(b'"')[::2])
    arrays, objects, members = outside.count(b"["), outside.count(b"{"), outside.count(b":")
    return size + (outside.count(b",") + 1) * ITEM + arrays * ARRAY + objects * OBJECT + members * MEMBER
