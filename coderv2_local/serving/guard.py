"""Who may ask: the Host header, the Origin header and the key, looked at before anything else.

A web page can send requests to a server on its visitor's own machine. It cannot read the answers, as no CORS header is
ever sent; with DNS rebinding it could, but then the Host header names the page's own domain. It could still keep the
model busy: so requests that a browser sends on behalf of another site, which it marks by Origin, are refused too.
"""

import hmac
from collections.abc import Collection, Mapping
from typing import Any
from urllib.parse import urlsplit

from coderv2_local.remote.address import parse_address
from coderv2_local.serving.errors import ApiError
from quant.errors import InputError

LOOPBACK_NAMES = frozenset({"127.0.0.1", "localhost", "::1"})
VERSIONS = ("1.0", "1.1")
MAX_TARGET = 8 << 10
MAX_HEAD = 64 << 10
OPEN_PATHS = ("/health", "/v1/health")


def check_head(scope: Mapping[str, Any]) -> None:
    """Raises ApiError unless a request is of a version of HTTP that is spoken here, and its head of a usual size."""
    if scope["http_version"] not in VERSIONS:
        raise ApiError(505, f"HTTP/{scope['http_version']} is not spoken here: HTTP/1.1 is")
    if len(scope["raw_path"]) + len(scope["query_string"]) > MAX_TARGET:
        raise ApiError(414, f"the address is longer than {MAX_TARGET} bytes")
    if sum(len(name) + len(value) for name, value in scope["headers"]) > MAX_HEAD:
        raise ApiError(431, f"the headers are larger than {MAX_HEAD} bytes")


def check_host(headers: Mapping[str, str], allowed: Collection[str] | None) -> None:
    """Raises ApiError unless the Host header names one of `allowed`; None allows all, for servers with a key."""
    host = headers.get("host", "")
    if allowed is not None and host_name(host) not in allowed:
        raise ApiError(403, "the Host header names another server than this", code="wrong_host")
    origin = headers.get("origin")
    if origin is not None and urlsplit_host(origin) not in (None, *LOOPBACK_NAMES, host_name(host)):
        raise ApiError(403, "web pages of other sites may not use this server", code="wrong_origin")


def check_key(headers: Mapping[str, str], key: str | None) -> None:
    """Raises ApiError unless the request carries `key`. Compared in a time that does not depend on what is right."""
    if key is None:
        return
    scheme, _, given = headers.get("authorization", "").partition(" ")
    given = given.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", "")
    if not hmac.compare_digest(given.encode("utf-8", "replace"), key.encode()):
        raise ApiError(401, "this server needs its API key: Authorization: Bearer …", code="invalid_api_key")


def host_name(host: str) -> str | None:
    """The name in a Host header, without the port; None where there is none."""
    try:
        return parse_address(f"http://{host}").host if host and "/" not in host and "#" not in host else None
    except InputError:
        return None


def urlsplit_host(origin: str) -> str | None:
    """The host of a web page's origin; None for programs that are no web pages, such as editors' own schemes."""
    try:
        parts = urlsplit(origin)
    except ValueError:
        return ""
    return (parts.hostname or "") if parts.scheme in ("http", "https") or origin == "null" else None
