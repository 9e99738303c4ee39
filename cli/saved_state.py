"""Keeps the evaluated state of a conversation on disk, so that a resumed one answers at once."""

import threading

from coderv2_local.backend import Backend, Generation
from quant.errors import CoderError

WORTH_SAVING = 256  # newly evaluated tokens


class SavedState:
    """Saves beside the conversation, while the user reads the answer.

    The engine must not be used meanwhile: call :meth:`settle` before it is.
    """

    def __init__(self) -> None:
        self._tokens = 0  # in the state that is on disk
        self._saving: threading.Thread | None = None
        self._trouble: CoderError | None = None

    def save(self, backend: Backend, name: str, last: Generation | None, *, always: bool = False) -> None:
        """Begin to save what is evaluated, under the session's name; a small addition waits for the next time."""
        if not (backend.capabilities.saved_state and name and last):
            return
        tokens = (last.prompt_tokens or 0) + last.tokens
        if tokens == self._tokens or (not always and abs(tokens - self._tokens) < WORTH_SAVING):
            return
        self._tokens = tokens

        def run() -> None:
            try:
                backend.save_state(_state_name(name))
            except CoderError as error:
                self._trouble = error

        self._saving = threading.Thread(target=run, name="save state")
        self._saving.start()

    def restore(self, backend: Backend, name: str) -> str | None:
        """Bring back what was evaluated for a session. Returns a notice where something was there but is of no use."""
        self._tokens = 0
        return backend.restore_state(_state_name(name)) if name else None

    def settle(self) -> CoderError | None:
        """Wait until the state is saved. Returns why it could not be, once."""
        if self._saving:
            self._saving.join()
            self._saving = None
        trouble, self._trouble = self._trouble, None
        return trouble


def _state_name(session: str) -> str:
    return f"session {session}"
