"""The ASGI application: the router inside a frame that looks at who asks, counts, logs, and answers errors."""

import asyncio
import logging
import time
from collections.abc import Mapping

from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from coderv2_local.serving.errors import ApiError, api_error, shutting_down
from coderv2_local.serving.guard import OPEN_PATHS, check_head, check_host, check_key
from coderv2_local.serving.incoming import KEY, Incoming, incoming_of
from coderv2_local.serving.json_answer import JsonAnswer
from coderv2_local.serving.openapi import openapi
from coderv2_local.serving.routes import ENDPOINTS
from coderv2_local.serving.state import Serving
from quant.errors import CoderError

DESCRIPTION = "/openapi.json"
KNOWN_PATHS = frozenset({e.path for e in ENDPOINTS} | {DESCRIPTION})
CLOSED = 499  # what logs call a request whose client went away before the answer
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
log = logging.getLogger("coder.serve")


def make_app(serving: Serving) -> ASGIApp:
    """The application for one model."""
    routes = [Route(e.path, e.handler, methods=[e.method]) for e in ENDPOINTS]
    routes.append(Route(DESCRIPTION, openapi, methods=["GET"]))
    handlers = {HTTPException: _http_error, ApiError: _error, CoderError: _error, Exception: _error}
    app = Starlette(routes=routes, exception_handlers=handlers)
    app.router.redirect_slashes = False
    app.state.serving = serving
    return Frame(app, serving)


async def _error(request: Request, error: Exception) -> Response:
    failure = api_error(error)
    if failure.status >= 500 and isinstance(error, CoderError):  # what nobody foresaw is raised again, and logged below
        log.error("%s failed: %s", request.url.path, error)
    return _response(failure)


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    words = {404: "there is no such path here", 405: f"{request.method} is not for this path"}
    return _response(ApiError(error.status_code, words.get(error.status_code, str(error.detail))), error.headers or {})


def _response(error: ApiError, headers: Mapping[str, str] | None = None) -> JsonAnswer:
    return LastAnswer(error.body(), error.status, {**error.headers(), **(headers or {}), "Connection": "close"})


class LastAnswer(JsonAnswer):
    """An answer with which the connection ends, since what came of the request may still be unread.

    All of the answer goes out first; that it is the end is said when the client has sent what it was sending.
    """

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        await send({"type": "http.response.body", "body": self.body, "more_body": True})
        await incoming_of(scope).drain()
        await send({"type": "http.response.body", "body": b""})


class Frame:
    """Around the router: first the guard, and around all the log and the last resort for errors."""

    def __init__(self, app: ASGIApp, serving: Serving) -> None:
        self._app, self._serving = app, serving

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status = 0
        incoming = scope[KEY] = Incoming(receive, self._serving)

        async def note(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start" and not incoming.is_gone:
                status = message["status"]
            await send(message)

        try:
            check_head(scope)
            headers = Headers(scope=scope)
            check_host(headers, self._serving.hosts)
            if scope["path"] not in OPEN_PATHS:
                check_key(headers, self._serving.key)
            await self._app(scope, incoming, note)
        except ClientDisconnect:
            status = status or CLOSED
        except asyncio.CancelledError:  # the server ends, and this has taken longer than it waits
            if not status:
                await _response(shutting_down())(scope, incoming, note)
            raise
        except Exception as error:
            failure = api_error(error)
            if failure.status >= 500 and failure is not error:
                log.error("%s %s failed", _method(scope), _path(scope), exc_info=error)
            if not status:
                await _response(failure)(scope, incoming, note)
        finally:
            incoming.release()
            path, seconds = _path(scope), time.monotonic() - incoming.arrived
            self._serving.metrics.requests[path, status or CLOSED] += 1
            log.info("%s %s %s %.0f ms", _method(scope), path, status or CLOSED, seconds * 1000)


def _method(scope: Scope) -> str:
    """The method, where it is one of the usual: any other could be a word of any length."""
    method: str = scope["method"]
    return method if method in METHODS else "other"


def _path(scope: Scope) -> str:
    """The path, where it is one of ours: any other could be a text of any kind."""
    path: str = scope["path"]
    if path.startswith("/v1/models/"):
        return "/v1/models/{model}"
    return path if path in KNOWN_PATHS else "other"
