"""Text encoded line by line, with lines remembered: the ids are those of the text as a whole."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coderv2_local.serving import line_ids
from coderv2_local.serving.line_ids import LINE_BY_LINE, LineIds
from tests.conftest import ROOT

METADATA = {"tokenizer.ggml.pre": "deepseek-llm"}
PIECES = st.sampled_from(
    ["\n", "\n\n", "\r\n", "\t", "  ", " a", "def f(x):", "é", "中文", "🙂", "\u2028", "\x0b", "1234", "!?"]
)


@pytest.fixture
def lines(tiny):
    return LineIds(tiny.vocabulary, METADATA)


def test_the_shipped_model_s_text_is_encoded_by_lines(tiny):
    assert tiny.engine.header.metadata["tokenizer.ggml.pre"] in LINE_BY_LINE


def test_a_file_has_the_same_ids_the_first_time_and_the_second(tiny, lines):
    for path in sorted((ROOT / "coderv2_local").glob("*.py")):
        text = path.read_text()
        expected = tiny.vocabulary.encode(text)
        assert lines.encode(text) == expected
        assert lines.encode(text) == expected
        assert lines.count(text) == len(expected)


@settings(max_examples=300, deadline=None)
@given(texts=st.lists(st.one_of(st.text(max_size=40), st.lists(PIECES, max_size=20).map("".join)), max_size=4))
def test_any_text_has_the_ids_that_it_has_as_a_whole(tiny, texts):
    lines = LineIds(tiny.vocabulary, METADATA)
    for text in (*texts, *texts):
        assert lines.encode(text) == tiny.vocabulary.encode(text)


def test_a_line_that_is_known_is_not_encoded_again(tiny, lines, monkeypatch):
    asked = []
    monkeypatch.setattr(lines, "_encode", lambda text: asked.append(text) or tiny.vocabulary.encode(text))
    lines.encode("def a():\n    return 1\n\ndef b")
    lines.encode("def a():\n    return 2\n\ndef bc")
    lines.encode("def a():\n")
    assert asked == ["def a():\n    return 1\n\ndef b", "    return 2\ndef bc"]


def test_a_tokenizer_that_may_join_lines_is_given_the_whole_text(tiny, monkeypatch):
    lines = LineIds(tiny.vocabulary, {"tokenizer.ggml.pre": "llama-bpe"})
    asked = []
    monkeypatch.setattr(lines, "_encode", lambda text: asked.append(text) or [])
    lines.encode("a\n\nb")
    lines.encode("a\n\nb")
    assert asked == ["a\n\nb", "a\n\nb"]


def test_what_is_remembered_is_bounded(tiny, lines, monkeypatch):
    monkeypatch.setattr(line_ids, "MOST_LINES", 100)
    for n in range(5):
        text = "".join(f"line {n} {i}\n" for i in range(70)) + "x" * 300 + "\n"
        assert lines.encode(text) == tiny.vocabulary.encode(text)
        assert len(lines) <= 100
    assert not any(len(line) > line_ids.LONGEST_LINE for line in lines._known)
