"""Measure a GGUF of `tiny` on held-out files, through the same code as `coder eval fim` and `coder chat`.

    python evaluate.py CORPUS_DIR MODEL.gguf [--holes 500] [--questions 100]

Prints one JSON object, and progress to stderr. For each kind of hole in held-out functions: how many answers are
exactly what stood there, how similar they are, and how often the filled function parses, raw and after the rules of
`coder fim`. For chat: how often a docstring-style request is answered by one fenced function that parses and has the
name asked for.
"""

import argparse
import ast
import json
import random
import re
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TypeVar

from coderv2_local.evaluation.documents import Document
from coderv2_local.evaluation.holes import KINDS, draw_holes
from coderv2_local.evaluation.infilling import PYTHON, evaluate, figures, reasons
from coderv2_local.evaluation.measures import parses
from coderv2_local.local_backend import LocalBackend
from coderv2_local.models import find_model
from coderv2_local.placement.load_options import LoadOptions
from coderv2_local.sampling.sampler import SamplingOptions
from coderv2_local.sessions.conversation import Conversation

CHAT = SamplingOptions(repeat_penalty=find_model("tiny").repeat_penalty)
FENCED = re.compile(r"```python\n(.*?)```", re.S)
LONGEST_MIDDLE = 64  # tokens
REPORT_EVERY = 15  # seconds

Item = TypeVar("Item")


def watched(items: Iterable[Item], name: str, total: int) -> Iterator[Item]:
    """The items, while their number is told to stderr from time to time."""
    told = time.monotonic()
    for n, item in enumerate(items, 1):
        yield item
        if n == total or time.monotonic() - told > REPORT_EVERY:
            told = time.monotonic()
            print(f"{name}: {n} of {total}", file=sys.stderr, flush=True)


def fim_figures(backend: LocalBackend, functions: list[dict], holes: int) -> dict[str, dict]:
    documents = [Document(f"{n}", PYTHON, d["text"]) for n, d in enumerate(functions)]
    out = {}
    for kind in KINDS:
        samples = draw_holes(documents, kind, holes, seed=0)
        outcomes = list(watched(evaluate(samples, backend, LONGEST_MIDDLE), kind, len(samples)))
        kept, raw = (figures(score(o) for o in outcomes) for score in (lambda o: o.score, lambda o: o.raw_score))
        out[kind] = {**asdict(kept), "raw": asdict(raw), "reasons": reasons(outcomes)}
    return out


def chat_figures(backend: LocalBackend, pairs: list[dict]) -> dict[str, float]:
    good = 0
    for pair in watched(pairs, "chat", len(pairs)):
        conversation = Conversation(backend, CHAT, 400)
        generation = conversation.ask(f"Write a Python function `{pair['name']}`: {pair['summary']}").generation
        code = FENCED.fullmatch("".join(generation).strip())
        if code and parses(code[1]):
            body = ast.parse(code[1]).body
            good += len(body) == 1 and isinstance(body[0], ast.FunctionDef) and body[0].name == pair["name"]
    return {"questions": len(pairs), "fenced function of that name that parses": good / len(pairs)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("model", type=Path)
    parser.add_argument("--holes", type=int, default=500)
    parser.add_argument("--questions", type=int, default=100)
    args = parser.parse_args()
    documents = [json.loads(line) for line in (args.corpus / "heldout.jsonl").open()]
    functions = [
        d for d in documents if d["kind"] == "function" and d["text"].count("\n") >= 5 and len(d["text"]) < 1200
    ]
    pairs = [d for d in documents if d["kind"] == "pair"]
    rng = random.Random(0)
    with LocalBackend(args.model, LoadOptions(n_threads=1)) as backend:
        report = {
            "fim": fim_figures(backend, functions, args.holes),
            "chat": chat_figures(backend, rng.sample(pairs, min(args.questions, len(pairs)))),
        }
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
