"""`/fim` in a conversation: filling in by hand, with the model that answers there."""

from typing import TYPE_CHECKING

from quant.errors import CoderError

if TYPE_CHECKING:
    from cli.repl import Repl

FORCE = "--force"
INSTEAD = "`coder pull lite-base` gets DeepSeek-Coder-V2-Lite-Base, which was; `/fim --force` uses this one anyway"


def fim_in_chat(repl: "Repl", words: list[str]) -> None:
    """Fill in by hand, if the conversation's model was trained to, or the user insists.

    Args:
        words: what was typed after `/fim`: a place to begin with, and `--force`.

    Raises:
        InputError: the model was not trained to fill in.
    """
    from cli.fim_backend import judge
    from cli.fim_repl import fim_repl
    from cli.fim_wishes import FimWishes
    from converters.gguf_header import read_header

    backend, model, metadata = repl.conversation.backend, repl.model, None
    if model.path:
        try:
            metadata = read_header(model.path).metadata
        except CoderError:  # it may be gone by now, while it is in use: its name is left
            metadata = {}
    judge(
        model.name if model.path else backend.name,
        metadata,
        lambda said: repl.note(said, "yellow"),
        force=FORCE in words,
        hint=INSTEAD,
    )
    fim_repl(backend, FimWishes(repl.wishes.settings), [word for word in words if word != FORCE], repl.screen)
