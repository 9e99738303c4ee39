"""Choosing the next token: biases, grammars, schemas, log-probabilities, all on the embedded model."""

import json
import math
import re

import numpy as np
import pytest

from coderv2_local.engine import Engine
from coderv2_local.models import find_model
from coderv2_local.placement.load_options import LoadOptions
from coderv2_local.sampling.json_schema import grammar_of
from coderv2_local.sampling.logprobs import token_logprobs
from coderv2_local.sampling.sampler import GrammarDeadEnd, SamplingOptions
from quant.errors import InputError

HOT = {"temperature": 3.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0}  # nearly every token may come


@pytest.fixture(scope="module")
def engine():
    with Engine(find_model("tiny").path, LoadOptions(n_ctx=512, n_threads=1)) as engine:
        yield engine


@pytest.fixture
def prompt(engine):
    return [engine.vocabulary.bos, *engine.vocabulary.encode("def add(a, b):\n    return")]


def text_of(engine, prompt, n=60, **options):
    v = engine.vocabulary
    options = SamplingOptions(banned=[i for i in v.special_ids() if not v.is_end(i)], **options)
    ids = list(engine.generate(prompt, options, n))
    return v.decode(ids), len(ids) < n


def test_a_bias_decides_and_a_ban_excludes(engine, prompt):
    best = int(np.argmax(engine.evaluate(prompt)))
    other = (best + 7) % 4000
    assert next(engine.generate(prompt, SamplingOptions(logit_bias={other: 1000.0}), 1)) == other
    assert next(engine.generate(prompt, SamplingOptions(logit_bias={best: -math.inf}), 1)) != best
    assert next(engine.generate(prompt, SamplingOptions(logit_bias={best: 1000.0}, banned=[best]), 1)) != best


@pytest.mark.parametrize("options", [{"logit_bias": {99_999: 1.0}}, {"banned": [-1]}, {"stop_ids": [99_999]}])
def test_ids_that_are_not_there_are_refused(engine, prompt, options):
    with pytest.raises(InputError, match="there is no token"):
        next(engine.generate(prompt, SamplingOptions(**options), 1))


@pytest.mark.parametrize("lonely", [{"top_k": 1}, {"top_p": 1e-6}, {"min_p": 1.0}], ids=lambda o: next(iter(o)))
def test_each_filter_leaves_the_best_token_alone_at_its_extreme(engine, prompt, lonely):
    def drawn(**options):
        return [next(engine.generate(prompt, SamplingOptions(**HOT | options, seed=seed), 1)) for seed in range(8)]

    best = int(np.argmax(engine.evaluate(prompt)))
    assert drawn(**lonely) == [best] * 8
    assert set(drawn()) - {best}


def test_stop_ids_end_an_answer_as_the_vocabulary_does(engine, prompt):
    whole = list(engine.generate(prompt, SamplingOptions(), 12))
    stop = whole[5]
    before = whole[: whole.index(stop)]
    assert list(engine.generate(prompt, SamplingOptions(stop_ids=[stop]), 12)) == before
    assert list(engine.generate(prompt, SamplingOptions(stop_ids=[1 + max(whole)]), 12)) == whole


def test_a_special_token_to_stop_at_may_be_chosen(tiny):
    special = next(i for i in tiny.vocabulary.special_ids() if not tiny.vocabulary.is_end(i))
    wanted = {"logit_bias": {special: 1000.0}}
    stopped = tiny.infill("a", "b", SamplingOptions(stop_ids=[special], **wanted), 8)
    assert ("".join(stopped), stopped.ids, stopped.reason) == ("", [], "end")
    banned = tiny.infill("a", "b", SamplingOptions(**wanted), 8)
    "".join(banned)
    assert banned.tokens


@pytest.mark.parametrize(
    "options",
    [
        {"logit_bias": {1: math.nan}},
        {"logit_bias": {1: math.inf}},
        {"logprobs": 101},
        {"logprobs": -1},
        {"grammar": "root ::= .", "json_schema": "{}"},
        {"temperature": math.nan},
    ],
)
def test_values_that_cannot_be_are_refused_when_they_are_made(options):
    with pytest.raises(InputError):
        SamplingOptions(**options)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("temperature", [0.0, 3.0])
def test_every_answer_follows_its_grammar(engine, prompt, seed, temperature):
    grammar = 'root ::= word (", " word){1,3} "!"\nword ::= [a-zé]{1,6}'
    text, ended = text_of(engine, prompt, grammar=grammar, **{**HOT, "temperature": temperature, "seed": seed})
    assert ended
    assert re.fullmatch(r"[a-zé]{1,6}(, [a-zé]{1,6}){1,3}!", text), text


def test_a_grammar_may_need_characters_that_no_single_token_holds(engine, prompt):
    text, _ = text_of(engine, prompt, grammar='root ::= "🙂漢" [𐍈-𐍊]{2}', **HOT)
    assert re.fullmatch("🙂漢[𐍈-𐍊]{2}", text)


def test_the_end_comes_only_where_the_grammar_allows_it(engine, prompt):
    end = engine.vocabulary.eos
    text, ended = text_of(engine, prompt, 40, grammar='root ::= "x"{20,}', logit_bias={end: 100.0})
    assert ended
    assert text == "x" * len(text)
    assert 20 <= len(text) < 40


def test_a_dead_end_is_an_error_and_not_the_end_of_the_process(engine, prompt):
    x = engine.vocabulary.encode("x")
    with pytest.raises(GrammarDeadEnd, match="fits the grammar"):
        list(engine.generate(prompt, SamplingOptions(grammar='root ::= "x"', banned=x), 5))
    assert list(engine.generate(prompt, SamplingOptions(grammar='root ::= "x"'), 5)) == x


def test_a_grammar_that_does_not_parse_is_refused_in_silence(engine, prompt, capfd):
    with pytest.raises(InputError, match="line 1"):
        list(engine.generate(prompt, SamplingOptions(grammar="root ::= ("), 5))
    assert capfd.readouterr() == ("", "")


SCHEMAS = [
    (
        {
            "$defs": {"p": {"type": "object", "properties": {"n": {"type": ["integer", "null"]}}, "required": ["n"]}},
            "type": "object",
            "properties": {
                "kind": {"enum": ['a"b', "c\\d", 3, None]},
                "opt": {"type": "boolean"},
                "p": {"$ref": "#/$defs/p"},
            },
            "required": ["kind", "p"],
            "additionalProperties": False,
        },
        lambda v: (
            set(v) <= {"kind", "opt", "p"}
            and v["kind"] in ('a"b', "c\\d", 3, None)
            and isinstance(v.get("opt", True), bool)
            and (v["p"]["n"] is None or isinstance(v["p"]["n"], int))
        ),
    ),
    (
        {"type": "array", "items": {"type": "string", "maxLength": 4, "minLength": 2}, "minItems": 1, "maxItems": 3},
        lambda v: 1 <= len(v) <= 3 and all(isinstance(s, str) and 2 <= len(s) <= 4 for s in v),
    ),
    (
        {"type": "object", "properties": {k: {"const": 1} for k in "abc"}},
        lambda v: isinstance(v, dict) and set(v) <= set("abc") and all(x == 1 for x in v.values()),
    ),
    ({"anyOf": [{"type": "null"}, {"type": "string", "format": "date"}]}, lambda v: v is None or len(v) == 10),
    ({"enum": [1, "x"], "type": "string"}, lambda v: v == "x"),
    ({"type": "array", "items": {"type": "number"}, "maxItems": 2, "minItems": 2}, lambda v: len(v) == 2),
    ({"type": "object", "required": ["z"], "additionalProperties": {"type": "null"}}, lambda v: v == {"z": None}),
    ({"type": "array", "maxItems": 0}, lambda v: v == []),
]


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(("schema", "follows"), SCHEMAS)
def test_every_answer_is_json_that_follows_its_schema(engine, prompt, schema, follows, seed):
    # what the grammar leaves open is drawn from the whole vocabulary
    text, ended = text_of(engine, prompt, 300, json_schema=json.dumps(schema), seed=seed, **HOT)
    assert ended, text
    assert follows(json.loads(text)), text


def test_strings_hold_no_raw_line_breaks(engine, prompt):
    newline = engine.vocabulary.encode("\n")
    schema = json.dumps({"type": "string", "minLength": 3, "maxLength": 3})
    text, _ = text_of(engine, prompt, 40, json_schema=schema, logit_bias=dict.fromkeys(newline, 1000.0))
    assert len(json.loads(text)) == 3


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ({"type": "integer", "minimum": 3}, "#: 'minimum'"),
        ({"properties": {"a": {"type": "string", "pattern": "^a$"}}}, "#/properties/a: 'pattern'"),
        ({"type": "string", "format": "email"}, "format 'email'"),
        ({"allOf": [{}]}, "'allOf'"),
        ({"anyOf": [{}], "properties": {}}, "'properties'"),
        ({"$ref": "https://example.com/a.json"}, "only places in the schema itself"),
        ({"$ref": "#/$defs/none"}, "there is no such place"),
        ({"$ref": "#"}, "begins with itself"),
        ({"type": "thing"}, "type 'thing'"),
        ({"type": "array", "minItems": 3, "maxItems": 2}, "cannot be"),
        ({"type": "string", "maxLength": 100_000}, "maxLength 100000"),
        ({"type": "object", "required": ["a"], "additionalProperties": False}, "'a' is required and not allowed"),
        ({"enum": []}, "enum"),
        ({"items": [{"type": "null"}]}, "#/items"),
        (False, "False"),
    ],
)
def test_what_a_schema_asks_for_and_cannot_be_held_to_is_named(schema, words):
    with pytest.raises(InputError) as caught:
        grammar_of(json.dumps(schema))
    assert words in str(caught.value)


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, "not json"])
def test_a_schema_that_is_no_json_is_refused(text):
    with pytest.raises(InputError, match="JSON schema"):
        grammar_of(text)


def test_a_schema_nested_too_deeply_is_refused():
    schema: dict = {}
    for _ in range(100):
        schema = {"type": "array", "items": schema, "minItems": 1}
    with pytest.raises(InputError, match="nested deeper"):
        grammar_of(json.dumps(schema))


def test_log_probabilities_are_those_of_the_model_whatever_the_options(engine, prompt):
    best = int(np.argmax(engine.evaluate(prompt)))
    options = SamplingOptions(logprobs=3, banned=[best], temperature=0.7, repeat_penalty=2.0, seed=5)
    found = []
    ids = list(engine.generate(prompt, options, 4, logprobs=found))
    assert [each.token for each in found] == ids
    for i, each in enumerate(found):
        logits = engine.evaluate([*prompt, *ids[:i]]).astype(np.float64)
        expected = logits - logits.max() - math.log(np.exp(logits - logits.max()).sum())
        assert each.logprob == pytest.approx(expected[each.token], abs=2e-2)
        order = np.argsort(-expected)[:3]
        assert [value for _, value in each.top] == pytest.approx(expected[order], abs=2e-2)
        assert {token for token, _ in each.top} == set(order.tolist())
    assert found[0].top[0][0] == best


def test_log_probabilities_add_up_to_one_and_order_ties_by_id():
    logits = np.array([1.0, 3.0, 3.0, -2.0, 1.0], np.float32)
    found = token_logprobs(logits, 4, 5)
    assert [token for token, _ in found.top] == [1, 2, 0, 4, 3]
    assert sum(math.exp(value) for _, value in found.top) == pytest.approx(1)
    assert found.logprob == dict(found.top)[4]
    assert list(token_logprobs(logits, 4, 0).top) == []
    assert len(token_logprobs(logits, 4, 99).top) == 5
    huge = token_logprobs(np.array([1e30, -1e30], np.float32), 0, 1)
    assert huge.logprob == 0


def test_none_are_made_where_none_are_asked_for(engine, prompt):
    found = []
    list(engine.generate(prompt, SamplingOptions(), 3, logprobs=found))
    assert found == []
