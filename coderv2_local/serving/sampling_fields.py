"""The fields of a request that say how to sample → sampling options; what cannot be had is refused, not left out."""

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from coderv2_local.sampling.options import SamplingOptions
from coderv2_local.sampling.seed import new_seed
from coderv2_local.serving.errors import bad
from coderv2_local.serving.fields import Field, Fields, check_range, texts
from coderv2_local.vocabulary import Vocabulary
from quant.errors import InputError

MAX_STOPS = 64
MAX_BIASES = 1024
MAX_SAMPLERS = 64
BAN = -100.0
"""What OpenAI's interface calls a ban."""
SEEDS = 2**32
TURNED_OFF = {"top_k": 0, "top_p": 1.0, "min_p": 0.0, "repeat_penalty": 1.0}

SAMPLING: Fields = {
    "temperature": Field(("number",), "0 takes the most probable token each time", 0, 10),
    "top_k": Field(
        ("integer",), "so many of the most probable tokens stay in the draw; 0 or -1 for all", -1, 1_000_000
    ),
    "top_p": Field(("number",), "tokens that together have this probability stay in the draw", 0, 1),
    "min_p": Field(("number",), "tokens less probable than this share of the best one leave the draw", 0, 1),
    "repeat_penalty": Field(("number",), "divides the logits of recent tokens; 1 turns it off", 0.1, 10),
    "presence_penalty": Field(("number",), "only 0: use repeat_penalty", 0, 0),
    "frequency_penalty": Field(("number",), "only 0: use repeat_penalty", 0, 0),
    "seed": Field(("integer",), "of the draw; -1 for another one each time", -1, 2**63 - 1),
    "stop": Field(
        ("string", "array"), "texts that end the answer", schema={"items": {"type": "string"}, "maxItems": MAX_STOPS}
    ),
    "logit_bias": Field(
        ("object", "array"),
        "token id → what is added to its logit",
        schema={
            "propertyNames": {"pattern": "^[0-9]{1,9}$"},
            "additionalProperties": {"type": "number", "minimum": -100, "maximum": 100},
            "maxItems": 0,
            "maxProperties": MAX_BIASES,
        },
    ),
    "ignore_eos": Field(("boolean",), "the answer does not end by itself"),
    "grammar": Field(("string",), "in GBNF, that the answer must follow"),
    "json_schema": Field(("object",), "that the answer must follow"),
}
N_PROBS = Field(("integer",), "log-probabilities, and of so many of the most probable tokens; 0 for none", 0, 100)
COMMON: Fields = {
    **SAMPLING,
    "model": Field(("string",), "not looked at: there is one model"),
    "stream": Field(("boolean",), "answer by server-sent events"),
    "n": Field(("integer",), "only 1", 1, 1),
    "n_predict": Field(
        ("integer",),
        "the longest answer, in tokens; -1 for no limit of its own, 0 evaluates the prompt alone",
        -2,
        2**31,
    ),
    "samplers": Field(
        ("array", "string"),
        "names of those to use: top_k, top_p, min_p, penalties not among them are off; others are not looked at",
        schema={"items": {"type": "string"}, "maxItems": MAX_SAMPLERS},
    ),
    "deadline_ms": Field(("integer",), "for everything, the time in the queue too", 1, 86_400_000),
}
RESPONSE_FORMAT: Fields = {
    "response_format": Field(
        ("object",),
        "text, json_object, or json_schema with its schema",
        schema={
            "properties": {
                "type": {"enum": ["text", "json_object", "json_schema"]},
                "json_schema": {"type": "object"},
                "schema": {"type": "object"},
            },
            "required": ["type"],
        },
    ),
    "stream_options": Field(
        ("object",), "include_usage: a last event with the counts", schema={"properties": {"include_usage": {}}}
    ),
}
ANY_OBJECT = json.dumps({"type": "object"})


def sampling_options(
    values: Mapping[str, Any],
    vocabulary: Vocabulary,
    *,
    temperature: float,
    repeat_penalty: float,
    logprobs: int | None = None,
) -> SamplingOptions:
    """The options that checked `values` ask for, with special tokens banned and a schema turned into its grammar.

    Args:
        temperature, repeat_penalty: where the request does not say.

    Raises:
        ApiError, InputError: a bias on a token that there is not, a grammar that cannot be followed.
    """
    values = with_samplers(values)
    grammar, schema = values.get("grammar") or None, schema_of(values)
    if grammar is not None and schema is not None:
        raise bad("a grammar and a JSON schema: one of them can be followed", "grammar", "invalid_grammar")
    seed = values.get("seed", -1)
    goes_on = bool(values.get("ignore_eos"))
    options = SamplingOptions(
        temperature=float(values.get("temperature", temperature)),
        top_k=max(values.get("top_k", 40), 0),
        top_p=float(values.get("top_p", 0.95)),
        min_p=float(values.get("min_p", 0.05)),
        repeat_penalty=float(values.get("repeat_penalty", repeat_penalty)),
        seed=new_seed() if seed < 0 else seed % SEEDS,
        banned=[i for i in vocabulary.special_ids() if goes_on or not vocabulary.is_end(i)],
        stop=[s for s in texts("stop", values.get("stop", []), MAX_STOPS) if s],
        logit_bias=biases(values.get("logit_bias", {}), vocabulary.size),
        grammar=grammar,
        json_schema=schema,
        logprobs=logprobs,
    )
    if grammar is None and schema is None:
        return options
    try:
        return replace(options, grammar=options.effective_grammar(), json_schema=None)
    except InputError as error:
        said = f"{error.message} ({error.hint})" if error.hint else error.message
        raise bad(said, "grammar" if grammar else "json_schema", code="invalid_grammar") from None


def with_samplers(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values, with those turned off that belong to samplers that are not named. Raises ApiError."""
    named = values.get("samplers")
    if named is None or isinstance(named, str):
        return dict(values)
    if len(named) > MAX_SAMPLERS or not all(isinstance(name, str) for name in named):
        raise bad(f"samplers must be an array of at most {MAX_SAMPLERS} names", "samplers")
    kept = {"penalties": "repeat_penalty"}
    used = {kept.get(name, name) for name in named}
    return {**values, **{name: off for name, off in TURNED_OFF.items() if name not in used}}


def schema_of(values: Mapping[str, Any]) -> str | None:
    """The JSON schema that a request asks for, as JSON; None for none."""
    wanted = values.get("response_format", {})
    kind = wanted.get("type") if "response_format" in values else "text"
    if kind not in ("text", "json_object", "json_schema"):
        raise bad("response_format.type must be text, json_object or json_schema", "response_format")
    for name in ("schema", "json_schema"):
        if name in wanted and not isinstance(wanted[name], dict):
            raise bad(f"response_format.{name} must be an object", "response_format")
    if "json_schema" in values:
        return json.dumps(values["json_schema"])
    if kind == "text":
        return None
    if kind == "json_object":  # llama-server takes a schema here, too
        return json.dumps(wanted["schema"]) if "schema" in wanted else ANY_OBJECT
    inner = wanted.get("json_schema", wanted)
    if isinstance(inner.get("schema"), dict):
        return json.dumps(inner["schema"])
    raise bad("response_format.json_schema.schema is missing", "response_format", "schema_missing")


def biases(value: Any, size: int) -> dict[int, float]:
    """Token biases: an object (OpenAI) or an array of pairs (llama-server), where false bans a token."""
    pairs = list(value.items()) if isinstance(value, dict) else value
    if len(pairs) > MAX_BIASES:
        raise bad(f"logit_bias has {len(pairs)} entries: at most {MAX_BIASES} are taken", "logit_bias")
    found = {}
    for pair in pairs:
        if not isinstance(pair, (tuple, list)) or len(pair) != 2:
            raise bad("logit_bias must be an object of token ids, or an array of pairs", "logit_bias")
        token, bias = pair
        if isinstance(token, str) and token.isascii() and token.isdigit() and len(token) < 10:
            token = int(token)
        if type(token) is not int or not 0 <= token < size:
            raise bad(
                f"logit_bias names a token that there is not: this model has {size}", "logit_bias", "unknown_token"
            )
        if bias is False:
            bias = BAN
        if type(bias) not in (int, float):
            raise bad("logit_bias must give a number for each token", "logit_bias")
        check_range("logit_bias", bias, -100, 100)
        found[token] = float("-inf") if bias <= BAN else float(bias)
    return found
