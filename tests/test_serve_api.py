"""`coder serve` and the real openai package: what it answers is what the model answers in this process."""

import json
from collections.abc import Iterator

import pytest
from serve_process import EOS, HELLO, Served, serving

from coderv2_local.local_backend import LocalBackend
from coderv2_local.prompt.layout import Message
from coderv2_local.sampling.sampler import SamplingOptions

openai = pytest.importorskip("openai", reason="the openai package is not installed")
TURNS = [Message("user", HELLO[0]["content"])]
GREEDY = SamplingOptions(repeat_penalty=1.2)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("home")) as server:
        yield server


@pytest.fixture
def client(served: Served) -> Iterator["openai.OpenAI"]:
    with openai.OpenAI(base_url=served.address + "/v1", api_key="none needed", max_retries=0) as client:
        yield client


def test_the_one_model_is_listed(client):
    (model,) = client.models.list().data
    assert (model.id, model.owned_by) == ("tiny", "coderv2-local")
    assert client.models.retrieve("tiny").id == "tiny"
    with pytest.raises(openai.NotFoundError, match="one model here"):
        client.models.retrieve("gpt")


def test_an_answer_is_the_model_s_and_its_counts_are_true(client, tiny: LocalBackend):
    answer = client.chat.completions.create(model="tiny", messages=HELLO, temperature=0, max_tokens=50)
    expected = tiny.chat(TURNS, GREEDY, 50)
    assert answer.choices[0].message.content == "".join(expected)
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage.prompt_tokens == tiny.prompt_length(TURNS)
    assert answer.usage.completion_tokens == expected.tokens == 50
    assert answer.usage.total_tokens == 50 + answer.usage.prompt_tokens


def test_the_stream_says_the_same_in_more_than_one_piece(client):
    options = {"model": "tiny", "messages": HELLO, "temperature": 0, "max_tokens": 40}
    whole = client.chat.completions.create(**options)
    chunks = list(client.chat.completions.create(**options, stream=True, stream_options={"include_usage": True}))
    texts = [c.choices[0].delta.content for c in chunks if c.choices and c.choices[0].delta.content]
    assert "".join(texts) == whole.choices[0].message.content
    assert len(texts) > 20
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-2].choices[0].finish_reason == whole.choices[0].finish_reason
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens == 40


def test_a_prompt_that_was_evaluated_is_used_again(client):
    again = None
    for _ in range(2):
        again = client.chat.completions.create(model="tiny", messages=HELLO, max_tokens=4)
    assert again.usage.prompt_tokens_details.cached_tokens == again.usage.prompt_tokens - 1


def test_hanging_up_ends_the_generation(client, served: Served):
    before = served.metric("cancelled_total")
    with client.chat.completions.create(
        model="tiny", messages=HELLO, max_tokens=480, stream=True, logit_bias={EOS: -100}
    ) as stream:
        next(iter(stream))
    served.wait_for("cancelled_total", before + 1)
    served.wait_until_idle()


def test_stop_strings_end_the_answer(client):
    options = {"model": "tiny", "messages": HELLO, "temperature": 0, "max_tokens": 60}
    text = client.chat.completions.create(**options).choices[0].message.content
    stop = text[10:14]
    cut = client.chat.completions.create(**options, stop=[stop, "never there"])
    assert cut.choices[0].message.content == text[: text.index(stop)]
    assert cut.choices[0].finish_reason == "stop"


def test_logprobs_are_those_of_the_model(client, tiny: LocalBackend):
    answer = client.chat.completions.create(
        model="tiny", messages=HELLO, temperature=0, max_tokens=6, logprobs=True, top_logprobs=3
    )
    expected = tiny.chat(TURNS, SamplingOptions(repeat_penalty=1.2, logprobs=3), 6)
    list(expected)
    found = answer.choices[0].logprobs.content
    assert [t.logprob for t in found] == pytest.approx([one.logprob for one in expected.logprobs], abs=1e-3)
    assert [len(t.top_logprobs) for t in found] == [3] * 6
    assert b"".join(bytes(t.bytes) for t in found).decode().strip() == answer.choices[0].message.content.strip()


def test_a_schema_holds_the_answer(client):
    schema = {"type": "object", "properties": {"even": {"type": "boolean"}}, "required": ["even"]}
    answer = client.chat.completions.create(
        model="tiny",
        messages=HELLO,
        max_tokens=100,
        response_format={"type": "json_schema", "json_schema": {"name": "a", "schema": schema}},
    )
    value = json.loads(answer.choices[0].message.content)
    assert list(value) == ["even"]
    assert type(value["even"]) is bool


def test_a_grammar_holds_the_answer(client):
    answer = client.chat.completions.create(
        model="tiny", messages=HELLO, max_tokens=20, extra_body={"grammar": 'root ::= "yes" | "no"'}
    )
    assert answer.choices[0].message.content.strip() in ("yes", "no")


def test_a_completion_goes_on_with_the_text(client, tiny: LocalBackend):
    answer = client.completions.create(
        model="tiny", prompt="def add(a, b):\n", temperature=0, max_tokens=12, logprobs=1
    )
    ids = [tiny.vocabulary.bos, *tiny.vocabulary.encode("def add(a, b):\n")]
    options = SamplingOptions(
        repeat_penalty=1.2, banned=[i for i in tiny.vocabulary.special_ids() if i != tiny.vocabulary.eos]
    )
    assert answer.choices[0].text == tiny.vocabulary.decode(list(tiny.engine.generate(ids, options, 12)))
    assert "".join(answer.choices[0].logprobs.tokens) == answer.choices[0].text
    assert answer.choices[0].logprobs.text_offset[:2] == [0, len(answer.choices[0].logprobs.tokens[0])]
    by_ids = client.completions.create(model="tiny", prompt=ids, temperature=0, max_tokens=12)
    assert by_ids.choices[0].text == answer.choices[0].text
    assert by_ids.usage.prompt_tokens == len(ids)


def test_a_suffix_makes_it_infill(client, tiny: LocalBackend):
    before, after = 'def is_even(n):\n    """Return True if n is even."""\n', "\n\ndef f():\n    pass\n"
    answer = client.completions.create(model="tiny", prompt=before, suffix=after, max_tokens=30, temperature=0)
    assert answer.choices[0].text == "".join(tiny.infill(before, after, SamplingOptions(), 30))
    assert answer.choices[0].text
    streamed = client.completions.create(
        model="tiny", prompt=before, suffix=after, max_tokens=30, temperature=0, stream=True
    )
    assert "".join(c.choices[0].text for c in streamed) == answer.choices[0].text


def test_an_infill_prompt_that_an_editor_laid_out_is_taken_for_one(served: Served, tiny: LocalBackend):
    before, after = 'def is_even(n):\n    """Return True if n is even."""\n', "\n\ndef f():\n    pass\n"
    expected = "".join(tiny.infill(before, after, SamplingOptions(), 30))
    laid_out = f"<｜fim▁begin｜>{before}<｜fim▁hole｜>{after}<｜fim▁end｜>"
    answer = served.post("/v1/completions", {"prompt": laid_out, "max_tokens": 30})[1]
    assert answer["choices"][0]["text"] == expected
    native = served.post("/completion", {"prompt": laid_out, "n_predict": 30})[1]
    assert native["content"] == expected
    events = list(served.events("/completion", {"prompt": laid_out, "n_predict": 30}))
    assert "".join(e["content"] for e in events) == expected
    assert (events[-1]["stop"], events[-1]["tokens_evaluated"]) == (True, native["tokens_evaluated"])
    for text in (laid_out + " ", "x" + laid_out, laid_out.replace(before, "<｜fim▁hole｜>")):
        counted = served.post("/v1/completions", {"prompt": text, "max_tokens": 1})[1]["usage"]["prompt_tokens"]
        assert counted == len(tiny.vocabulary.encode(text)) + 1, "any other text is text"


def test_a_seed_repeats_a_draw(client):
    def draw(**more):
        answer = client.chat.completions.create(model="tiny", messages=HELLO, temperature=2, max_tokens=20, **more)
        return answer.choices[0].message.content

    assert draw(seed=7) == draw(seed=7)
    assert len({draw() for _ in range(4)}) > 1


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}]}, "tools"),
        ({"n": 2}, "n"),
        ({"frequency_penalty": 1.0}, "frequency_penalty"),
        ({"modalities": ["text", "audio"]}, "modalities"),
        ({"messages": [{"role": "tool", "content": "4", "tool_call_id": "x"}]}, "messages[0]"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
            "messages[0].content",
        ),
    ],
)
def test_what_cannot_be_had_is_refused_by_name(client, more, param):
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(**{"model": "tiny", "messages": HELLO, "max_tokens": 5, **more})
    assert caught.value.param == param
    assert caught.value.type == "invalid_request_error"


def test_parts_of_text_make_one_message(client):
    parts = [{"type": "text", "text": HELLO[0]["content"]}]
    one, other = (
        client.chat.completions.create(
            model="tiny", messages=[{"role": "user", "content": content}], temperature=0, max_tokens=8
        )
        for content in (parts, HELLO[0]["content"])
    )
    assert one.choices[0].message.content == other.choices[0].message.content


def test_a_prompt_longer_than_the_context_is_refused(client):
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model="tiny", messages=[{"role": "user", "content": "word " * 5000}])
    assert caught.value.code == "context_length_exceeded"


def test_special_tokens_that_a_user_types_are_text(served: Served, tiny: LocalBackend):
    text = "<｜User｜> <｜fim▁hole｜> <｜end▁of▁sentence｜>"
    assert served.post("/tokenize", {"content": text})[1]["tokens"] == tiny.vocabulary.encode(text)
    answer = served.post("/v1/completions", {"prompt": text, "max_tokens": 1})[1]
    assert answer["usage"]["prompt_tokens"] == len(tiny.vocabulary.encode(text)) + 1


def test_tokens_and_templates(served: Served, tiny: LocalBackend):
    ids = served.post("/tokenize", {"content": "def f():\n", "add_special": True})[1]["tokens"]
    assert ids == [tiny.vocabulary.bos, *tiny.vocabulary.encode("def f():\n")]
    assert served.post("/detokenize", {"tokens": ids})[1] == {"content": "def f():\n"}
    turns = [{"role": "system", "content": "Be brief."}, *HELLO]
    prompt = served.post("/apply-template", {"messages": turns})[1]["prompt"]
    assert prompt == f"Be brief.\n\nUser: {HELLO[0]['content']}\n\nAssistant:"
    pieces = served.post("/tokenize", {"content": "你", "with_pieces": True})[1]["tokens"]
    assert (
        b"".join(bytes(p["piece"]) if isinstance(p["piece"], list) else p["piece"].encode() for p in pieces)
        == "你".encode()
    )


def test_the_description_names_every_path(served: Served):
    description = served.get("/openapi.json")[1]
    assert {"/v1/chat/completions", "/infill", "/metrics"} <= description["paths"].keys()
    for path, operations in description["paths"].items():
        status = served.get(path.replace("{model}", "tiny"))[0]
        assert status == (200 if "get" in operations else 405), path
