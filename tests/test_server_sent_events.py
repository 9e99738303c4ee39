"""Server-sent events: the same wherever the stream is cut, and bounded."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coderv2_local.remote.server_sent_events import EventTooLarge, event_data

LINE = st.text(st.characters(exclude_characters="\r\n", exclude_categories=["Cs"]), max_size=9)


@given(st.lists(st.lists(LINE, min_size=1, max_size=3), max_size=5), st.sampled_from(["\n", "\r\n", "\r"]), st.data())
def test_events_are_the_same_wherever_the_stream_is_cut(texts, end, data):
    written = ("".join(f"data: {line}{end}" for line in text) for text in texts)
    stream = "".join(f": ping{end}id: 3{end}{event}{end}" for event in written).encode()
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=12)))
    cuts += [i + 1 for i in range(len(stream)) if stream[i : i + 2] == b"\r\n"] if data.draw(st.booleans()) else []
    pieces = [stream[a:b] for a, b in itertools.pairwise([0, *sorted(cuts), len(stream)])]
    assert list(event_data(pieces)) == ["\n".join(text) for text in texts]


def test_the_format_of_events():
    assert list(event_data([b"\xef\xbb\xbfdata:a\n\ndata: b\ndata:  c\n\nevent: x\n\ndata\n\ndata: d\n"])) == [
        "a",
        "b\n c",
        "",
        "d",
    ]
    assert list(event_data([b"data: complete\n\ndata: cut"])) == ["complete"]
    for endless in ([b"data: " + b"a" * 200], [b"data: a\n"] * 200, [b"x"] * 200):
        with pytest.raises(EventTooLarge):
            list(event_data(endless, limit=100))
