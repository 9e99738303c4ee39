"""Fields that would change the answer and cannot be had: refused by name, but where their value asks for nothing."""

from collections.abc import Collection, Mapping
from typing import Any

from coderv2_local.sampling.sampler import PENALTY_WINDOW
from coderv2_local.serving.errors import bad

NO_TOOLS = "this model was not trained to call tools, and this server does not offer any"
ONE_ANSWER = "there is one answer to a request"
NO_SAMPLER = "not supported: temperature, top_k, top_p, min_p and repeat_penalty are"
USE_REPEAT_PENALTY = "not supported: use repeat_penalty"
USE_GRAMMAR = "not supported: use response_format, json_schema or grammar"
USE_STOP = "not supported: use stop"
NO_LOGPROBS_HERE = "not supported here: use logprobs"

Refusal = tuple[tuple[Any, ...], str]
"""Values that ask for nothing, and why others are refused. null asks for nothing, ever."""

REFUSED: Mapping[str, Refusal] = {
    "tools": (([],), NO_TOOLS),
    "tool_choice": (("none", "auto"), NO_TOOLS),
    "functions": (([],), "this model was not trained to call functions"),
    "function_call": (("none", "auto"), "this model was not trained to call functions"),
    "modalities": (([], ["text"]), "this model writes text alone"),
    "audio": (({},), "there is no audio here"),
    "image_data": (([],), "this model reads no images"),
    "web_search_options": (({},), "this server does not search the web"),
    "n": ((1,), ONE_ANSWER),
    "best_of": ((1,), ONE_ANSWER),
    "echo": ((False,), "the prompt is not sent back"),
    "frequency_penalty": ((0,), USE_REPEAT_PENALTY),
    "presence_penalty": ((0,), USE_REPEAT_PENALTY),
    "repetition_penalty": ((1,), USE_REPEAT_PENALTY),
    "repeat_last_n": ((PENALTY_WINDOW,), f"repeat_penalty looks back over {PENALTY_WINDOW} tokens"),
    "n_probs": ((0,), NO_LOGPROBS_HERE),
    "post_sampling_probs": ((False,), "log-probabilities are those before sampling"),
    "mirostat": ((0,), NO_SAMPLER),
    "typical_p": ((1,), NO_SAMPLER),
    "typ_p": ((1,), NO_SAMPLER),
    "top_n_sigma": ((-1, 0), NO_SAMPLER),
    "xtc_probability": ((0,), NO_SAMPLER),
    "dynatemp_range": ((0,), NO_SAMPLER),
    "dry_multiplier": ((0,), NO_SAMPLER),
    "length_penalty": ((1,), NO_SAMPLER),
    "use_beam_search": ((False,), NO_SAMPLER),
    "min_tokens": ((0,), "not supported: ignore_eos goes on to the limit"),
    "stop_token_ids": (([],), USE_STOP),
    "bad_words": (([],), "not supported: logit_bias bans tokens"),
    "allowed_token_ids": (([],), "not supported: use logit_bias"),
    "include_stop_str_in_output": ((False,), "what ends the answer is not part of it"),
    "guided_json": ((), USE_GRAMMAR),
    "guided_regex": ((), USE_GRAMMAR),
    "guided_choice": ((), USE_GRAMMAR),
    "guided_grammar": ((), USE_GRAMMAR),
    "structured_outputs": (({},), USE_GRAMMAR),
    "lora": (([],), "there are no adapters here"),
    "chat_template": (("",), "the model's own template is used"),
    "chat_template_kwargs": (({},), "the model's own template is used as it is"),
}


def refuse_unsupported(body: Mapping[str, Any], had: Collection[str] = ()) -> None:
    """Look for what cannot be had.

    Args:
        had: fields that can, at this path.

    Raises:
        ApiError: there is one.
    """
    for name, (neutral, why) in REFUSED.items():
        value = body.get(name)
        if value is not None and value not in neutral and name not in had:
            raise bad(f"{name}: {why}", name, code="unsupported_parameter")
