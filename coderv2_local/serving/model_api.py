"""What a client can ask about the model and the server: /v1/models, /props, /tokenize, /apply-template, /metrics, …"""

from collections.abc import Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from coderv2_local import __version__
from coderv2_local.serving import metrics
from coderv2_local.serving.body import read_object
from coderv2_local.serving.chat_api import TEMPLATE, conversation_ids
from coderv2_local.serving.errors import ApiError, bad
from coderv2_local.serving.fields import Field, Fields, checked
from coderv2_local.serving.json_answer import JsonAnswer, to_json
from coderv2_local.serving.prepare import on_thread
from coderv2_local.serving.state import Serving
from coderv2_local.vocabulary import Vocabulary

MAX_IDS = 1_000_000
TOKENIZE: Fields = {
    "content": Field(("string",), "the text", required=True),
    "add_special": Field(("boolean",), "begin with BOS"),
    "parse_special": Field(("boolean",), "take the names of special tokens for them; false unless said"),
    "with_pieces": Field(("boolean",), "give the text of each token, too"),
}
DETOKENIZE: Fields = {
    "tokens": Field(
        ("array",),
        "token ids",
        required=True,
        schema={"items": {"type": "integer", "minimum": 0}, "maxItems": MAX_IDS},
    )
}


def serving_of(request: Request) -> Serving:
    found: Serving = request.app.state.serving
    return found


async def health(request: Request) -> Response:
    """Is the server up? Open to all."""
    return JsonAnswer(serving_of(request).health())


async def models(request: Request) -> Response:
    """The one model."""
    serving = serving_of(request)
    return JsonAnswer({"object": "list", "data": [_model(serving)]})


async def model(request: Request) -> Response:
    """One model by its name."""
    serving = serving_of(request)
    if request.path_params["model"] != serving.name:
        raise ApiError(404, f"there is one model here, {serving.name}", param="model", code="model_not_found")
    return JsonAnswer(_model(serving))


def _model(serving: Serving) -> dict[str, Any]:
    engine = serving.backend.engine
    meta = {
        "n_ctx": engine.n_ctx,
        "n_vocab": engine.vocabulary.size,
        "size": engine.header.file_size,
        "fingerprint": serving.fingerprint,
        "infill": serving.backend.capabilities.infill,
    }
    return {
        "id": serving.name,
        "object": "model",
        "created": serving.created,
        "owned_by": "coderv2-local",
        "meta": meta,
    }


async def props(request: Request) -> Response:
    """What llama-server's clients ask: the context and the chat template."""
    serving = serving_of(request)
    return JsonAnswer(
        {
            "default_generation_settings": {
                "n_ctx": serving.backend.n_ctx,
                "params": {"temperature": serving.temperature, "repeat_penalty": serving.repeat_penalty},
            },
            "total_slots": 1,
            "model_alias": serving.name,
            "chat_template": serving.template or "",
            "modalities": {"vision": False, "audio": False},
            "build_info": f"coderv2-local {__version__}",
        }
    )


async def tokenize(request: Request) -> Response:
    """A text's token ids."""
    values = checked(await read_object(request), TOKENIZE)
    return JsonAnswer(await on_thread(request, token_list, serving_of(request).backend.vocabulary, values))


def token_list(vocabulary: Vocabulary, values: Mapping[str, Any]) -> bytes:
    """The answer's JSON: written on a thread, as the text may have a million tokens. Raises ApiError for more."""
    encode = vocabulary.encode_with_special if values.get("parse_special") else vocabulary.encode
    ids = encode(values["content"])
    if len(ids) > MAX_IDS:
        raise bad(f"content has {len(ids)} tokens: at most {MAX_IDS} are given", "content", "too_many_tokens")
    if values.get("add_special"):
        ids = [vocabulary.bos, *ids]
    if not values.get("with_pieces"):
        return to_json({"tokens": ids})
    written = {i: to_json({"id": i, "piece": _piece(vocabulary.piece(i))}) for i in set(ids)}
    return b'{"tokens":[' + b",".join(map(written.__getitem__, ids)) + b"]}"


def _piece(piece: bytes) -> Any:
    """A token's text; its bytes where it is only a part of a character."""
    try:
        return piece.decode("utf-8")
    except UnicodeDecodeError:
        return list(piece)


async def detokenize(request: Request) -> Response:
    """The text of token ids; special ones have none."""
    serving = serving_of(request)
    ids = checked(await read_object(request), DETOKENIZE)["tokens"]
    return JsonAnswer(await on_thread(request, token_text, serving.backend.vocabulary, ids, serving.limits.body))


def token_text(vocabulary: Vocabulary, ids: list[Any], most: int) -> bytes:
    """The answer's JSON. Raises ApiError for ids that there are not, and a text of more than `most` bytes."""
    if len(ids) > MAX_IDS or not all(type(i) is int and 0 <= i < vocabulary.size for i in ids):
        raise bad(f"tokens must be ids from 0 to {vocabulary.size - 1}", "tokens", "unknown_token")
    if sum(len(vocabulary.piece(i)) for i in ids) > most:
        raise bad(f"the text of these tokens is larger than {most} bytes", "tokens", "too_many_tokens")
    return to_json({"content": vocabulary.decode(ids)})


async def apply_template(request: Request) -> Response:
    """A conversation as it is laid out before the answer, as text: without BOS, as llama-server gives it."""
    values = checked(await read_object(request), TEMPLATE)
    return JsonAnswer(await on_thread(request, laid_out, serving_of(request), values["messages"]))


def laid_out(serving: Serving, messages: Any) -> bytes:
    """The answer's JSON. Raises as :func:`conversation_ids`."""
    ids, vocabulary = conversation_ids(serving, messages), serving.backend.vocabulary
    special = {i: vocabulary.text(i).encode() for i in vocabulary.special_ids()}
    text = b"".join(special.get(i) or vocabulary.piece(i) for i in ids[ids[:1] == [vocabulary.bos] :])
    return to_json({"prompt": text.decode("utf-8", "replace")})


async def metrics_text(request: Request) -> Response:
    """Counts, for Prometheus."""
    serving = serving_of(request)
    gauges = {
        "requests_waiting": ("requests in the queue", float(len(serving.queue))),
        "requests_running": ("1 while the model works", float(serving.worker.is_busy)),
        "kept_states": ("evaluated conversations and files in memory", float(len(serving.kept))),
        "kept_states_bytes": ("memory that they take", float(serving.kept.nbytes)),
        "context_tokens": ("context of the model, in tokens", float(serving.backend.n_ctx)),
    }
    return PlainTextResponse(serving.metrics.text(gauges), headers={"content-type": metrics.CONTENT_TYPE})
