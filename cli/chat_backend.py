"""What a conversation is answered by: a `coder serve` that runs its model already, or the model loaded here."""

from typing import TYPE_CHECKING

from coderv2_local.backend import Backend
from coderv2_local.serving.find_server import BehindServer
from quant.errors import CoderError

if TYPE_CHECKING:
    from cli.repl import Repl


def who_answers(backend: Backend) -> str:
    """Which running server was found and answers; "" where the user named one, or the model is loaded here."""
    if not isinstance(backend, BehindServer):
        return ""
    return f"answered by the running server at {backend.address}; --no-server loads the model here"


def replace_ended(repl: "Repl") -> bool:
    """Where the server that answered has ended: go on with another one of the same model, or load it here.

    Returns:
        Whether there is another backend now. Where there cannot be, the reason is shown, and the next line tries again.
    """
    old = repl.conversation.backend
    if not isinstance(old, BehindServer) or not old.is_gone():
        return False
    repl.note(f"the server at {old.address} has ended: opening {repl.model.name} again", "yellow")
    try:
        new = repl.wishes.load(repl.model)
    except CoderError as error:
        repl.show_error(error)
        repl.note("the conversation is kept: /model NAME goes on with another model", "yellow")
        return False
    old.close()
    repl.use_backend(new)
    repl.restore_state()
    return True
