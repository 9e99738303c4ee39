"""What a server's refusal, or its silence, means for the user: one error for each kind."""

import json
import re
import ssl
from typing import Any

import httpx2

from coderv2_local.backend import OutOfTime
from coderv2_local.engine_errors import ContextFull
from coderv2_local.remote.address import Address
from coderv2_local.remote.key import KEY_VARIABLE, Key
from coderv2_local.stream import printable
from quant.errors import CoderError, InputError

MESSAGE_LIMIT = 300  # characters of a server's own words that are shown
CONTEXT_WORDS = re.compile(
    r"exceed_context_size|context_length_exceeded|maximum context length|available context size"
    r"|exceeds? (the )?(model's )?context|longer than the model's context|max_model_len",
    re.IGNORECASE,
)


class RemoteError(CoderError):
    """The server could not be reached, refused, failed, or ended in the middle."""


class ServerSilent(RemoteError, OutOfTime):
    """The server said nothing for as long as it may."""


class KeyRefused(InputError):
    """The server wants a key, or another one."""


def server_words(body: bytes, key: Key | None) -> str:
    """What a server says about a failure, on one line, short, safe to show and without the key; "" for nothing."""
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        return ""
    return error_words(value, key)


def error_words(value: Any, key: Key | None) -> str:
    """The message inside an error object: ``{"error": {"message": …}}`` and its relatives."""
    for name in ("error", "message", "detail"):
        if isinstance(value, dict) and name in value:
            value = value[name]
    if isinstance(value, list) and value:  # FastAPI lists what it found wrong
        value = value[0].get("msg", "") if isinstance(value[0], dict) else value[0]
    text = value if isinstance(value, str) else ""
    text = " ".join((key.hide(text) if key else text).split())
    text = printable(text.encode("utf-8", "replace").decode())
    return text if len(text) <= MESSAGE_LIMIT else text[:MESSAGE_LIMIT] + "…"


def status_error(status: int, body: bytes, location: str, address: Address, key: Key | None) -> CoderError:
    """The error for a status that is not 200.

    Args:
        body: the first bytes of the answer.
        location: its Location header; "" without one.
    """
    words = server_words(body, key)
    said = f": {words}" if words else ""
    if 300 <= status < 400:
        target = printable(key.hide(location) if key else location)[:MESSAGE_LIMIT]
        return InputError(
            f"{address} sends on to another address: {target or 'none given'}",
            hint="if that is right, give that address yourself: a key is never sent on",
        )
    if status in (400, 413, 422) and CONTEXT_WORDS.search(body.decode("utf-8", "replace")):
        return ContextFull(f"the context of {address} is full{said}", hint="less text, or a server with more context")
    if status in (400, 422):
        return InputError(f"{address} does not accept the request ({status}){said}")
    if status == 401:
        return _unauthorized(address, key, said)
    if status == 402:
        return RemoteError(f"{address} wants to be paid (402){said}", hint="look at the balance of the account")
    if status == 403:
        return KeyRefused(f"{address} does not allow this (403){said}", hint="this key may lack the right to the model")
    if status == 404:
        return InputError(
            f"{address} has no such page or model (404){said}",
            hint="the address ends before /chat/completions, for example http://127.0.0.1:8080",
        )
    if status == 429:
        return RemoteError(f"{address} has too many requests (429){said}", hint="try again later")
    if status == 503:
        return RemoteError(f"{address} is not ready (503){said}", hint="it may still be loading the model: try again")
    return RemoteError(f"{address} failed ({status}){said}", hint="the server's own log says more")


def _unauthorized(address: Address, key: Key | None, said: str) -> CoderError:
    if key is None:
        return KeyRefused(f"{address} wants a key (401){said}", hint=f"put it into {KEY_VARIABLE}")
    return KeyRefused(f"{address} does not accept the key in {key.variable} (401){said}")


def connection_error(error: Exception, address: Address) -> CoderError:
    """The error for a connection that failed before the answer began."""
    if tls := _cause(error, ssl.SSLError):
        if isinstance(tls, ssl.SSLCertVerificationError):
            return RemoteError(
                f"the certificate of {address} is not trusted: {tls.verify_message}",
                hint="SSL_CERT_FILE names the certificates of an authority of your own",
            )
        return RemoteError(
            f"no encrypted connection to {address}: {tls.reason or tls}",
            hint="is it http:// instead of https://?",
        )
    if isinstance(error, httpx2.ConnectTimeout):
        plain = ", and is it https:// and not http://" if address.encrypted else ""
        return ServerSilent(f"{address} does not answer", hint=f"is the address right{plain}? is a firewall between?")
    if isinstance(error, httpx2.ProxyError):
        return RemoteError(f"the proxy on the way to {address} failed: {_words(error)}")
    if isinstance(error, httpx2.ConnectError):
        return RemoteError(f"{address} cannot be reached: {_words(error)}", hint="is the server running?")
    if isinstance(error, httpx2.TimeoutException):
        return ServerSilent(f"{address} took the request and did not answer in time")
    return RemoteError(f"the connection to {address} failed: {_words(error)}", hint="the server's own log says more")


def _cause(error: BaseException | None, kind: type[ssl.SSLError]) -> ssl.SSLError | None:
    while error is not None:
        if isinstance(error, kind):
            return error
        error = error.__cause__ or error.__context__
    return None


def _words(error: Exception) -> str:
    return printable(" ".join(str(error).split()))[:MESSAGE_LIMIT] or type(error).__name__
