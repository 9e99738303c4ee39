"""A conversation in memory: its turns, and what happens when they no longer fit the context."""

from coderv2_local.backend import Generation, LocalBackend
from coderv2_local.engine import ContextFull
from coderv2_local.prompt import Message
from coderv2_local.sampling import SamplingOptions


class Conversation:
    """Turns with one backend.

    Attributes:
        messages: the turns so far; an assistant's turn keeps the ids it was generated as.
    """

    def __init__(self, backend: LocalBackend, options: SamplingOptions, max_tokens: int) -> None:
        self.backend = backend
        self.options = options
        self.max_tokens = max_tokens
        self.messages: list[Message] = []

    def ask(self, text: str) -> tuple[Generation, int]:
        """Begin the answer to `text`.

        Returns:
            The generation, and how many of the oldest messages were dropped to make room for it: for the caller to
            show.

        Raises:
            ContextFull: `text` alone is too long. The conversation is as it was.
        """
        question = Message("user", text)
        before = list(self.messages)
        self.messages.append(question)
        while True:
            try:
                generation = self.backend.chat(self.messages, self.options, self.max_tokens)
                return generation, len(before) + 1 - len(self.messages)
            except ContextFull:
                if len(self.messages) == 1:
                    self.messages = before
                    raise
                del self.messages[: 2 if len(self.messages) > 2 else 1]

    def keep(self, generation: Generation, text: str) -> None:
        """Add the answer, whole or cut short, as a turn."""
        self.messages.append(Message("assistant", text, tuple(generation.ids)))

    def take_back(self) -> None:
        """Remove the last question, when no answer came."""
        if self.messages and self.messages[-1].role == "user":
            self.messages.pop()

    def clear(self) -> None:
        self.messages.clear()
