"""The local backend: stop strings, ids that fit the text, reasons, log-probabilities, and prompts that are refused."""

import json

import pytest

from coderv2_local.backend import Generation
from coderv2_local.engine import ContextFull, Engine
from coderv2_local.local_backend import LocalBackend
from coderv2_local.models import find_model
from coderv2_local.placement.load_options import LoadOptions
from coderv2_local.prompt.layout import Message
from coderv2_local.sampling.sampler import SamplingOptions
from coderv2_local.states.kept_states import KeptStates
from coderv2_local.states.prefix_states import PrefixStates
from coderv2_local.stream import whole_pieces
from coderv2_local.token_engine import TokenEngine
from quant.errors import InputError

QUESTION = [Message("user", "Write a Python function `is_even`: Return True if a number is even")]
PREFIX, SUFFIX = "def add(a, b):\n    ", "\n\nprint(add(1, 2))\n"


@pytest.fixture(scope="module")
def backend():
    with LocalBackend(find_model("tiny").path, LoadOptions(n_threads=1)) as backend:
        yield backend


def chat(backend, n=60, **options) -> tuple[str, Generation]:
    generation = backend.chat(QUESTION, SamplingOptions(**options), n)
    return "".join(generation), generation


def test_the_reason_says_how_it_ended(backend):
    text, whole = chat(backend, 200, repeat_penalty=1.2)
    assert whole.reason == "end"
    assert whole.tokens == len(whole.ids) < 200
    assert chat(backend, 5)[1].reason == "length"
    assert chat(backend, 200, repeat_penalty=1.2, stop=[text[20:24]])[1].reason == "stop"
    unfinished = backend.chat(QUESTION, SamplingOptions(), 60)
    next(iter(unfinished))
    unfinished.chunks.close()
    assert unfinished.reason is None


@pytest.mark.parametrize("length", [1, 2, 3, 7])
def test_the_text_ends_before_a_stop_wherever_it_begins_in_a_token(backend, length):
    text, _ = chat(backend, 60)
    for at in range(1, len(text) - length):
        stop = text[at : at + length]
        cut, generation = chat(backend, 60, stop=["never in there", stop])
        assert cut == text[: text.index(stop)]
        assert generation.reason == "stop"
        # with the space that the plain format puts first: what a conversation hands back is what was shown
        assert backend.vocabulary.decode(generation.ids) == (" " + cut if generation.ids else "")


def test_a_conversation_goes_on_from_the_text_and_not_from_the_stop(backend):
    text, _ = chat(backend, 40)
    answer, first = chat(backend, 40, stop=[text[25:29]])
    assert first.tokens > len(first.ids)
    following = [*QUESTION, Message("assistant", answer, tuple(first.ids)), Message("user", "Why?")]
    second = backend.chat(following, SamplingOptions(), 3)
    "".join(second)
    # all but the tokens around the place where the stop began is still evaluated
    assert second.reused_tokens >= first.prompt_tokens + len(first.ids) - 2
    encoded = backend.chat([*QUESTION, Message("assistant", answer), Message("user", "Why?")], SamplingOptions(), 3)
    "".join(encoded)
    assert abs(second.prompt_tokens - encoded.prompt_tokens) <= 2


def test_infill_stops_too(backend):
    whole = "".join(backend.infill(PREFIX, SUFFIX, SamplingOptions(), 30))
    generation = backend.infill(PREFIX, SUFFIX, SamplingOptions(stop=[whole[3:5]]), 30)
    assert "".join(generation) == whole[: whole.index(whole[3:5])]
    assert generation.reason == "stop"


def test_a_stop_at_the_very_beginning_leaves_nothing(backend):
    text, _ = chat(backend, 10)
    cut, generation = chat(backend, 10, stop=[text[:3]])
    assert (cut, generation.reason) == ("", "stop")
    assert backend.vocabulary.decode(generation.ids).strip() == ""


def test_the_most_that_makes_whole_characters_is_counted():
    smile = "🙂".encode()
    pieces = [b"ab", smile[:2], smile[2:] + b"c", b"d"]
    assert whole_pieces(pieces, 0) == (0, "")
    assert whole_pieces(pieces, 1) == (0, "a")
    assert whole_pieces(pieces, 2) == (1, "")
    assert whole_pieces(pieces, 3) == (1, "🙂")
    assert whole_pieces(pieces, 4) == (3, "")
    assert whole_pieces(pieces, 9) == (4, "")
    assert whole_pieces([b"a", smile[:2]], 2) == (1, "\ufffd")


def test_characters_that_no_token_holds_come_out_whole(backend):
    text, generation = chat(backend, 30, grammar='root ::= "🙂漢" "x"')
    assert text == "🙂漢x"
    assert generation.reason == "end"
    assert generation.tokens > 3
    cut, generation = chat(backend, 30, grammar='root ::= "🙂漢" "x"', stop=["漢"])
    assert cut == "🙂"
    assert backend.vocabulary.decode(generation.ids) == "🙂"


def test_nothing_that_steers_a_terminal_gets_through(backend):
    text, _ = chat(backend, 30, grammar='root ::= "a" "\\x1b[31mb\\x07" "\\u202e" "c"')
    assert text == "a[31mbc"


def test_an_answer_as_json(backend):
    schema = {"type": "object", "properties": {"name": {"type": "string", "maxLength": 8}}, "required": ["name"]}
    text, generation = chat(backend, 60, json_schema=json.dumps(schema))
    assert generation.reason == "end"
    assert set(json.loads(text)) == {"name"}
    assert backend.capabilities.grammar


@pytest.mark.parametrize("options", [{"grammar": "root ::= ("}, {"json_schema": '{"type": "integer", "minimum": 3}'}])
def test_what_cannot_be_followed_is_refused_before_the_prompt_is_evaluated(backend, options):
    backend.engine.truncate(0)
    with pytest.raises(InputError):
        backend.chat(QUESTION, SamplingOptions(**options), 20)
    assert backend.engine.tokens == []


def test_log_probabilities_come_with_the_ids(backend):
    _, generation = chat(backend, 12, logprobs=2)
    assert [each.token for each in generation.logprobs] == generation.ids
    assert all(len(each.top) == 2 and each.logprob == each.top[0][1] <= 0 for each in generation.logprobs)
    assert chat(backend, 12)[1].logprobs == []
    assert backend.capabilities.logprobs


def test_special_tokens_are_never_part_of_an_answer(backend):
    special = [i for i in backend.vocabulary.special_ids() if not backend.vocabulary.is_end(i)]
    assert special
    _, generation = chat(backend, 30, logit_bias=dict.fromkeys(special, 1000.0))
    assert not set(generation.ids) & set(special)


def test_a_prompt_that_leaves_no_room_is_refused_at_once(backend):
    with pytest.raises(ContextFull, match="no room"):
        backend.chat([Message("user", "word " * 4000)], SamplingOptions(), 100)


def test_progress_is_told_and_what_it_raises_cancels(backend):
    backend.engine.truncate(0)

    def no(done: int, of: int) -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        "".join(backend.chat(QUESTION, SamplingOptions(), 5, no))
    seen = []
    backend.engine.truncate(0)
    "".join(backend.chat(QUESTION, SamplingOptions(), 5, lambda done, of: seen.append((done, of))))
    assert seen[-1][0] == seen[-1][1] == backend.prompt_length(QUESTION)


def test_a_model_can_fill_in_where_its_vocabulary_has_the_tokens(backend, tmp_path):
    data = find_model("tiny").path.read_bytes()
    unnamed = data.replace(b"ggml.fim_", b"ggml.fyn_")
    for name, content in (("unnamed", unnamed), ("none", unnamed.replace("｜fim▁".encode(), "｜fyn▁".encode()))):
        path = tmp_path / f"{name}.gguf"
        path.write_bytes(content)
        with LocalBackend(path, LoadOptions(n_threads=1)) as other:
            assert other.capabilities.infill == (name == "unnamed")
            if other.capabilities.infill:
                assert other.vocabulary.fim() == backend.vocabulary.fim()
            else:
                with pytest.raises(InputError, match="no fill-in-the-middle token ids"):
                    other.infill(PREFIX, SUFFIX, SamplingOptions(), 8)


class Recorded:
    """Another engine: of the real one, it is asked for nothing but what the seam names."""

    def __init__(self, path, options, *, taps, header):
        self._engine, self.asked = Engine(path, options, taps=taps, header=header), set()

    def __getattr__(self, name):
        assert hasattr(TokenEngine, name), f"{name} is not in the seam"
        self.asked.add(name)
        return getattr(self._engine, name)


def test_another_engine_stands_behind_the_seam(tiny, tmp_path):
    question = [Message("user", "Write a Python function `add`: Add two numbers")]
    path, states = find_model("tiny").path, PrefixStates(tmp_path / "states")
    options = LoadOptions(n_threads=1)
    with LocalBackend(path, options, states=states, kept=KeptStates(), make_engine=Recorded) as other:
        there = "".join(other.chat(question, SamplingOptions(), 24))
        assert other.notices == tiny.notices
        other.save_state("a")
        assert other.restore_state("a") is None
        assert {"generate", "tokens", "state", "set_state", "version"} <= other.engine.asked
    with LocalBackend(path, options) as plain:
        assert there == "".join(plain.chat(question, SamplingOptions(), 24))
