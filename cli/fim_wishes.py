"""What a user asked of `coder fim`, on the command line or in the settings, and what follows from it."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from cli.fim_backend import infill_backend
from cli.options import loading_options, value_of_setting
from coderv2_local.backend import Backend
from coderv2_local.edits.refusal import EditRefused
from coderv2_local.engine_errors import ContextFull
from coderv2_local.fim.context import Snippet
from coderv2_local.fim.fill import Filling, FillOptions, fill
from coderv2_local.fim.hole import Hole
from coderv2_local.fim.related import label_of, named_snippets, related_snippets
from coderv2_local.fim.window import USUAL, Budgets
from coderv2_local.load_settings import load_wishes
from coderv2_local.preferences import Preferences
from coderv2_local.sampling.options import SamplingOptions
from quant.errors import InputError

MAX_TOKENS = 128
ANOTHER_TEMPERATURE = 0.8  # of another sample, where the user names none: the first is the most probable one


@dataclass(frozen=True)
class FimWishes:
    """Options as given; None where they were not: then the settings decide, and at last what is usual.

    Attributes:
        max_ms: for one suggestion.
        context: files that the model is shown; without any, related ones are looked for, unless `no_context`.
        server: may a running `coder serve` of the same model answer?
    """

    settings: Preferences
    max_tokens: int | None = None
    max_ms: int | None = None
    context: Sequence[Path] = ()
    no_context: bool = False
    prefix_tokens: int | None = None
    suffix_tokens: int | None = None
    temperature: float = 0.0
    seed: int | None = None
    n_ctx: int | None = None
    threads: int | None = None
    exact_routing: bool = True
    force: bool = False
    server: bool = True

    @contextmanager
    def backend(self, model: str | None, notify: Callable[[str], None]) -> Iterator[Backend]:
        """What fills in. Raises as :func:`infill_backend`."""
        n_ctx = self.settings.get("fim.context", 0) if self.n_ctx is None else self.n_ctx
        named = value_of_setting("fim.context", "--ctx") if self.n_ctx is None and n_ctx else nullcontext()
        load = load_wishes(self.settings, n_ctx=n_ctx, n_threads=self.threads)
        answering = infill_backend(
            model,
            load,
            notify,
            loading_options(
                n_ctx=self.n_ctx,
                threads=self.threads,
                stock_routing=not self.exact_routing,
                no_server=not self.server,
            ),
            exact_routing=self.exact_routing,
            force=self.force,
            server=self.server,
            # half of the time, so that enough is left where a server does not answer
            server_seconds=self.max_ms / 2000 if self.max_ms else None,
        )
        with named, answering as backend:
            yield backend

    def sampling(self, sample: int = 0) -> SamplingOptions:
        """Of the first suggestion, or of sample number `sample` beside it. Raises InputError for impossible values."""
        temperature = self.temperature or (ANOTHER_TEMPERATURE if sample else 0.0)
        return SamplingOptions(temperature=temperature, seed=(self.seed or 0) + sample)

    def options(self, path: Path, text: str, max_seconds: float | None) -> FillOptions:
        """The options of one filling in a file with this text, with the other files that the model is shown.

        Raises:
            InputError: a file that was named cannot be read.
        """
        snippets = self.named(path)
        if not snippets and not self.no_context:
            snippets = related_snippets(path, text)
        return FillOptions(
            self.max_tokens or self.settings.get("fim.max_tokens", MAX_TOKENS),
            max_seconds,
            Budgets(
                USUAL.prefix if self.prefix_tokens is None else self.prefix_tokens,
                USUAL.suffix if self.suffix_tokens is None else self.suffix_tokens,
                USUAL.context,
            ),
            tuple(snippets),
            asked_for_context=bool(self.context),
            label=label_of(path),
        )

    def named(self, path: Path) -> list[Snippet]:
        """The files that the user named, as the model is shown them beside `path`. Raises InputError."""
        try:
            return named_snippets(list(self.context), path)
        except EditRefused as error:
            raise InputError(error.message, hint=error.hint) from None

    def left_out(self, filling: Filling) -> str:
        """What of the files that the user named found no room, for a notice; empty where all did."""
        if not self.context:
            return ""
        cut = [f"{c.label} (the first {c.lines} of {c.of_lines} lines)" if c.lines else c.label for c in filling.cut]
        return f"no room for all of: {', '.join(cut)}" if cut else ""

    def fill(
        self, hole: Hole, backend: Backend, path: Path, text: str, *, sample: int = 0, spent: float = 0.0
    ) -> Filling:
        """The middle that the model proposes for a hole in a file with this text.

        Args:
            sample: 0 for the first choice; each other number for another draw.
            spent: seconds of `max_ms` that are gone already.

        Raises:
            InputError: a named file cannot be read, there is no infill, or the context is too small.
            EngineError: the model failed.
        """
        max_seconds = max(self.max_ms / 1000 - spent, 0.0) if self.max_ms else None
        options = self.options(path, text, max_seconds)
        try:
            return fill(hole, backend, self.sampling(sample), options)
        except ContextFull:
            if backend.n_ctx is None:
                raise
            raise InputError(
                f"a context of {backend.n_ctx} tokens has no room for this prompt and {options.max_tokens} new tokens",
                hint="fewer of them with -n, or a larger context: --ctx here, of a server where it is started",
            ) from None
