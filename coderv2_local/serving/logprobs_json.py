"""Log-probabilities of tokens in the two shapes of OpenAI's interface."""

from collections.abc import Sequence
from typing import Any

from coderv2_local.sampling.logprobs import TokenLogprobs
from coderv2_local.vocabulary import Vocabulary

LEAST = -9999.0
"""What OpenAI's interface says for a probability of zero: JSON has no infinity."""


def chat_logprobs(found: Sequence[TokenLogprobs], vocabulary: Vocabulary) -> dict[str, Any]:
    """For /v1/chat/completions."""
    content = []
    for one in found:
        top = [_token(token, value, vocabulary) for token, value in one.top]
        content.append(_token(one.token, one.logprob, vocabulary) | {"top_logprobs": top})
    return {"content": content, "refusal": None}


def completion_logprobs(found: Sequence[TokenLogprobs], vocabulary: Vocabulary, offset: int = 0) -> dict[str, Any]:
    """For /v1/completions. `offset`: characters of the text that came before."""
    pieces = [_text(one.token, vocabulary) for one in found]
    offsets = []
    for piece in pieces:
        offsets.append(offset)
        offset += len(piece)
    return {
        "tokens": pieces,
        "token_logprobs": [_finite(one.logprob) for one in found],
        "top_logprobs": [{_text(t, vocabulary): _finite(value) for t, value in one.top} for one in found],
        "text_offset": offsets,
    }


def _token(token: int, value: float, vocabulary: Vocabulary) -> dict[str, Any]:
    return {
        "id": token,
        "token": _text(token, vocabulary),
        "logprob": _finite(value),
        "bytes": list(vocabulary.piece(token)),
    }


def _text(token: int, vocabulary: Vocabulary) -> str:
    return vocabulary.piece(token).decode("utf-8", "replace") or vocabulary.text(token)


def _finite(value: float) -> float:
    return value if value > LEAST else LEAST
