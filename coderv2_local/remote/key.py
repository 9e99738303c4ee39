"""The key of a server: read from the environment, sent to that server, and shown nowhere."""

from collections.abc import Mapping

from coderv2_local.remote.address import DEEPSEEK_HOST, Address
from quant.errors import InputError

KEY_VARIABLE = "CODER_API_KEY"
DEEPSEEK_VARIABLE = "DEEPSEEK_API_KEY"


class Key:
    """A secret that does not show in a repr, a message or a traceback's arguments.

    Attributes:
        variable: the environment variable that it came from.
    """

    __slots__ = ("_secret", "variable")

    def __init__(self, secret: str, variable: str) -> None:
        self._secret = secret
        self.variable = variable

    def __repr__(self) -> str:
        return f"Key(from {self.variable})"

    def authorization(self) -> str:
        """The value of the Authorization header."""
        return f"Bearer {self._secret}"

    def hide(self, text: str) -> str:
        """`text` with the key blotted out, should a server have repeated it."""
        return text.replace(self._secret, "***")


def read_key(address: Address, variable: str | None, environment: Mapping[str, str]) -> Key | None:
    """The key for the server at `address`; None where no variable holds one.

    Args:
        variable: the environment variable to look in. None: `CODER_API_KEY`, and for DeepSeek's own server
            `DEEPSEEK_API_KEY` before it.

    Raises:
        InputError: `variable` was named and is not set, or its value cannot be a key.
    """
    own = [DEEPSEEK_VARIABLE] if address.host == DEEPSEEK_HOST else []
    for name in [variable] if variable else [*own, KEY_VARIABLE]:
        secret = environment.get(name, "").strip()
        if not secret:
            continue
        if not all("!" <= c <= "~" for c in secret):
            raise InputError(f"{name} holds no key: a key has only ASCII letters, digits and signs, and no spaces")
        return Key(secret, name)
    if variable:
        raise InputError(f"the environment variable {variable} is not set", hint=f"it should hold the key of {address}")
    return None
