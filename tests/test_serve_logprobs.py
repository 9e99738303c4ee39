"""Log-probabilities: of the tokens whose text the answer has, no more and no less, whole or streamed."""

import asyncio
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from serve_process import HELLO, Served, serving

from coderv2_local.backend import without_first_space
from coderv2_local.local_backend import LocalBackend
from coderv2_local.sampling.logprobs import TokenLogprobs
from coderv2_local.sampling.options import SamplingOptions
from coderv2_local.serving.infill_answer import infill_events
from coderv2_local.serving.jobs import Job, Piece, Task
from coderv2_local.serving.text_tokens import StreamedLogprobs, logprobs_of
from coderv2_local.stream import decode_utf8, until, whole_pieces

CHAT = {"messages": HELLO, "temperature": 0, "max_tokens": 24, "logprobs": True}
TEXT = {"prompt": "def add(a, b):\n", "temperature": 0, "max_tokens": 24, "logprobs": 2}
NATIVE = {"prompt": "def add(a, b):\n", "temperature": 0, "n_predict": 24, "n_probs": 2}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("home")) as server:
        yield server


def tokens(path: str, answer: dict[str, Any]) -> list[str]:
    """The tokens that an answer or an event gives log-probabilities for."""
    if path == "/completion":
        return [one["token"] for one in answer.get("completion_probabilities", [])]
    found = answer["choices"][0]["logprobs"] or {}
    return found["tokens"] if "tokens" in found else [one["token"] for one in found.get("content", [])]


def text_of(path: str, answer: dict[str, Any]) -> str:
    if path == "/completion":
        return answer["content"]
    choice = answer["choices"][0]
    return choice["text"] if "text" in choice else choice.get("message", choice.get("delta"))["content"]


@pytest.mark.parametrize(
    ("path", "body"), [("/v1/chat/completions", CHAT), ("/v1/completions", TEXT), ("/completion", NATIVE)]
)
def test_a_stop_takes_the_log_probabilities_of_what_it_takes(served: Served, path, body):
    alone = served.post(path, body)[1]
    text, pieces = text_of(path, alone), tokens(path, alone)
    assert "".join(pieces).removeprefix(" ") == text.removeprefix(" ")
    for start, end in ((2, 3), (5, 9), (9, 12), (len(text) - 4, len(text))):
        stop = text[start:end]
        cut = served.post(path, {**body, "stop": [stop]})[1]
        said = text_of(path, cut)
        assert said == text[: text.index(stop)]
        room, whole = len(said) + len("".join(pieces)) - len(text), 0
        while len("".join(pieces[: whole + 1])) <= room:
            whole += 1
        assert tokens(path, cut) == pieces[:whole]
        events = [e for e in served.events(path, {**body, "stop": [stop]}) if e.get("choices", True)]
        assert [token for e in events for token in tokens(path, e)] == pieces[:whole]


def test_a_stream_has_the_same_places_of_tokens_as_the_whole_answer(served: Served):
    whole = served.post("/v1/completions", TEXT)[1]["choices"][0]["logprobs"]["text_offset"]
    events = list(served.events("/v1/completions", {**TEXT, "stop": ["never", "\n\n\n\n"]}))
    found = [e["choices"][0]["logprobs"] for e in events if e["choices"][0]["logprobs"]]
    assert [at for one in found for at in one["text_offset"]] == whole


@settings(max_examples=200, deadline=None)
@given(
    text=st.text(st.sampled_from(" abe\n你🙂ß"), min_size=1, max_size=12),
    stops=st.lists(st.text(st.sampled_from(" abe\n你🙂ß"), min_size=1, max_size=3), max_size=2),
    drop_space=st.booleans(),
    cut=st.integers(0, 4),
)
def test_streamed_or_whole_they_are_the_same_wherever_a_character_or_a_stop_is_split(
    tiny: LocalBackend, text, stops, drop_space, cut
):
    vocabulary = tiny.vocabulary
    ids = vocabulary.encode(text)
    ids = ids[: len(ids) - cut] or ids  # it may end in the middle of a character
    job = SimpleNamespace(ids=[], text="", logprobs=[], task=SimpleNamespace(drop_space=drop_space))
    found = StreamedLogprobs(job, vocabulary)

    def generated() -> Iterator[bytes]:
        for n, token in enumerate(ids):
            job.ids.append(token)
            job.logprobs.append(TokenLogprobs(token, -float(n), []))
            yield vocabulary.piece(token)

    decoded, streamed, sent = decode_utf8(generated()), [], 0
    for chunk in until(without_first_space(decoded) if drop_space else decoded, stops):
        job.text += chunk
        streamed += found.of(Piece(chunk, job.logprobs[sent:]))
        sent = len(job.logprobs)
        layout = int(drop_space and vocabulary.decode(job.ids).startswith(" "))
        whole, _ = whole_pieces(map(vocabulary.piece, job.ids), layout + len(job.text))
        assert len(streamed) == whole, "those whose text is there, at once, and none before"
    streamed += found.rest()
    assert streamed == list(logprobs_of(job, vocabulary))
    layout = " " if drop_space and vocabulary.decode(ids).startswith(" ") else ""
    assert (layout + job.text).startswith(vocabulary.decode([one.token for one in streamed]))


def test_a_streamed_middle_counts_tokens_not_pieces(tiny: LocalBackend):
    """Three tokens came while their text was held back: the piece after them says four."""

    async def story() -> list[bytes]:
        task = Task("infill", [1], SamplingOptions(), 9, is_streamed=True)
        job = Job(task, lambda _: None)
        job.worker_sends(Piece("x = ", tokens=4))
        job.worker_sends(Piece("1", tokens=5))
        job.worker_ends()
        room = SimpleNamespace(backend=tiny, name="tiny")
        return [data async for data in infill_events(room, job)]

    events = asyncio.run(story())
    assert [b'"tokens_predicted":%d' % n in data for n, data in zip((4, 5), events, strict=False)] == [True, True]


def test_a_stream_s_last_piece_has_counted_all_tokens(served: Served):
    *pieces, last = served.events("/completion", NATIVE | {"stop": ["never"]})
    predicted = [e["tokens_predicted"] for e in pieces]
    assert predicted == sorted(predicted)
    assert predicted[-1] == last["tokens_predicted"] == 24
