"""Models on servers, behind the same seam as the one in this process: vLLM, SGLang, llama-server, DeepSeek's API."""

import os
from collections.abc import Mapping

from coderv2_local.remote.address import Address, is_address, parse_address
from coderv2_local.remote.backend import RemoteBackend
from coderv2_local.remote.client import Client, TimeLimits
from coderv2_local.remote.failures import RemoteError
from coderv2_local.remote.key import KEY_VARIABLE, read_key

__all__ = ["KEY_VARIABLE", "Address", "RemoteBackend", "RemoteError", "TimeLimits", "is_address", "open"]


def open(
    address: str,
    key_variable: str | None = None,
    *,
    limits: TimeLimits | None = None,
    environment: Mapping[str, str] | None = None,
) -> RemoteBackend:
    """Connect to the server at `address` and find out what it is.

    Args:
        address: ``http://host:port[/v1][#model]``; the model is needed where the server has several.
        key_variable: the environment variable that holds the server's key. None: `CODER_API_KEY`, if it is set.
        limits: how long to wait for what.
        environment: where to look for the key; the process's own unless given.

    Raises:
        InputError: the address, the key or the model cannot be used.
        RemoteError: the server cannot be reached, or is none of this kind.
    """
    place = parse_address(address)
    key = read_key(place, key_variable, os.environ if environment is None else environment)
    return RemoteBackend(Client(place, key, limits or TimeLimits()))
