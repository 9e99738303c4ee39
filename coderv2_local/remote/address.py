"""The address of a server, as a user types it: ``http://host:port[/path][#model]``."""

import ipaddress
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from quant.errors import InputError

DEEPSEEK_HOST = "api.deepseek.com"


@dataclass(frozen=True)
class Address:
    """Where a server is.

    Attributes:
        root: scheme, host, port and path, without ``/v1`` and without a slash at the end.
        host: of the server, in lower case.
        encrypted: is it https?
        model: the part after ``#``; None where none was given.
    """

    root: str
    host: str
    encrypted: bool
    model: str | None = None

    @property
    def api(self) -> str:
        """Where the paths of the OpenAI interface start."""
        return f"{self.root}/v1"

    @property
    def is_loopback(self) -> bool:
        """Is it this machine?"""
        if self.host == "localhost" or self.host.endswith(".localhost"):
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    def __str__(self) -> str:
        return self.root


def is_address(text: str) -> bool:
    """Does `text` look like the address of a server, not like a file or a model's name?"""
    return text.lower().startswith(("http://", "https://"))


def parse_address(text: str) -> Address:
    """Read an address. ``/v1`` at its end is optional.

    Raises:
        InputError: no http address, or one that carries a password, a query or no host. The message never repeats
            what could be a secret.
    """
    if any(c.isspace() or not c.isprintable() for c in text):
        raise InputError("the address of a server has no spaces or control characters in it")
    try:
        parts = urlsplit(text)
        host, port = (parts.hostname or "").lower(), parts.port
    except ValueError:
        raise InputError("this is no address of a server", hint="for example http://127.0.0.1:8080") from None
    if "@" in parts.netloc or "\\" in parts.netloc:
        raise InputError(
            "the address carries a user name or a password", hint="put the key into CODER_API_KEY, not into the address"
        )
    if parts.scheme not in ("http", "https") or not host:
        raise InputError("the address names no host", hint="for example http://127.0.0.1:8080")
    if parts.query:
        raise InputError(
            f"the address of {host} has a query (?…)", hint="leave it out; a key belongs into CODER_API_KEY"
        )
    path = parts.path.rstrip("/").removesuffix("/v1")
    if host == DEEPSEEK_HOST and path == "/beta":
        path = ""  # its interface for infilling; chat is at the root
    shown_host = f"[{host}]" if ":" in host else host
    root = f"{parts.scheme}://{shown_host}{f':{port}' if port is not None else ''}{path.rstrip('/')}"
    return Address(root, host, parts.scheme == "https", unquote(parts.fragment) or None)
