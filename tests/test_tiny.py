"""The embedded model: made from the checkpoint in this repository, and good enough for what it is shown for."""

import ast

import numpy as np
import pytest
from conftest import ROOT

from coderv2_local.fim.fill import FillOptions, fill
from coderv2_local.fim.hole import Hole
from coderv2_local.models import find_model
from coderv2_local.sampling.sampler import SamplingOptions
from coderv2_local.sessions.conversation import Conversation
from coderv2_local.verify.measures import log_probabilities
from converters.gguf_header import read_header

FUNCTIONS = [  # @ stands for the line to fill
    'def mean(values):\n    """Return the mean of values."""\n    total = sum(values)\n@\n    return total / count\n',
    'def is_empty(text):\n    """Return True if text is empty."""\n@\n',
    "def find(items, name):\n    for item in items:\n@\n            return item\n    return None\n",
    "def read_lines(path):\n    with open(path) as file:\n@\n    return lines\n",
    'def join(names):\n    result = []\n    for name in names:\n@\n    return ", ".join(result)\n',
    'def absolute(x):\n    """Return the absolute value of x."""\n    if x < 0:\n@\n    return x\n',
    "def load(path):\n    try:\n        return open(path).read()\n@\n        return None\n",
    "def most(values):\n    best = 0\n    for value in values:\n        if value > best:\n@\n    return best\n",
    "class Point:\n    def __init__(self, x, y):\n        self.x = x\n@\n\n    def x(self):\n        pass\n",
    "def add(a, b):\n@\n    return result\n",
]


def indentation_after(text):
    """Where an editor puts the cursor on the next line."""
    line = text.rstrip().rsplit("\n", 1)[-1]
    return len(line) - len(line.lstrip()) + 4 * line.endswith(":")


def test_the_shipped_file_is_made_from_the_checkpoint(coder, tmp_path):
    made = tmp_path / "again.gguf"
    assert coder("convert", ROOT / "models" / "tiny", made, "-q", "q8_0").returncode == 0
    shipped = find_model("tiny").path
    ours, theirs = read_header(made), read_header(shipped)
    assert list(ours.tensors) == list(theirs.tensors)
    with open(made, "rb") as a, open(shipped, "rb") as b:
        for name, tensor in ours.tensors.items():
            other = theirs.tensors[name]
            assert (tensor.shape, tensor.type, tensor.nbytes) == (other.shape, other.type, other.nbytes)
            a.seek(tensor.offset)
            b.seek(other.offset)
            assert a.read(tensor.nbytes) == b.read(other.nbytes), name


def test_it_is_small_and_of_the_architecture(tiny):
    meta = tiny.engine.header.metadata
    assert find_model("tiny").path.stat().st_size <= 16_000_000
    assert sum(f.stat().st_size for f in (ROOT / "models" / "tiny").iterdir()) <= 32_000_000
    assert meta["general.architecture"] == "deepseek2"
    assert meta["tokenizer.ggml.pre"] == "deepseek-llm"
    assert 4096 <= tiny.vocabulary.size <= 8192
    for name in (
        "blk.0.ffn_gate.weight",
        "blk.1.ffn_gate_exps.weight",
        "blk.1.ffn_gate_shexp.weight",
        "blk.0.attn_k_b.weight",
    ):
        assert name in tiny.engine.header.tensors


def test_it_reads_the_end_of_its_context_as_well_as_the_beginning(tiny):
    """A context that was only written into the config, and not trained, loses a nat and more there."""
    text = "".join(path.read_text(encoding="utf-8") for path in sorted((ROOT / "converters").glob("*.py")))
    ids = np.array([tiny.vocabulary.bos, *tiny.vocabulary.encode(text)][: tiny.n_ctx])
    assert len(ids) == tiny.n_ctx == 2048
    tiny.engine.truncate(0)
    found = log_probabilities(tiny.engine.evaluate(ids.tolist(), every_position=True))
    loss = -found[np.arange(len(ids) - 1), ids[1:]]
    assert loss[1536:].mean() < loss[:512].mean() + 0.5


@pytest.mark.parametrize(("indented", "share"), [(True, 0.5), (False, 0.25)])
def test_a_blank_line_is_filled_by_one_that_compiles(tiny, indented, share):
    """With the cursor where an editor puts it more often than not; from the first column it must indent by itself."""
    compiled = 0
    for text in FUNCTIONS:
        blank, after = text.split("@")
        before = blank + " " * indentation_after(blank) * indented
        middle = fill(Hole(before, after), tiny, SamplingOptions(), FillOptions(max_tokens=64)).text
        try:
            ast.parse(before + middle + after)
        except SyntaxError:
            continue
        compiled += bool(middle.strip())
    assert compiled > share * len(FUNCTIONS)


REQUESTS = {
    "is_even": "Return True if a number is even",
    "count_words": "Count the words in a text",
    "add": "Add two numbers",
    "reverse": "Reverse a string",
    "maximum": "Return the largest of a list of values",
    "read_lines": "Read the lines of a file",
    "is_empty": "Return True if a list is empty",
    "mean": "Return the mean of values",
}


def test_a_docstring_style_request_is_answered_by_a_fenced_function_that_parses_more_often_than_not(tiny):
    options = SamplingOptions(repeat_penalty=find_model("tiny").repeat_penalty)
    parsed = 0
    for name, summary in REQUESTS.items():
        generation = Conversation(tiny, options, 400).ask(f"Write a Python function `{name}`: {summary}").generation
        answer = "".join(generation).strip()
        assert answer.startswith(f"```python\ndef {name}(")
        assert answer.endswith("```")
        try:
            body = ast.parse(answer.removeprefix("```python\n").removesuffix("```")).body
        except SyntaxError:
            continue
        parsed += isinstance(body[0], ast.FunctionDef)
    assert parsed > len(REQUESTS) / 2
