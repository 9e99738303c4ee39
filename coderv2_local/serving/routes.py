"""Every path, what answers it, and what it takes: from this table come the router and the OpenAPI description."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import Response

from coderv2_local.serving import chat_api, completion_api, infill_api, model_api, native_api
from coderv2_local.serving.fields import Fields


@dataclass(frozen=True)
class Endpoint:
    """One path.

    Attributes:
        fields: of the request's body; None for GET.
        answer: the type of its answer.
        streams: can it answer by server-sent events?
    """

    path: str
    handler: Callable[[Request], Awaitable[Response]]
    fields: Fields | None = None
    answer: str = "application/json"
    streams: bool = False

    @property
    def method(self) -> str:
        return "GET" if self.fields is None else "POST"

    @property
    def summary(self) -> str:
        return (self.handler.__doc__ or "").split("\n")[0].rstrip(".")


ENDPOINTS = (
    Endpoint("/v1/chat/completions", chat_api.chat, chat_api.CHAT, streams=True),
    Endpoint("/chat/completions", chat_api.chat, chat_api.CHAT, streams=True),
    Endpoint("/v1/completions", completion_api.completions, completion_api.COMPLETION, streams=True),
    Endpoint("/completion", native_api.completion, native_api.NATIVE, streams=True),
    Endpoint("/infill", infill_api.infill, infill_api.INFILL, streams=True),
    Endpoint("/v1/models", model_api.models),
    Endpoint("/models", model_api.models),
    Endpoint("/v1/models/{model}", model_api.model),
    Endpoint("/props", model_api.props),
    Endpoint("/tokenize", model_api.tokenize, model_api.TOKENIZE),
    Endpoint("/detokenize", model_api.detokenize, model_api.DETOKENIZE),
    Endpoint("/apply-template", model_api.apply_template, chat_api.TEMPLATE),
    Endpoint("/health", model_api.health),
    Endpoint("/v1/health", model_api.health),
    Endpoint("/metrics", model_api.metrics_text, answer="text/plain"),
)
