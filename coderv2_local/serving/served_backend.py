"""The model behind a `coder serve` of this machine, as a backend."""

from contextlib import nullcontext

from coderv2_local.models import Model
from coderv2_local.remote import RemoteBackend, TimeLimits
from coderv2_local.remote.address import parse_address
from coderv2_local.remote.client import Client
from coderv2_local.remote.key import Key
from coderv2_local.serving.server_file import ServerFile
from coderv2_local.stream import printable
from quant.errors import CoderError

LIMITS = TimeLimits(connect=3, small=15, pauses=(0.2, 0.5), first_token=24 * 3600)
"""Shorter than for other machines where nothing answers, since the model can be loaded instead; longer where a request
waits for its turn or a large model reads a prompt: whoever sits there ends that with Ctrl-C."""


class ServedBackend(RemoteBackend):
    """A model file that `coder serve` runs on this machine.

    Args:
        model: the name that the user gave, and the file that both mean.
        server: what runs it.
        key: of the server; None where it wants none.
        seconds: that its first answers may take, together; None for the usual limits.

    Raises:
        CoderError: the server does not answer.
    """

    def __init__(self, model: Model, server: ServerFile, key: Key | None, seconds: float | None = None) -> None:
        client = Client(parse_address(server.address), key, LIMITS)
        with nullcontext() if seconds is None else client.within(seconds):
            super().__init__(client)
        self.name = model.name
        self.address = server.address
        self._server = server

    @property
    def notices(self) -> list[str]:
        """What the server said of the model when it had loaded it: as where it is loaded here."""
        return [printable(line) for line in self._server.notices.splitlines()]

    def is_gone(self) -> bool:
        """Has the server ended, or stopped to answer at all?"""
        if not self._server.is_alive():
            return True
        try:
            self._client.get(f"{self._client.address.root}/health")
        except CoderError:
            return True
        return False
