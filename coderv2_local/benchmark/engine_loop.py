"""The engine as one of the loops that are compared, and how long it takes to start."""

import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from coderv2_local.benchmark.process_counters import bytes_read, since
from coderv2_local.benchmark.runs import Run
from coderv2_local.engine import Engine
from coderv2_local.pages_in_memory import share_in_memory
from coderv2_local.placement.load_options import LoadOptions
from coderv2_local.sampling.options import SamplingOptions


@dataclass(frozen=True)
class Start:
    """Loading a model, and its first token after a very short prompt.

    Attributes:
        in_memory: how much of the file was in the page cache before, 0 to 1; None where that cannot be known.
        load_seconds: until the engine was there.
        first_token_seconds: until the first token was, loading included.
        bytes_read: from disks meanwhile; None where they are not counted.
    """

    in_memory: float | None
    load_seconds: float
    first_token_seconds: float
    bytes_read: int | None


class EngineLoop:
    """The engine's own :meth:`Engine.generate`, as chat and fim use it.

    Args:
        engine: a loaded model; nothing that it has evaluated is reused.
        banned: ids that are never chosen.
    """

    def __init__(self, engine: Engine, banned: Sequence[int]) -> None:
        self._engine, self._options = engine, SamplingOptions(banned=banned)

    def run(self, ids: Sequence[int], n_tokens: int) -> Run:
        """Evaluate a prompt from nothing, and decode."""
        self._engine.truncate(0)
        found = []
        with closing(self._engine.generate(ids, self._options, n_tokens + 1)) as tokens:
            began = time.perf_counter()
            found.append(next(tokens))
            first, read = time.perf_counter(), bytes_read()
            found += tokens
            return Run(first - began, time.perf_counter() - first, tuple(found), since(read))


def stock_loop(path: Path, options: LoadOptions, banned: Sequence[int]) -> EngineLoop:
    """The engine with llama.cpp's own choice of experts."""
    return EngineLoop(Engine(path, options), banned)


def end_ids(engine: Engine) -> list[int]:
    """The ids that would end an answer before its time."""
    vocabulary = engine.vocabulary
    return [i for i in vocabulary.special_ids() if vocabulary.is_end(i)]


def timed_start(open_engine: Callable[[], Engine], files: Sequence[Path], n_prompt: int) -> tuple[Engine, Start]:
    """Open an engine and generate one token.

    Args:
        open_engine: opens it.
        files: of the model.
        n_prompt: tokens of the prompt, all of them the one that begins a text.

    Returns:
        The engine, still open, and what was measured.
    """
    in_memory, read, began = share_in_memory(files), bytes_read(), time.perf_counter()
    engine = open_engine()
    loaded = time.perf_counter()
    try:
        with closing(engine.generate([engine.vocabulary.bos] * n_prompt, SamplingOptions(), 1)) as tokens:
            next(tokens, None)
    except BaseException:
        engine.close()
        raise
    ended = time.perf_counter()
    return engine, Start(in_memory, loaded - began, ended - began, since(read))
