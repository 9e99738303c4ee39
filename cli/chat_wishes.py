"""What a user asked of a conversation, on the command line or in the settings, and what follows from it."""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

from cli.options import loading_options, refuse_on_server, value_of_setting
from coderv2_local.backend import Backend
from coderv2_local.load_settings import load_wishes
from coderv2_local.models import Model, find_model
from coderv2_local.open_model import open_model
from coderv2_local.placement.load_wishes import LoadWishes
from coderv2_local.preferences import Preferences
from coderv2_local.sampling.options import SamplingOptions
from coderv2_local.sampling.seed import new_seed
from coderv2_local.serving.find_server import open_running
from coderv2_local.sessions.attachments import Attachment, attach, expand
from coderv2_local.sessions.conversation import Conversation

MAX_TOKENS = 1024
TOP_P = 0.95


@dataclass(frozen=True)
class Wishes:
    """Options as given; None where they were not: then the settings decide, and at last what suits the model.

    Attributes:
        server: may a running `coder serve` of the same model answer?
    """

    settings: Preferences
    context: int | None = None
    threads: int | None = None
    exact_routing: bool = True
    system: str | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    repeat_penalty: float | None = None
    seed: int | None = None
    server: bool = True

    def find(self, name: str | None) -> Model:
        """The model that a name means. Raises InputError."""
        return find_model(name, self.settings)

    def loading(self) -> Sequence[str]:
        """The options that were typed and decide how a model is loaded here: they mean nothing on a server."""
        return loading_options(
            n_ctx=self.context,
            threads=self.threads,
            stock_routing=not self.exact_routing,
            no_server=not self.server,
        )

    def load(self, model: Model) -> Backend:
        """The model, ready to answer: on a server that runs it already, or loaded. Raises CoderError."""
        n_ctx = self.settings.get("chat.context", 0) if self.context is None else self.context
        wishes = load_wishes(self.settings, n_ctx=n_ctx, n_threads=self.threads)
        running = None
        if self.server:
            typed = LoadWishes(n_ctx=self.context or None, n_threads=self.threads)
            running = open_running(model, typed, least_ctx=n_ctx, exact_routing=self.exact_routing)
        with value_of_setting("chat.context", "--ctx") if self.context is None and n_ctx else nullcontext():
            return running or open_model(model, wishes, exact_routing=self.exact_routing)

    def sampling(self, model: Model, backend: Backend | None = None) -> SamplingOptions:
        """Sampling options for a model. Raises InputError for impossible values.

        Args:
            backend: that answers for it, where there is one yet: a server knows better what its model needs.
        """
        suits = {"temperature": model.temperature, "repeat_penalty": model.repeat_penalty}
        if model.path is None and backend:
            from coderv2_local.remote import RemoteBackend

            suits |= backend.suits if isinstance(backend, RemoteBackend) else {}

        def first(given: float | None, key: str, default: float) -> float:
            return given if given is not None else self.settings.get(key, default)

        return SamplingOptions(
            temperature=first(self.temperature, "chat.temperature", suits["temperature"]),
            top_p=first(self.top_p, "chat.top_p", TOP_P),
            top_k=self.settings.get("chat.top_k", SamplingOptions.top_k),
            min_p=self.settings.get("chat.min_p", SamplingOptions.min_p),
            repeat_penalty=first(self.repeat_penalty, "chat.repeat_penalty", suits["repeat_penalty"]),
            seed=new_seed() if self.seed is None else self.seed,
        )

    def conversation(self, model: Model) -> Conversation:
        """A conversation with a model, the first one. Raises CoderError."""
        refuse_on_server(model, self.loading())
        self.sampling(model)  # checked before the model is loaded, which takes longer
        limit = self.max_tokens or self.settings.get("chat.max_tokens", MAX_TOKENS)
        backend = self.load(model)
        return Conversation(backend, self.sampling(model, backend), limit, root=Path.cwd())

    def system_prompt(self) -> str:
        """For a new conversation. An empty one that was typed is none, whatever the settings say."""
        return self.settings.get("chat.system", "") if self.system is None else self.system

    def attachments(self, patterns: Sequence[str]) -> list[Attachment]:
        """The files that were named, read. Raises InputError."""
        root = Path.cwd()
        return [attach(path, root) for pattern in patterns for path in expand(pattern, root)]
