"""Reading a request's body: bounded in size and in time."""

import asyncio
import logging
from typing import Any

from starlette.requests import Request

from coderv2_local.serving.errors import ApiError
from coderv2_local.serving.fields import read_json
from coderv2_local.serving.incoming import incoming_of
from coderv2_local.serving.json_size import MOST, size_of_values
from coderv2_local.serving.state import Limits, Serving

log = logging.getLogger("coder.serve")


async def read_object(request: Request) -> dict[str, Any]:
    """The JSON object that a request carries.

    Raises:
        ApiError: as :func:`read_body` and :func:`read_json`; its values would take too much memory (413), or would with
            those of others (503).
        ClientDisconnect: nobody sends any more.
    """
    serving: Serving = request.app.state.serving
    data = await read_body(request, serving.limits)
    if serving.log_prompts:
        log.info("%s %r", request.url.path, data.decode("utf-8", "replace"))  # on one line, whatever is in it
    size = size_of_values(data)
    if size > MOST:
        raise ApiError(413, "the request has too many values", code="request_too_large")
    incoming_of(request.scope).count(size)
    return read_json(data)


async def read_body(request: Request, limits: Limits) -> bytes:
    """The whole body.

    Raises:
        ApiError: it is too large (413), comes too slowly (408), or others take the memory for it (503).
        ClientDisconnect: nobody sends any more.
    """
    length = request.headers.get("content-length", "")
    if length.isdigit() and int(length[:20]) > limits.body:
        raise _too_large(limits)
    try:
        return await asyncio.wait_for(_read(request, limits), limits.body_seconds)
    except asyncio.TimeoutError:
        raise ApiError(408, f"the request was not complete after {limits.body_seconds:g} seconds") from None


async def _read(request: Request, limits: Limits) -> bytes:
    data, incoming = bytearray(), incoming_of(request.scope)
    async for chunk in request.stream():
        if len(data) + len(chunk) > limits.body:
            raise _too_large(limits)
        incoming.count(len(chunk))
        data += chunk
    return bytes(data)


def _too_large(limits: Limits) -> ApiError:
    return ApiError(413, f"the request is larger than {limits.body} bytes", code="request_too_large")
