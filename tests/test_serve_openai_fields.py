"""Fields of requests: what would change the answer and cannot be had is refused by name, what is told of it is true."""

from collections.abc import Iterator
from types import SimpleNamespace

import pytest
from serve_process import HELLO, Served, serving

from coderv2_local.local_backend import LocalBackend
from coderv2_local.prompt.layout import infill_prompt
from coderv2_local.serving.infill_prompt import infill_layout
from coderv2_local.serving.state import Serving
from coderv2_local.serving.text_tokens import tokens_of

BEFORE = 'def is_even(n):\n    """Return True if n is even."""\n    return '
AFTER = "\n\n\ndef add(a, b):\n    return a + b\n"
BODIES = {
    "/v1/chat/completions": {"messages": HELLO, "max_tokens": 2},
    "/v1/completions": {"prompt": "def f", "max_tokens": 2},
    "/completion": {"prompt": "def f", "n_predict": 2},
    "/infill": {"input_prefix": BEFORE, "input_suffix": AFTER, "n_predict": 2},
}
REFUSED = {
    "frequency_penalty": (0.5, 0, "use repeat_penalty"),
    "presence_penalty": (-1, 0.0, "use repeat_penalty"),
    "n": (2, 1, "one answer"),
    "best_of": (3, 1, "one answer"),
    "echo": (True, False, "not sent back"),
    "tools": ([{"type": "function", "function": {"name": "f"}}], [], "tools"),
    "tool_choice": ("required", "auto", "tools"),
    "functions": ([{"name": "f"}], [], "functions"),
    "mirostat": (2, 0, "top_k"),
    "typical_p": (0.5, 1.0, "top_k"),
    "top_n_sigma": (1.0, -1, "top_k"),
    "xtc_probability": (0.1, 0, "top_k"),
    "dynatemp_range": (0.5, 0.0, "top_k"),
    "dry_multiplier": (0.8, 0.0, "top_k"),
    "repetition_penalty": (1.1, 1.0, "use repeat_penalty"),
    "repeat_last_n": (0, 64, "64 tokens"),
    "length_penalty": (0.5, 1.0, "top_k"),
    "use_beam_search": (True, False, "top_k"),
    "min_tokens": (5, 0, "ignore_eos"),
    "stop_token_ids": ([5], [], "use stop"),
    "bad_words": (["x"], [], "logit_bias"),
    "allowed_token_ids": ([5], [], "logit_bias"),
    "include_stop_str_in_output": (True, False, "ends the answer"),
    "guided_json": ({"type": "object"}, None, "json_schema"),
    "guided_regex": ("a+", None, "grammar"),
    "guided_choice": (["a", "b"], None, "grammar"),
    "guided_grammar": ("root ::= x", None, "grammar"),
    "structured_outputs": ({"choice": ["a"]}, {}, "grammar"),
    "lora": ([{"id": 0, "scale": 1}], [], "adapters"),
    "chat_template": ("{{ messages }}", "", "template"),
    "web_search_options": ({"a": 1}, {}, "web"),
}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("home")) as server:
        yield server


@pytest.mark.parametrize("path", BODIES)
@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_had_is_refused_by_its_name_and_nothing_else_is(served: Served, path, name):
    wrong, neutral, why = REFUSED[name]
    status, answer = served.post(path, {**BODIES[path], name: wrong})
    assert status == 400
    assert (answer["error"]["param"], answer["error"]["code"]) == (name, "unsupported_parameter")
    assert answer["error"]["message"].startswith(f"{name}: ")
    assert why in answer["error"]["message"]
    for value in {str(v): v for v in (neutral, None)}.values():
        assert served.post(path, {**BODIES[path], name: value})[0] == 200, value


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
def test_n_probs_belongs_to_llama_server_s_own_paths(served: Served, path):
    status, answer = served.post(path, {**BODIES[path], "n_probs": 2})
    assert (status, answer["error"]["param"]) == (400, "n_probs")
    assert "logprobs" in answer["error"]["message"]


@pytest.mark.parametrize("path", ["/completion", "/infill"])
def test_n_probs_gives_the_probabilities_of_what_was_written(served: Served, path):
    body = BODIES[path] | {"n_predict": 5, "n_probs": 3, "rules": False}
    answer = served.post(path, body)[1]
    found = answer["completion_probabilities"]
    assert [one["id"] for one in found] == answer["tokens"]
    assert all(len(one["top_logprobs"]) == 3 for one in found)
    assert all(one["logprob"] == one["top_logprobs"][0]["logprob"] for one in found[:1]), "greedy takes the best"
    assert "".join(one["token"] for one in found) == answer["content"]
    events = list(served.events(path, {k: v for k, v in body.items() if k != "rules"}))
    streamed = [one["id"] for e in events for one in e.get("completion_probabilities", [])]
    assert streamed == answer["tokens"]
    assert "completion_probabilities" not in served.post(path, body | {"n_probs": 0})[1]


def test_ignore_eos_goes_on_to_the_limit(served: Served):
    body = {"messages": HELLO, "max_tokens": 400}
    assert served.post("/v1/chat/completions", body)[1]["choices"][0]["finish_reason"] == "stop"
    answer = served.post("/v1/chat/completions", body | {"ignore_eos": True})[1]
    assert answer["choices"][0]["finish_reason"] == "length"
    assert answer["usage"]["completion_tokens"] == 400


def test_the_word_that_ended_the_answer_is_told(served: Served, tiny: LocalBackend):
    body = {"prompt": "def add(a, b):\n", "n_predict": 30, "temperature": 0}
    text = served.post("/completion", body)[1]["content"]
    stop = text[12:16]
    answer = served.post("/completion", body | {"stop": ["never there", text[13:17], stop]})[1]
    assert answer["content"] == text[: text.index(stop)]
    assert (answer["stop_type"], answer["stopping_word"]) == ("word", stop)
    assert tiny.vocabulary.decode(answer["tokens"]) == answer["content"], "the tokens are those of the text"
    assert served.post("/completion", body)[1]["stopping_word"] == ""


def done(ids: list[int], text: str, *, drop_space: bool = False) -> SimpleNamespace:
    """What a job is in the end, as far as it matters here."""
    return SimpleNamespace(ids=ids, text=text, task=SimpleNamespace(drop_space=drop_space))


def test_the_tokens_are_those_of_what_the_rules_left(served: Served, tiny: LocalBackend):
    vocabulary = tiny.vocabulary
    text = "return a + b\n\n    # und so weiter: größer 你好"
    ids = vocabulary.encode(text)
    for end in range(len(text) + 1):
        whole, tokens = tokens_of(done(ids, text[:end]), vocabulary)
        assert vocabulary.decode(tokens) == text[:end]
        assert tokens[:whole] == ids[:whole]
    assert tokens_of(done(ids[:-1], vocabulary.decode(ids[:-1])), vocabulary)[1] == ids[:-1]
    assert vocabulary.decode(tokens_of(done(ids, "a + b"), vocabulary)[1]) == "a + b"
    answer = served.post("/infill", {"input_prefix": BEFORE, "input_suffix": AFTER, "n_predict": 60})[1]
    assert vocabulary.decode(answer["tokens"]) == answer["content"]


def test_a_prompt_that_was_cut_says_so(served: Served):
    body = {"input_prefix": BEFORE, "input_suffix": AFTER, "n_predict": 4}
    assert served.post("/infill", body)[1]["truncated"] is False
    long = "".join(f"value_{i} = compute({i})\n" for i in range(2000))
    for more in ({"input_prefix": long + BEFORE}, {"input_suffix": AFTER + long}):
        assert served.post("/infill", body | more)[1]["truncated"] is True
    events = list(served.events("/infill", body | {"input_prefix": long + BEFORE}))
    assert events[-1]["truncated"] is True


@pytest.mark.parametrize("grammar", ['root ::= (("a"?){1000}){100}', 'root ::= ("a"?){500}', 'root ::= (" "?){30}'])
@pytest.mark.parametrize("path", BODIES)
def test_a_grammar_that_would_never_end_is_refused_and_the_next_infill_is_answered(served: Served, path, grammar):
    status, answer = served.post(path, {**BODIES[path], "grammar": grammar})
    assert (status, answer["error"]["param"], answer["error"]["code"]) == (400, "grammar", "invalid_grammar")
    status, answer = served.post("/infill", BODIES["/infill"])
    assert status == 200
    assert answer["tokens_predicted"]


def test_a_schema_that_is_not_understood_has_its_code(served: Served):
    body = {"messages": HELLO, "json_schema": {"type": "string", "pattern": "^(a+)+$"}}
    status, answer = served.post("/v1/chat/completions", body)
    assert (status, answer["error"]["param"], answer["error"]["code"]) == (400, "json_schema", "invalid_grammar")


@pytest.mark.parametrize("path", BODIES)
def test_n_predict_is_a_limit_at_every_path(served: Served, path):
    body = {k: v for k, v in BODIES[path].items() if k not in ("max_tokens", "n_predict")}

    def tokens(answer: dict) -> int:
        return answer["usage"]["completion_tokens"] if "usage" in answer else answer["tokens_predicted"]

    for wanted in (3, 0):
        answer = served.post(path, {**body, "n_predict": wanted, "ignore_eos": True, "rules": False})[1]
        assert tokens(answer) == wanted
    assert served.post(path, {**body, "n_predict": -3})[1]["error"]["param"] == "n_predict"
    if path.startswith("/v1"):
        both = served.post(path, {**body, "max_tokens": 2, "n_predict": 5, "ignore_eos": True})[1]
        assert tokens(both) == 2, "the interface's own name goes first"


@pytest.mark.parametrize("path", BODIES)
def test_samplers_that_are_not_named_are_off_at_every_path(served: Served, path):
    """With a draw from all tokens, at a high temperature, nothing but top_k = 1 makes the answers equal."""
    body = {**BODIES[path], "temperature": 10, "top_k": 1, "rules": False} | {
        name: 8 for name in ("max_tokens", "n_predict") if name in BODIES[path]
    }

    def text(**more: object) -> str:
        answer = served.post(path, {**body, **more})[1]
        choice = answer["choices"][0] if "choices" in answer else {"text": answer["content"]}
        return choice["text"] if "text" in choice else choice["message"]["content"]

    assert len({text(seed=n, samplers=["top_k", "top_p"]) for n in range(3)}) == 1
    assert len({text(seed=n, samplers=["temperature"]) for n in range(3)}) == 3
    assert len({text(seed=n, samplers="kpt") for n in range(2)}) == 1, "letters are not looked at"
    for wrong in ([1], ["top_k"] * 65):
        assert served.post(path, {**body, "samplers": wrong})[1]["error"]["param"] == "samplers"


def test_a_whole_context_is_shown_to_who_asks_with_a_suffix(tiny: LocalBackend):
    """`/v1/completions` cuts nothing that fits the context; `coder fim`'s budgets are for `/infill`."""
    room = Serving(tiny, "test", "test")
    n_ctx, vocabulary = tiny.n_ctx, tiny.vocabulary
    line = "value = compute(1)\n"

    def text(tokens: int) -> str:
        return line * (tokens // len(vocabulary.encode(line)))

    for limit in (None, 128, n_ctx, 10 * n_ctx):
        ids, is_cut = infill_layout(room, text(700), text(700), limit, as_it_is=True)
        assert not is_cut, limit
        assert ids == infill_prompt(vocabulary.encode(text(700)), vocabulary.encode(text(700)), vocabulary)
    for before, after in ((2500, 0), (0, 2500), (300, 2500), (2500, 300), (2500, 2500)):
        ids, is_cut = infill_layout(room, text(before), text(after), 128, as_it_is=True)
        assert is_cut
        assert n_ctx - 128 - 0.6 * n_ctx < len(ids) <= n_ctx - 128
    ids, _ = infill_layout(room, text(300), text(2500), 128, as_it_is=True)
    assert vocabulary.decode(ids).count(line) * len(vocabulary.encode(line)) > 1700, "a short prefix leaves its room"
    kept = infill_layout(room, "a\r\n" * 2500, "b\r\n", 128, as_it_is=True)[0]
    assert "\n" not in vocabulary.decode(kept).replace("\r\n", ""), "line breaks are those of the request"
