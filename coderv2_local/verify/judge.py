"""The whole check, and its verdict."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from coderv2_local.loadable import check_loadable
from coderv2_local.routing import install_taps
from converters.config import ModelConfig
from converters.expert_groups import Grouping, fits, grouping, grouping_of
from converters.gguf_config import config_of
from converters.gguf_header import GgufHeader
from converters.gguf_model import GgufModel, open_gguf
from converters.tokenizer import TokenizerError
from quant.errors import InputError, VerdictError

from ..reference.model import checked_ids, forward
from .engine_side import StageTap, engine_logits, exact_engine
from .layers import StageComparer, broken_rules
from .measures import Logits, agreement
from .settings import check_vocabulary, remarks, settings_against
from .sources import GgufSource, Source, open_source
from .steps import step_differences
from .structure import problems
from .tensors import compare_tensors
from .thresholds import threshold, with_bounds
from .tokenizer_settings import tokenizer_against
from .verdict import Verdict, reasons

Side = Literal["engine", "reference"]
Progress = Callable[[str, int, int], None]
"""Told what is being done, how much of it is done, and of how much."""

CODE = '''\
import heapq


def shortest_path(graph, start, goal):
    """Dijkstra's algorithm: the length of the shortest path, or None if there is none."""
    queue, seen = [(0, start)], set()
    while queue:
        distance, node = heapq.heappop(queue)
        if node == goal:
            return distance
        if node in seen:
            continue
        seen.add(node)
        for neighbour, weight in graph.get(node, {}).items():
            if neighbour not in seen:
                heapq.heappush(queue, (distance + weight, neighbour))
    return None
'''
"""What is evaluated when no text is given."""


def verify(
    model: Path,
    *,
    against: Path | None = None,
    text: str | None = None,
    max_tokens: int = 256,
    stock_routing: bool = False,
    threads: int | None = None,
    on_progress: Progress | None = None,
) -> Verdict:
    """Compare a file in the engine with the reference, over its source's weights or over its own.

    Args:
        model: the GGUF file.
        against: what it was made from: a checkpoint folder or a GGUF. Then every tensor is compared too.
        text: what is evaluated; a piece of code by default.
        max_tokens: how much of the text.
        stock_routing: leave the choice of experts to llama.cpp.
        threads: of the engine and of the comparison of tensors.

    Raises:
        InputError: a file cannot be used, or the two have different vocabularies.
        VerdictError: the file lacks tensors, or has them in other shapes: it cannot be run.
        EngineError: llama.cpp refused the file, or a hook failed.
    """
    tell = on_progress or (lambda what, done, total: None)
    file = open_gguf(model)
    header = file.whole
    config = config_of(header)
    check_loadable(header, model)
    check_structure(header, config)
    own = GgufSource(file)
    source: Source = own if against is None else open_source(against, known_groups(file))
    settings: list[str] = []
    notes: list[str] = []
    tensors = None
    if against is not None:
        check_vocabulary(config, source.config, own.tokens(), source.tokens())
        settings = settings_against(config, source.config, header)
        try:
            wrong, notes = tokenizer_against(header.metadata, source.tokenizer())
            settings += wrong
        except TokenizerError as error:
            notes = [f"the tokenizers are not compared: {error.message}"]
        tensors = compare_tensors(
            file, source, threads=threads or 1, on_progress=lambda a, b: tell("comparing tensors", a, b)
        )
    stages = StageTap()
    taps = [] if stock_routing else install_taps(header.metadata, groups_from(source.config, config))
    tell("evaluating in the engine", 0, 1)
    text = CODE if text is None else text
    room = min(max_tokens, len(text.encode()) + 1)  # a token is a byte at least; BOS comes before
    with exact_engine(model, room, threads, [*taps, stages]) as engine:
        ids = text_ids(engine.vocabulary, text, room)
        from_engine = engine_logits(engine, ids)
    comparer = StageComparer(stages)

    def watch(stage: str, layer: int, value: npt.NDArray[np.generic]) -> None:
        comparer(stage, layer, value)
        tell("evaluating in the reference", layer + 1, config.n_layers)

    from_reference = forward(source.weights, ids, watch=watch)
    if from_engine.shape != from_reference.shape:
        raise InputError(
            f"the engine has logits for {from_engine.shape[1]} tokens, the reference for {from_reference.shape[1]}"
        )
    steps = with_bounds(
        header,
        step_differences(
            own.weights, stages, from_engine, on_progress=lambda a, b: tell("following the engine step by step", a, b)
        ),
    )
    measured, bound = agreement(from_reference, from_engine, ids), threshold(header, own_weights=against is None)
    return Verdict(
        model=str(model),
        against=str(against) if against is not None else "its own weights",
        stock_routing=stock_routing,
        tokens=len(ids),
        agreement=measured,
        threshold=bound,
        stages=comparer.differences,
        largest=comparer.largest(),
        steps=steps,
        settings=settings,
        tensors=tensors,
        remarks=remarks(header) + notes + unseen(len(steps), config),
        reasons=reasons(measured, bound, settings, tensors, broken_rules(stages, source.config), steps),
    )


def unseen(n_steps: int, config: ModelConfig) -> list[str]:
    """A remark where the engine does not name all of its steps the way that is known here."""
    due = 2 * config.n_layers + 2
    if n_steps == due:
        return []
    return [f"only {n_steps} of {due} steps were followed one by one: this llama.cpp has other names for the rest"]


def known_groups(file: GgufModel) -> Grouping | None:
    """How a file's experts are grouped, if it tells."""
    found = grouping(file.metadata)
    return None if found.origin == "nothing" else found


def groups_from(theirs: ModelConfig, ours: ModelConfig) -> Grouping | None:
    """How a file's experts are grouped by the config of its source; None for a source that it cannot come from."""
    found = grouping_of(theirs)
    return found if fits(ours, found) else None


def check_structure(header: GgufHeader, config: ModelConfig) -> None:
    """Refuse a file that cannot be run.

    Raises:
        VerdictError: it lacks tensors, or has them in other shapes.
    """
    if found := problems(header, config):
        more = f", and {len(found) - 1} more like this" if len(found) > 1 else ""
        raise VerdictError(f"{header.path}: {found[0]}{more}", hint="convert it again; nothing can run this file")


def raw_logits(
    model: Path,
    ids: npt.NDArray[np.integer],
    side: Side,
    *,
    against: Path | None = None,
    stock_routing: bool = False,
    threads: int | None = None,
) -> Logits:
    """Raw logits of one side: (T, vocabulary), float32.

    Raises:
        InputError: a file cannot be used, or an id is outside the vocabulary.
    """
    file = open_gguf(model)
    header = file.whole
    config = config_of(header)
    check_structure(header, config)
    tokens = checked_ids(ids, config.vocab_size)
    source: Source = GgufSource(file) if against is None else open_source(against, known_groups(file))
    if side == "reference":
        return np.asarray(forward(source.weights, tokens), np.float32)
    taps = [] if stock_routing else install_taps(header.metadata, groups_from(source.config, config))
    with exact_engine(model, len(tokens), threads, taps) as engine:
        return engine_logits(engine, tokens)


def text_ids(vocabulary: Any, text: str, max_tokens: int) -> npt.NDArray[np.int64]:
    """BOS and the first ids of a text.

    Raises:
        InputError: the text is empty.
    """
    ids = vocabulary.encode(text)
    if not ids:
        raise InputError("there is no text to evaluate")
    start = [vocabulary.bos] if vocabulary.bos >= 0 else []
    return np.array([*start, *ids][:max_tokens], np.int64)
