"""Three ways to fill in on a server; special tokens are never sent as text.

llama-server has /infill, which lays the prompt out by the ids in its model file. DeepSeek's own interface takes the
text after the hole as `suffix`. vLLM and SGLang take a prompt of ids, so that the one of the paper can be sent.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from coderv2_local.remote.address import Address
from coderv2_local.remote.flavours import Flavour, Served
from coderv2_local.remote.tokens import BOS, FIM_BEGIN, FIM_END, FIM_HOLE, Tokenizer

DEEPSEEK_LIMIT = 4096  # tokens of a middle, by the documentation of that interface


@dataclass(frozen=True)
class InfillRequest:
    """One request.

    Attributes:
        body: for a number of tokens to generate, without sampling options.
        prompt_tokens: length of the prompt; None where it is not known.
        max_tokens: that may be generated, by the server's own rule too.
    """

    url: str
    body: Callable[[int], dict[str, Any]]
    prompt_tokens: int | None
    max_tokens: int


def why_no_infill(served: Served, tokenizer: Tokenizer) -> str:
    """The reason why this server cannot fill in; "" where it can. Whether its model was trained to is not asked."""
    if not served.infill:
        return "its model file has no fill-in-the-middle token ids"
    if served.flavour in (Flavour.LLAMA_SERVER, Flavour.DEEPSEEK):
        return ""
    if served.flavour in (Flavour.VLLM, Flavour.SGLANG):
        if tokenizer.has_fim_ids():
            return ""
        return "its /detokenize does not show the infill tokens of DeepSeek-Coder-V2"
    if served.flavour is Flavour.LLAMA_CPP_PYTHON:
        return "this server takes no token ids and lays infill prompts out with the wrong ones"
    return "it has no /infill, no `suffix`, and is not known to take token ids"


def infill_request(
    address: Address, served: Served, tokenizer: Tokenizer, prefix: str, suffix: str, max_tokens: int
) -> InfillRequest:
    """The request that fills in, for a server that can. Raises RemoteError where its tokenizer fails."""
    common = {"model": served.model, "stream": True}
    with_usage = common | {"stream_options": {"include_usage": True}}
    if served.flavour is Flavour.LLAMA_SERVER:
        length = sum(tokenizer.count(text) or 0 for text in (prefix, suffix)) + 4
        texts = {"input_prefix": prefix, "input_suffix": suffix}
        return InfillRequest(f"{address.root}/infill", lambda n: common | texts | {"n_predict": n}, length, max_tokens)
    if served.flavour is Flavour.DEEPSEEK:
        texts = {"prompt": prefix, "suffix": suffix}
        return InfillRequest(
            f"{address.root}/beta/completions",
            lambda n: with_usage | texts | {"max_tokens": n},
            None,
            min(max_tokens, DEEPSEEK_LIMIT),
        )
    ids = [BOS, FIM_BEGIN, *tokenizer.plain_ids(prefix), FIM_HOLE, *tokenizer.plain_ids(suffix), FIM_END]
    return InfillRequest(
        f"{address.api}/completions", lambda n: with_usage | {"prompt": ids, "max_tokens": n}, len(ids), max_tokens
    )
