"""From a hole to the text that belongs there: the prompt, the generation, the rules, in this order."""

import time
from collections.abc import Generator, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

from coderv2_local.backend import Backend, Generation, OutOfTime, Progress, TimeLimited
from coderv2_local.fim.context import Cut, Snippet, preamble
from coderv2_local.fim.hole import Hole
from coderv2_local.fim.stops import End, Watch, end_of
from coderv2_local.fim.trims import trimmed
from coderv2_local.fim.window import USUAL, Budgets, budgets_for, counter, window
from coderv2_local.sampling.options import SamplingOptions
from quant.errors import InputError

OUT_OF_TIME = "time"
SLACK = 0.02  # seconds by which timers differ
INSTEAD = (
    "`coder pull lite-base` gets DeepSeek-Coder-V2-Lite-Base, which was trained to fill in; to an older file of it "
    "`coder convert OLD.gguf NEW.gguf` adds the ids"
)


@dataclass(frozen=True)
class FillOptions:
    """How a hole is filled.

    Attributes:
        max_tokens: longest middle.
        max_seconds: for the prompt and the middle together; what there is by then is the answer. None: no limit.
        budgets: tokens of each part of the prompt.
        snippets: of other files, the most useful first.
        asked_for_context: the user named those files: then they share the room, and are shown in small contexts, too.
        label: the path of the hole's own file, to stand between the snippets and its text.
    """

    max_tokens: int = 128
    max_seconds: float | None = None
    budgets: Budgets = USUAL
    snippets: tuple[Snippet, ...] = ()
    asked_for_context: bool = False
    label: str = ""


@dataclass(frozen=True)
class Filling:
    """A middle.

    Attributes:
        text: with the line ends of the text it belongs to.
        reason: what ended it: "end" (the model's own), "length", "time", or the name of a rule of `stops`.
        prompt_tokens, reused_tokens, tokens: what the model was given, what of it needed no evaluation, what it wrote.
            `prompt_tokens` is None where a server has not said.
        suffix_tokens: of the prompt, those of the text after the hole, counted or estimated: every call evaluates them.
        prompt_seconds, seconds: until the first token, and from then on.
        rule_seconds: of these, spent on the rules.
        cut: of the snippets, those that found no room, or not all of it.
    """

    text: str
    reason: str
    prompt_tokens: int | None
    reused_tokens: int
    suffix_tokens: int
    tokens: int
    prompt_seconds: float
    seconds: float
    rule_seconds: float
    cut: tuple[Cut, ...] = ()


def fill(
    hole: Hole, backend: Backend, sampling: SamplingOptions | None = None, options: FillOptions | None = None
) -> Filling:
    """The middle that the model proposes.

    Raises:
        InputError: this model or server has no infill.
        CoderError: it failed, or the prompt has no room in its context. Only the end of `max_seconds` is no error.
    """
    sampling, options = sampling or SamplingOptions(), options or FillOptions()
    began = time.perf_counter()

    def is_late(slack: float = 0.0) -> bool:
        return options.max_seconds is not None and time.perf_counter() - began > options.max_seconds - slack

    def watch_the_time(done: int, todo: int) -> None:
        if done < todo and is_late():
            raise OutOfTime("the prompt could not be read in time")

    fed = time.perf_counter()
    near = hole.near()
    watch, end, in_time = Watch(near), None, True
    rule_seconds = time.perf_counter() - fed
    suffix_tokens, generation = 0, Generation(iter(()))
    cut: list[Cut] = []
    try:
        with _limit(backend, options.max_seconds):
            prefix, suffix = prompt_texts(hole, backend, options, cut)
            suffix_tokens = counter(backend)(suffix)
            generation = _begin(backend, prefix, suffix, sampling, options.max_tokens, watch_the_time)
            for chunk in generation:
                fed = time.perf_counter()
                end = watch.feed(chunk)
                rule_seconds += time.perf_counter() - fed
                if end or is_late():
                    in_time = end is not None
                    break
    except OutOfTime:
        if not is_late(SLACK):
            raise  # another limit, of the server's own
        in_time = False
    finally:
        _close(generation.chunks)
    fed = time.perf_counter()
    raw = watch.text
    text, rule = _kept(raw, end or watch.finish(), near)
    rule_seconds += time.perf_counter() - fed
    text = text.replace("\r\n", "\n").replace("\n", hole.newline)
    return Filling(
        text,
        rule or ((generation.reason or "end") if in_time else OUT_OF_TIME),
        generation.prompt_tokens,
        generation.reused_tokens,
        suffix_tokens,
        generation.tokens,
        generation.prompt_seconds,
        generation.seconds,
        rule_seconds,
        tuple(cut),
    )


def _begin(
    backend: Backend, prefix: str, suffix: str, sampling: SamplingOptions, max_tokens: int, on_progress: Progress
) -> Generation:
    try:
        return backend.infill(prefix, suffix, sampling, max_tokens, on_progress)
    except InputError as error:
        if not backend.capabilities.ids:
            raise  # a server says why itself
        raise InputError(f"{backend.name}: {error.message}", hint=INSTEAD) from None


def _limit(backend: Backend, seconds: float | None) -> AbstractContextManager[None]:
    """Where the backend waits for a server, no longer than the filling may take."""
    return backend.within(seconds) if seconds is not None and isinstance(backend, TimeLimited) else nullcontext()


def _close(chunks: Iterator[str]) -> None:
    """Cancel what is still being generated, now rather than when the iterator is collected."""
    if isinstance(chunks, Generator):
        chunks.close()


def prompt_texts(hole: Hole, backend: Backend, options: FillOptions, cut: list[Cut] | None = None) -> tuple[str, str]:
    """Prefix and suffix as the model is shown them: other files first, line ends made one newline each.

    Args:
        cut: snippets that are not shown whole are appended.
    """
    count = counter(backend)
    budgets = budgets_for(
        backend,
        options.max_tokens,
        options.budgets,
        has_context=bool(options.snippets),
        asked=options.asked_for_context,
    )
    seen = window(hole, count, budgets)
    others = preamble(
        options.snippets,
        options.label or "this file",
        count,
        budgets.context,
        is_shared=options.asked_for_context,
        cut=cut,
    )
    return others + seen.prefix.replace("\r\n", "\n"), seen.suffix.replace("\r\n", "\n")


def by_the_rules(raw: str, hole: Hole) -> tuple[str, str | None]:
    """What the rules keep of a model's whole answer, and the rule that ended it, if one did."""
    near = hole.near()
    return _kept(raw, end_of(raw, near), near)


def _kept(raw: str, end: End | None, near: Hole) -> tuple[str, str | None]:
    if end is None or end.at >= len(raw):
        return trimmed(raw, near), None
    # what is cut before a line ends with the line before: the newline that stands after the hole serves it
    return trimmed(raw[: end.at].removesuffix("\n"), near), end.rule
