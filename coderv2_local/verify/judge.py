"""The whole check, and its verdict."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from converters.config import ModelConfig
from converters.expert_groups import Grouping, grouping, grouping_of
from converters.gguf_config import config_of
from converters.gguf_header import GgufHeader
from converters.gguf_model import GgufModel, open_gguf
from quant.errors import InputError, VerdictError

from ..loadable import check_loadable
from ..reference.model import checked_ids, forward
from ..routing import install_taps
from .engine_side import StageTap, engine_logits, exact_engine
from .layers import RuleBroken, StageComparer, StageDifference, broken_rules
from .measures import Agreement, Logits, agreement
from .settings import check_vocabulary, remarks, settings_against
from .sources import GgufSource, Source, open_source
from .structure import problems
from .tensors import TensorComparison, compare_tensors
from .thresholds import Threshold, threshold

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


@dataclass(frozen=True)
class Verdict:
    """What was found, and whether it speaks against the file."""

    model: str
    against: str
    stock_routing: bool
    tokens: int
    agreement: Agreement
    threshold: Threshold
    stages: list[StageDifference]
    """Every stage of every layer."""
    largest: list[StageDifference]
    """The largest difference of each stage."""
    settings: list[str]
    """Constants that differ from the source's, in words."""
    tensors: TensorComparison | None
    remarks: list[str]
    reasons: list[str] = field(default_factory=list)
    """Why the verdict is against the file; empty when it is not."""

    @property
    def good(self) -> bool:
        """Is the file what it should be?"""
        return not self.reasons

    def to_json(self) -> dict[str, Any]:
        """Everything, as plain values."""
        return asdict(self) | {"good": self.good}


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
    tensors = None
    if against is not None:
        check_vocabulary(config, source.config, own.tokens(), source.tokens())
        settings = settings_against(config, source.config, header)
        tensors = compare_tensors(
            file, source, threads=threads or 1, on_progress=lambda a, b: tell("comparing tensors", a, b)
        )
    stages = StageTap()
    taps = [] if stock_routing else install_taps(header.metadata, grouping_of(source.config))
    tell("evaluating in the engine", 0, 1)
    with exact_engine(model, max_tokens, threads, [*taps, stages]) as engine:
        ids = text_ids(engine.vocabulary, CODE if text is None else text, max_tokens)
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
        settings=settings,
        tensors=tensors,
        remarks=remarks(header),
        reasons=reasons(measured, bound, settings, tensors, broken_rules(stages, source.config)),
    )


def known_groups(file: GgufModel) -> Grouping | None:
    """How a file's experts are grouped, if it tells."""
    found = grouping(file.metadata)
    return None if found.origin == "nothing" else found


def check_structure(header: GgufHeader, config: ModelConfig) -> None:
    """Refuse a file that cannot be run.

    Raises:
        VerdictError: it lacks tensors, or has them in other shapes.
    """
    if found := problems(header, config):
        more = f", and {len(found) - 1} more like this" if len(found) > 1 else ""
        raise VerdictError(f"{header.path}: {found[0]}{more}", hint="convert it again; nothing can run this file")


def reasons(
    measured: Agreement,
    bound: Threshold,
    settings: list[str],
    tensors: TensorComparison | None,
    rules: list[RuleBroken],
) -> list[str]:
    """Why the file is not what it should be, the plainest first; empty if nothing is wrong."""
    found = list(settings)
    if tensors is not None:
        found += [f"{name} is missing" for name in tensors.missing]
        found += [f"{name} is not a tensor of this model" for name in tensors.extra]
        found += [str(bad) for bad in tensors.bad]
    if rules:
        worst = max(rules, key=lambda r: r.tokens)
        found.append(
            f"the experts are chosen by another rule than the model's in {len(rules)} layers, "
            f"for {worst.tokens:.0%} of the tokens in layer {worst.layer}"
        )
    if not measured.mean_kl <= bound.mean_kl:
        found.append(
            f"the mean divergence is {measured.mean_kl:.3g}, over the {bound.mean_kl:.3g} "
            f"that {bound.coarsest} may cost"
        )
    return found


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
    taps = [] if stock_routing else install_taps(header.metadata, grouping_of(source.config))
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
