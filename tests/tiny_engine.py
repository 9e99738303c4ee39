"""`tiny` in an engine, a sequence for it, and how much of that it evaluates: for tests of evaluated states."""

import pytest

from coderv2_local.engine import Engine
from coderv2_local.models import find_model
from coderv2_local.placement.load_options import LoadOptions

TINY = find_model("tiny").path


def make_engine(path=TINY, **options):
    return Engine(path, LoadOptions(**{"n_ctx": 512, "n_threads": 1, **options}))


@pytest.fixture(scope="module")
def engine():
    with make_engine() as engine:
        yield engine


@pytest.fixture
def ids(engine):
    return [engine.vocabulary.bos, *engine.vocabulary.encode("def add(a, b):\n    return a + b\n" * 12)]


def evaluated(engine, ids):
    """How many tokens are evaluated for `ids`, and the logits."""
    steps = [0]
    logits = engine.evaluate(ids, on_progress=lambda done, of: steps.append(done))
    return steps[-1], logits
