"""Sampling options as the fields of a request, for each kind of server."""

import json
from typing import Any

from coderv2_local.remote.flavours import Flavour
from coderv2_local.sampling.options import SamplingOptions
from quant.errors import InputError

NEVER = -100
"""The logit bias that the OpenAI interface calls a ban."""
STANDARD_STOPS = 4
"""Stop strings that every OpenAI-compatible server takes; the others are looked for here alone."""
LLAMA = (Flavour.LLAMA_SERVER, Flavour.LLAMA_CPP_PYTHON)
GPU = (Flavour.VLLM, Flavour.SGLANG)


def sampling_fields(options: SamplingOptions, flavour: Flavour) -> dict[str, Any]:
    """Fields for `options`.

    `top_k` and `min_p` are left out where a server does not know them.

    Raises:
        InputError: an option that changes every answer, which this kind of server does not know.
    """
    fields: dict[str, Any] = {"temperature": options.temperature, "seed": options.seed}
    if options.temperature > 0:
        fields["top_p"] = options.top_p
    if stops := [s for s in options.stop if s]:
        fields["stop"] = stops if flavour in (*LLAMA, *GPU) else stops[:STANDARD_STOPS]
    if flavour in LLAMA:
        fields |= {"top_k": options.top_k, "min_p": options.min_p, "repeat_penalty": options.repeat_penalty}
    elif flavour in GPU:
        fields |= {"top_k": options.top_k or -1, "min_p": options.min_p}
        fields["repetition_penalty"] = options.repeat_penalty
    elif options.repeat_penalty != 1.0:
        raise _unknown("a repetition penalty", flavour)
    if biases := {**dict.fromkeys(options.banned, NEVER), **options.logit_bias}:
        if flavour not in (*LLAMA, *GPU):
            raise _unknown("a bias on token ids", flavour)
        fields["logit_bias"] = {str(token): bias for token, bias in biases.items()}
    if options.stop_ids:
        if flavour not in GPU:
            raise InputError(
                f"a {flavour.value} cannot be given token ids to stop at",
                hint="vLLM and SGLang can, or a model file on this machine",
            )
        fields["stop_token_ids"] = list(options.stop_ids)
    if options.logprobs is not None:
        raise _unknown("log-probabilities by token id", flavour)
    return fields | _form(options, flavour)


def _form(options: SamplingOptions, flavour: Flavour) -> dict[str, Any]:
    """Fields that hold the answer to a grammar or a JSON schema."""
    if options.grammar is not None:
        if flavour is not Flavour.LLAMA_SERVER:
            raise _unknown("a grammar", flavour)
        return {"grammar": options.grammar}
    if options.json_schema is None:
        return {}
    try:
        schema = json.loads(options.json_schema)
    except (ValueError, RecursionError):
        raise InputError("the JSON schema is not valid JSON") from None
    if flavour is Flavour.LLAMA_SERVER:
        return {"json_schema": schema}
    if flavour in GPU:
        return {"response_format": {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}}
    raise _unknown("a JSON schema", flavour)


def _unknown(what: str, flavour: Flavour) -> InputError:
    return InputError(
        f"a {flavour.value} cannot be given {what}", hint="llama-server can, or a model file on this machine"
    )
