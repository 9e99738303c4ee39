"""HTTP to one server: bounded answers, time limits, a few retries, no redirects, the key to nobody else.

Nothing is retried once a part of an answer has been passed on.
"""

import json
import math
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any

import httpx2

from coderv2_local import __version__
from coderv2_local.remote.address import Address
from coderv2_local.remote.failures import (
    MESSAGE_LIMIT,
    RemoteError,
    ServerSilent,
    connection_error,
    server_words,
    status_error,
)
from coderv2_local.remote.key import Key
from coderv2_local.remote.watchdog import Watchdog
from coderv2_local.stream import printable
from quant.errors import CoderError

BODY_LIMIT = 32 << 20
"""Bytes of an answer that is read whole. The ids of the longest prompt take fewer."""
ERROR_LIMIT = 64 << 10
RETRIED_STATUS = (429, 502, 503)


@dataclass(frozen=True)
class TimeLimits:
    """How long to wait, in seconds.

    Attributes:
        connect: for a connection.
        small: for a whole small answer, such as the list of models.
        first_token: until the server says something: a long prompt can take many minutes.
        between_tokens: from then on.
        pauses: before the second try, the third, and so on.
        longest_pause: that a server may ask for with Retry-After.
    """

    connect: float = 10
    small: float = 60
    first_token: float = 1800
    between_tokens: float = 120
    pauses: tuple[float, ...] = (0.5, 1, 2)
    longest_pause: float = 30


class Client:
    """A connection to one server.

    Args:
        key: sent to this server alone; None for a server that wants none.
    """

    def __init__(self, address: Address, key: Key | None, limits: TimeLimits) -> None:
        self.address, self.key, self.limits = address, key, limits
        self._deadline = math.inf
        headers = {"User-Agent": f"coderv2-local/{__version__}", "Accept-Encoding": "identity"}
        if key:
            headers["Authorization"] = key.authorization()
        self._http = httpx2.Client(
            headers=headers,
            follow_redirects=False,
            # a proxy that the environment names cannot reach this machine's own addresses
            mounts={"http://": None, "https://": None, "all://": None} if address.is_loopback else None,
            timeout=httpx2.Timeout(limits.small, connect=limits.connect),
        )

    @contextmanager
    def within(self, seconds: float) -> Iterator[None]:
        """Meanwhile, nothing is waited for longer than `seconds` from now, whatever the limits allow: ServerSilent."""
        self._deadline = time.monotonic() + seconds
        try:
            yield
        finally:
            self._deadline = math.inf

    def allowed(self, seconds: float) -> float:
        """How many of these seconds there are before the deadline."""
        return max(min(seconds, self._deadline - time.monotonic()), 0.001)

    def get(self, url: str) -> Any:
        """The JSON behind a URL. Raises a CoderError that says what went wrong."""
        return self._whole("GET", url, None)

    def post(self, url: str, body: Mapping[str, Any]) -> Any:
        """The JSON that answers a small request. Raises as :meth:`get`."""
        return self._whole("POST", url, body)

    def _whole(self, method: str, url: str, body: Mapping[str, Any] | None) -> Any:
        with closing(self._send(method, url, body, self.limits.small)) as response:
            self._check_type(response, "application/json")
            with self._watch(response, self.limits.small) as watchdog:
                data = self._read(response, BODY_LIMIT, watchdog)
        try:
            return json.loads(data)
        except (ValueError, RecursionError):
            raise RemoteError(f"{url}: the answer is not valid JSON", hint=NO_API) from None

    def stream(self, url: str, body: Mapping[str, Any]) -> "Stream":
        """Send a request whose answer is a stream. Raises as :meth:`get` until the answer begins."""
        response = self._send("POST", url, body, self.limits.first_token)
        try:
            self._check_type(response, "text/event-stream")
        except BaseException:
            response.close()
            raise
        return Stream(response, self)

    def _send(self, method: str, url: str, body: Mapping[str, Any] | None, seconds: float) -> httpx2.Response:
        """The response to a request, its body unread; tried again where that can help."""
        limits = self.limits
        for pause in (*limits.pauses, None):
            try:
                timeout = httpx2.Timeout(self.allowed(seconds), connect=self.allowed(limits.connect))
                request = self._http.build_request(method, url, json=body, timeout=timeout)
                response = self._http.send(request, stream=True)
            except (httpx2.ConnectError, httpx2.RemoteProtocolError, httpx2.ReadError) as error:
                failure = connection_error(error, self.address)
                if pause is None or not _may_help(error) or self.allowed(pause) < pause:
                    raise failure from None
                time.sleep(pause)
                continue
            except (httpx2.HTTPError, httpx2.InvalidURL) as error:
                raise connection_error(error, self.address) from None
            if response.status_code == 200:
                return response
            with closing(response):
                wait = _retry_after(response, pause)
                retry = response.status_code in RETRIED_STATUS and wait is not None and wait <= limits.longest_pause
                if not retry or self.allowed(wait or 0) < (wait or 0):
                    raise self._refusal(response)
            time.sleep(wait or 0)
        raise AssertionError("the last try returns or raises")

    def _refusal(self, response: httpx2.Response) -> CoderError:
        with self._watch(response, self.limits.small) as watchdog:
            try:
                body = self._read(response, ERROR_LIMIT, watchdog, cut=True)
            except RemoteError:
                body = b""
        return status_error(response.status_code, body, response.headers.get("location", ""), self.address, self.key)

    def _check_type(self, response: httpx2.Response, wanted: str) -> None:
        if response.headers.get("content-encoding", "identity").lower() != "identity":
            raise RemoteError(f"{self.address} sends compressed data that was not asked for", hint=NO_API)
        kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind == wanted:
            return
        if kind == "application/json":  # where a stream was wanted: some servers report failures so, with status 200
            with self._watch(response, self.limits.small) as watchdog:
                words = server_words(self._read(response, ERROR_LIMIT, watchdog, cut=True), self.key)
            raise RemoteError(f"{self.address} does not stream its answer{f': {words}' if words else ''}")
        shown = printable(kind)[:MESSAGE_LIMIT]
        raise RemoteError(f"{self.address} answers with {shown or 'no content type'}, not {wanted}", hint=NO_API)

    def _watch(self, response: httpx2.Response, seconds: float) -> Watchdog:
        stream = response.extensions.get("network_stream")
        return Watchdog(stream.get_extra_info("socket") if stream else None, self.allowed(seconds))

    def _read(self, response: httpx2.Response, limit: int, watchdog: Watchdog, *, cut: bool = False) -> bytes:
        data = bytearray()
        try:
            for chunk in response.iter_raw():
                data += chunk
                if len(data) > limit:
                    if cut:
                        break
                    raise RemoteError(f"{self.address} answers with more than {limit >> 20} MB", hint=NO_API)
        except httpx2.HTTPError as error:
            if watchdog.expired:
                raise ServerSilent(f"{self.address} did not finish its answer in time") from None
            raise connection_error(error, self.address) from None
        if watchdog.expired:  # where no length was given, a connection that was shut down looks like the end
            raise ServerSilent(f"{self.address} did not finish its answer in time")
        return bytes(data[:limit])

    def close(self) -> None:
        self._http.close()


NO_API = "is this the address of an OpenAI-compatible server?"


class Stream:
    """The bytes of an answer that is under way. Close it to cancel: the connection is closed."""

    def __init__(self, response: httpx2.Response, client: Client) -> None:
        self._response, self._client = response, client
        self._watchdog = client._watch(response, client.limits.first_token)

    def __iter__(self) -> Iterator[bytes]:
        """What comes, as it comes. Raises RemoteError where the connection breaks or nothing comes any more."""
        address = self._client.address
        with self._watchdog:
            try:
                yield from self._response.iter_raw()
            except httpx2.HTTPError as error:
                self._raise_if_silent(isinstance(error, httpx2.TimeoutException))
                raise RemoteError(
                    f"the connection to {address} broke in the middle of the answer ({type(error).__name__})",
                    hint="what came so far is above; the server's own log says more",
                ) from None
            self._raise_if_silent()

    def _raise_if_silent(self, timed_out: bool = False) -> None:
        if timed_out or self._watchdog.expired:
            raise ServerSilent(f"{self._client.address} has fallen silent in the middle of the answer")

    def alive(self, seconds: float) -> None:
        """Something useful came: the next may take `seconds`."""
        self._watchdog.allow(self._client.allowed(seconds))

    def close(self) -> None:
        self._response.close()


def _may_help(error: Exception) -> bool:
    """Can another try help? Not against a certificate or a name that does not exist."""
    text = str(error).lower()
    return not any(word in text for word in ("ssl", "certificate", "name or service", "nodename", "getaddrinfo"))


def _retry_after(response: httpx2.Response, pause: float | None) -> float | None:
    """Seconds until the next try: what the server asks for, at least `pause`; None where there is no next try."""
    if pause is None:
        return None
    try:
        asked = float(response.headers.get("retry-after", ""))
    except ValueError:  # also a date: then the usual pause
        return pause
    return max(asked, pause) if asked == asked else pause
