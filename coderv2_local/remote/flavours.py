"""What a server is, found out by asking it, and what follows: how it fills in, how it counts, what options it knows."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from coderv2_local.remote.address import DEEPSEEK_HOST
from coderv2_local.remote.client import NO_API, Client
from coderv2_local.remote.failures import KeyRefused, RemoteError
from coderv2_local.stream import printable
from quant.errors import InputError

SHOWN_MODELS = 10


class Flavour(Enum):
    """The kinds of servers that are told apart."""

    LLAMA_SERVER = "llama-server"
    VLLM = "vLLM"
    SGLANG = "SGLang"
    DEEPSEEK = "DeepSeek API"
    LLAMA_CPP_PYTHON = "llama-cpp-python"
    OTHER = "OpenAI-compatible server"


OWNERS = {
    "llamacpp": Flavour.LLAMA_SERVER,
    "vllm": Flavour.VLLM,
    "sglang": Flavour.SGLANG,
    "deepseek": Flavour.DEEPSEEK,
}
"""What `owned_by` says in the list of models."""
OWN = "coderv2-local"
"""What it says where the server is `coder serve`."""
LEAST = {"temperature": 0.0, "repeat_penalty": 0.1}
"""The least that sampling takes; the most is 10 for both."""


@dataclass(frozen=True)
class Served:
    """A model on a server.

    Attributes:
        model: its id, as requests give it.
        n_ctx: context in tokens; None where the server does not say.
        parameters: of the model; None where the server does not say.
        template: how the server lays out conversations; None where it does not say.
        is_own: is it `coder serve`? It speaks as llama-server does, goes on with an answer that was cut, and gives an
            answer without the space that belongs to the layout.
        infill: can the model fill in, as far as the server says?
        suits: "temperature" and "repeat_penalty" as the model needs them, where the server is `coder serve`.
    """

    flavour: Flavour
    model: str
    n_ctx: int | None = None
    parameters: int | None = None
    template: str | None = None
    is_own: bool = False
    infill: bool = True
    suits: Mapping[str, float] = field(default_factory=dict)


def recognize(client: Client) -> Served:
    """Find out what answers at the client's address, and which of its models to use.

    Raises:
        InputError: the model has to be named, or does not exist; or the server refused.
        RemoteError: there is no such server.
    """
    address = client.address
    listed = client.get(f"{address.api}/models")
    entries = listed.get("data") if isinstance(listed, dict) else None
    models = [m for m in entries or [] if isinstance(m, dict) and isinstance(m.get("id"), str)]
    if not models:
        raise RemoteError(f"{address} lists no models", hint=NO_API)
    entry = _choose(models, address.model, str(address))
    flavour = OWNERS.get(str(entry.get("owned_by")), Flavour.OTHER)
    if address.host == DEEPSEEK_HOST:
        flavour = Flavour.DEEPSEEK
    details: Any = entry.get("meta")
    details = details if isinstance(details, dict) else {}
    n_ctx = _count(entry.get("max_model_len")) or _count(details.get("n_ctx"))
    template, suits = None, {}
    is_own = entry.get("owned_by") == OWN
    if flavour in (Flavour.LLAMA_SERVER, Flavour.OTHER) and (props := _props(client, flavour)):
        flavour = Flavour.LLAMA_SERVER
        n_ctx = _count(props["default_generation_settings"].get("n_ctx")) or n_ctx
        template = props.get("chat_template")
        suits = _suits(props["default_generation_settings"].get("params")) if is_own else {}
    elif flavour is Flavour.OTHER and entry.get("owned_by") == "me" and "permissions" in entry:
        flavour = Flavour.LLAMA_CPP_PYTHON
    return Served(
        flavour,
        entry["id"],
        n_ctx,
        _count(details.get("n_params")),
        template if isinstance(template, str) else None,
        is_own=is_own,
        infill=details.get("infill") is not False,
        suits=suits,
    )


def _choose(models: list[dict[str, Any]], wanted: str | None, address: str) -> dict[str, Any]:
    if wanted is None and len(models) == 1:
        return models[0]
    for model in models:
        aliases = model.get("aliases")
        if wanted is not None and (wanted == model["id"] or (isinstance(aliases, list) and wanted in aliases)):
            return model
    names = [printable(str(m["id"]))[:100] for m in models[:SHOWN_MODELS]]
    more = f" and {len(models) - SHOWN_MODELS} more" if len(models) > SHOWN_MODELS else ""
    what = f"{address} has no model {wanted!r}" if wanted else f"{address} serves several models: name one"
    raise InputError(f"{what}: it has {', '.join(names)}{more}", hint=f"for example -m {address}#{names[0]}")


def _props(client: Client, flavour: Flavour) -> dict[str, Any] | None:
    """What llama-server, and servers like it, say about themselves; None from others.

    Raises:
        KeyRefused: by llama-server, whose list of models is open to all.
    """
    try:
        props = client.get(f"{client.address.root}/props")
    except (RemoteError, InputError) as error:
        if isinstance(error, KeyRefused) and flavour is Flavour.LLAMA_SERVER:
            raise
        return None
    is_props = isinstance(props, dict) and isinstance(props.get("default_generation_settings"), dict)
    return props if is_props else None


def _suits(params: Any) -> dict[str, float]:
    """What is a number that sampling can use. A server may say anything."""
    values = params if isinstance(params, dict) else {}
    numbers = {name: values[name] for name in LEAST if type(values.get(name)) in (int, float)}
    return {name: float(value) for name, value in numbers.items() if LEAST[name] <= value <= 10}


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None
