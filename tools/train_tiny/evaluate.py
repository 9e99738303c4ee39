"""Measure a GGUF of `tiny` on held-out files, through the same code as `coder fim` and `coder chat`.

    python evaluate.py CORPUS_DIR MODEL.gguf [--holes 500] [--questions 100]

Prints one JSON object: single-line FIM exact match (after trimming blanks) and how often the filled function parses,
for whole lines (indentation included: a blank line is filled) and for the rest of a line; for chat, how often a
docstring-style request is answered by one fenced function that parses and has the name asked for.
"""

import argparse
import ast
import json
import random
import re
from pathlib import Path

from coderv2_local.backend import LocalBackend
from coderv2_local.conversation import Conversation
from coderv2_local.fim.fill import FillOptions, fill
from coderv2_local.fim.hole import Hole
from coderv2_local.models import find_model
from coderv2_local.sampling import SamplingOptions

GREEDY = SamplingOptions()
CHAT = SamplingOptions(repeat_penalty=find_model("tiny").repeat_penalty)
FENCED = re.compile(r"```python\n(.*?)```", re.S)


def parses(text: str) -> bool:
    try:
        ast.parse(text)
    except (SyntaxError, ValueError):
        return False
    return True


def fim_figures(backend: LocalBackend, texts: list[str], rng: random.Random, rest_of_line: bool) -> dict[str, float]:
    exact = compiled = 0
    for text in texts:
        lines = text.splitlines(keepends=True)
        i = rng.choice([n for n, line in enumerate(lines) if n and len(line.strip()) > 3])
        start = sum(map(len, lines[:i]))
        line = lines[i].rstrip("\n")
        end = start + len(line)
        if rest_of_line:
            start += rng.randint(len(line) - len(line.lstrip()) + 1, len(line) - 1)
        middle = fill(Hole(text[:start], text[end:]), backend, GREEDY, FillOptions(max_tokens=64)).text
        exact += middle.strip() == text[start:end].strip()
        compiled += bool(middle.strip()) and parses(text[:start] + middle + text[end:])
    return {"holes": len(texts), "exact match": exact / len(texts), "parses": compiled / len(texts)}


def chat_figures(backend: LocalBackend, pairs: list[dict]) -> dict[str, float]:
    good = 0
    for pair in pairs:
        conversation = Conversation(backend, CHAT, 400)
        generation, _ = conversation.ask(f"Write a Python function `{pair['name']}`: {pair['summary']}")
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
        d["text"] for d in documents if d["kind"] == "function" and d["text"].count("\n") >= 5 and len(d["text"]) < 1200
    ]
    pairs = [d for d in documents if d["kind"] == "pair"]
    rng = random.Random(0)
    with LocalBackend(args.model) as backend:
        figures = {
            "whole line": fim_figures(backend, rng.sample(functions, args.holes), rng, rest_of_line=False),
            "rest of line": fim_figures(backend, rng.sample(functions, args.holes), rng, rest_of_line=True),
            "chat": chat_figures(backend, rng.sample(pairs, min(args.questions, len(pairs)))),
        }
    print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
