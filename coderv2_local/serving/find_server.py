"""A server on this machine that runs a given model file already: found by its file, used by commands."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from coderv2_local import __version__
from coderv2_local.installed import note_use
from coderv2_local.models import Model
from coderv2_local.placement.load_wishes import NO_WISHES, LoadWishes
from coderv2_local.serving.server_file import ServerFile, running_servers
from coderv2_local.states.fingerprint import model_fingerprint
from converters.gguf_header import GgufHeader, read_header
from quant.errors import CoderError

if TYPE_CHECKING:
    from coderv2_local.serving.served_backend import ServedBackend

KEY_VARIABLE = "CODER_SERVE_KEY"


@runtime_checkable
class BehindServer(Protocol):
    """A backend behind a server that can end before its user does: what can be asked without loading an HTTP client.

    Attributes:
        address: of the server.
    """

    address: str

    def is_gone(self) -> bool:
        """Has the server ended?"""
        ...


def open_running(
    model: Model,
    typed: LoadWishes = NO_WISHES,
    *,
    least_ctx: int = 0,
    exact_routing: bool = True,
    header: GgufHeader | None = None,
    seconds: float | None = None,
) -> "ServedBackend | None":
    """A running server of the same model as a backend; None where there is none, or it does not answer.

    The key of a server that wants one is expected in `CODER_SERVE_KEY`.

    Args:
        typed, least_ctx, exact_routing, header: as :func:`find_server` has them.
        seconds: that its first answers may take, together; None for the usual limits.
    """
    if model.path is None:
        return None
    server = find_server(model.path, typed, least_ctx=least_ctx, exact_routing=exact_routing, header=header)
    if server is None or (server.needs_key and not os.environ.get(KEY_VARIABLE)):
        return None
    from coderv2_local.remote.address import parse_address
    from coderv2_local.remote.key import read_key
    from coderv2_local.serving.served_backend import ServedBackend

    try:
        key = read_key(parse_address(server.address), KEY_VARIABLE, os.environ) if server.needs_key else None
        backend = ServedBackend(model, server, key, seconds)
    except CoderError:
        return None
    note_use(model.path)
    return backend


def find_server(
    model: Path,
    typed: LoadWishes = NO_WISHES,
    *,
    least_ctx: int = 0,
    exact_routing: bool = True,
    header: GgufHeader | None = None,
) -> ServerFile | None:
    """A server of the same model, by the same version of this program; None where none will do.

    What the settings say of loading, they have said to the server, too: only what is typed can rule one out.

    Args:
        typed: on the command line: a number of threads means a load of one's own, a context one of exactly that size.
        least_ctx: tokens of context that it must have.
        exact_routing: as it must choose experts.
        header: of the model's file, where it has been read already.
    """
    if typed.n_threads is not None:
        return None
    servers = [
        server
        for server in running_servers()
        if server.version == __version__
        and server.exact_routing == exact_routing
        and typed.n_ctx in (None, server.n_ctx)
        and server.n_ctx >= least_ctx
    ]
    if not servers:  # no need to look at the file
        return None
    try:
        fingerprint = model_fingerprint(header or read_header(model))
    except CoderError:
        return None
    return next((server for server in servers if server.fingerprint == fingerprint), None)
