"""Infilling measured: each hole is filled once, and the answer is judged raw and after the rules.

The measures are those of the paper's section 4.2 (single-line infilling: exact match) and of the benchmarks that came
with it; multi-line and random-span holes are drawn as in Bavarian et al., "Efficient Training of Language Models to
Fill in the Middle" (2022), section 4.
"""

import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from coderv2_local.backend import Backend
from coderv2_local.evaluation.documents import Document
from coderv2_local.evaluation.holes import Sample
from coderv2_local.evaluation.measures import edit_similarity, exact_match, parses
from coderv2_local.fim.fill import FillOptions, by_the_rules, prompt_texts
from coderv2_local.sampling.options import SamplingOptions

PYTHON = "Python"


@dataclass(frozen=True)
class Score:
    """How good one answer is.

    Attributes:
        parses: is there an answer but blanks, with which the whole file parses? Without one most files would, and a
            model that says nothing would do best. None where that cannot be asked: another language, or a file that did
            not parse before.
    """

    exact: bool
    similarity: float
    parses: bool | None


@dataclass(frozen=True)
class Outcome:
    """A hole that was filled: the model's whole answer and what the rules keep of it, each with its score."""

    sample: Sample
    raw: str
    kept: str
    reason: str
    raw_score: Score
    score: Score
    tokens: int
    first_token_seconds: float
    seconds: float
    rule_seconds: float


@dataclass(frozen=True)
class Figures:
    """Scores of many answers.

    Attributes:
        holes: how many there were.
        exact, similarity: means, between 0 and 1.
        parses: share of those that can be asked; None where none can.
    """

    holes: int
    exact: float
    similarity: float
    parses: float | None


def evaluate(
    samples: Iterable[Sample],
    backend: Backend,
    max_tokens: int,
    *,
    sampling: SamplingOptions | None = None,
    can_parse: Callable[[str], bool] = parses,
) -> Iterator[Outcome]:
    """Fill each hole and judge the answer. Raises as `Backend.infill`."""
    options = FillOptions(max_tokens=max_tokens)
    asked: dict[Document, bool] = {}
    for sample in samples:
        hole, document = sample.hole, sample.document
        generation = backend.infill(*prompt_texts(hole, backend, options), sampling or SamplingOptions(), max_tokens)
        raw = "".join(generation)
        began = time.perf_counter()
        kept, rule = by_the_rules(raw, hole)
        rule_seconds = time.perf_counter() - began
        is_python = document.language == PYTHON
        if is_python and document not in asked:
            asked[document] = can_parse(document.text)

        def score(answer: str, sample: Sample = sample) -> Score:
            whole = sample.hole.prefix + answer + sample.hole.suffix
            return Score(
                exact_match(answer, sample.middle),
                edit_similarity(answer, sample.middle),
                can_parse(whole) and bool(answer.strip()) if asked.get(sample.document) else None,
            )

        yield Outcome(
            sample,
            raw,
            kept,
            rule or generation.reason or "end",
            score(raw),
            score(kept),
            generation.tokens,
            generation.prompt_seconds,
            generation.prompt_seconds + generation.seconds,
            rule_seconds,
        )


def figures(scores: Iterable[Score]) -> Figures:
    """The means of scores."""
    all_scores = list(scores)
    asked = [s.parses for s in all_scores if s.parses is not None]
    if not all_scores:
        return Figures(0, 0.0, 0.0, None)
    return Figures(
        len(all_scores),
        statistics.fmean(s.exact for s in all_scores),
        statistics.fmean(s.similarity for s in all_scores),
        statistics.fmean(asked) if asked else None,
    )


def reasons(outcomes: Iterable[Outcome]) -> dict[str, int]:
    """What ended the answers, the most frequent first."""
    return dict(Counter(outcome.reason for outcome in outcomes).most_common())
