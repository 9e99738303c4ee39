"""A server on this machine that runs a given model file already: found by its file, used by commands."""

from pathlib import Path

from coderv2_local import __version__
from coderv2_local.placement.load_wishes import LoadWishes
from coderv2_local.serving.server_file import ServerFile, running_servers
from coderv2_local.states.fingerprint import model_fingerprint
from converters.gguf_header import read_header
from quant.errors import CoderError

KEY_VARIABLE = "CODER_SERVE_KEY"


def find_server(model: Path, wishes: LoadWishes, *, exact_routing: bool = True) -> ServerFile | None:
    """A server of the same model, by the same version of this program, that meets `wishes`; None where there is none.

    A user who decides how the model is loaded means a load of their own, but for a context that the server has.
    """
    if wishes not in (LoadWishes(), LoadWishes(n_ctx=wishes.n_ctx)):
        return None
    servers = [
        server
        for server in running_servers()
        if server.version == __version__
        and server.exact_routing == exact_routing
        and wishes.n_ctx in (None, server.n_ctx)
    ]
    if not servers:  # no need to look at the file
        return None
    try:
        fingerprint = model_fingerprint(read_header(model))
    except CoderError:
        return None
    return next((server for server in servers if server.fingerprint == fingerprint), None)
