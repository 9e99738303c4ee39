"""What a failed call to the Hub means, in words and with a way on."""

import logging
import os
from collections.abc import Callable, Iterator
from typing import TypeVar

from quant.errors import CoderError, InputError

DEFAULT_ENDPOINT = "https://huggingface.co"
TRANSIENT = 500
"""HTTP statuses from here on are the server's own trouble."""
NO_WAY = {"ConnectError", "NewConnectionError", "ConnectionRefusedError", "ProxyError", "gaierror"}
TOO_SLOW = {"TimeoutException", "Timeout", "TimeoutError"}
BROKEN = {"RemoteProtocolError", "ReadError", "ChunkedEncodingError", "ProtocolError", "ConnectionError"}
"""Names of exceptions: httpx's, which huggingface-hub uses now, and requests', which it used before."""

T = TypeVar("T")


class HubError(InputError):
    """The Hub has no such model, or cannot be reached."""


def ask(what: str, call: Callable[[], T]) -> T:
    """The result of `call`, which asks the Hub for `what`.

    Raises:
        HubError: it failed; why is said.
        CoderError: what `call` itself raises.
    """
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # its warnings would tear our progress apart
    try:
        return call()
    except CoderError:
        raise
    except Exception as e:  # huggingface-hub's errors have no common base across its versions and transports
        raise explained(what, e) from e


def explained(what: str, error: BaseException) -> HubError:
    """The error that says what `error` means for whoever asked the Hub for `what`."""
    chain, what = list(_chain(error)), what.removeprefix("the ")
    kinds = {kind.__name__ for e in chain for kind in type(e).__mro__}
    status = next((s for e in chain if isinstance(s := _status(e), int)), None)
    endpoint = os.environ.get("HF_ENDPOINT", DEFAULT_ENDPOINT)
    if "OfflineModeIsEnabled" in kinds:
        return HubError(f"cannot get {what}: HF_HUB_OFFLINE is set, so nothing is downloaded", hint="unset it")
    if "GatedRepoError" in kinds or status == 403:
        return HubError(
            f"{what}: the Hub wants its terms accepted, or a login, before it hands this out ({_words(error)})",
            hint="accept them on the model's page, then `hf auth login`",
        )
    if status == 401:  # the Hub says so of models that do not exist, too
        return HubError(
            f"there is no {what} on the Hub, or it is private, or the login is not valid",
            hint="check the name; `hf auth login` logs in, `hf auth logout` forgets an old login",
        )
    if status == 404 or "RepositoryNotFoundError" in kinds:
        return HubError(f"there is no {what} on the Hub", hint="check the name")
    if status == 429:
        return HubError(
            f"the Hub refuses to send {what} for now: too many requests", hint="wait some minutes, then run it again"
        )
    if status is not None and status >= TRANSIENT:
        return HubError(f"the Hub fails to send {what} (HTTP {status})", hint="try again later")
    if status is None and kinds & NO_WAY:
        return HubError(
            f"cannot reach {endpoint}: {_words(chain[-1])}",
            hint="check the connection, the proxy (HTTPS_PROXY) and HF_ENDPOINT",
        )
    if kinds & TOO_SLOW:
        return HubError(f"{endpoint} was too slow to answer: {what} did not come", hint="run it again: it goes on")
    if kinds & BROKEN:
        return HubError(f"the connection broke while {what} came", hint="run it again: it goes on")
    return HubError(
        f"cannot get {what} from the Hub: {_words(error)}",
        hint="check the name and the connection; log in with `hf auth login` if the model is gated",
    )


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        yield current
        current = current.__cause__ or current.__context__


def _status(error: BaseException) -> object:
    return getattr(getattr(error, "response", None), "status_code", None)


def _words(error: BaseException) -> str:
    return f"{(str(error).strip() or type(error).__name__).splitlines()[0]:.300}"
