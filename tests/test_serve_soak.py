"""What tools/bench/serve_soak.py makes of its figures: each criterion is missed by figures that miss it, alone."""

import sys

import pytest
from conftest import ROOT

sys.path.insert(0, str(ROOT / "tools" / "bench"))
import serve_soak

FAIR = {n: [0.1, 0.2, 0.3 + n / 1000] for n in range(16)}
STEADY = [(100.0 + n, 1.0 + n) for n in range(30)]  # what grows is in kept states


def test_a_good_run_has_no_faults():
    assert serve_soak.judge(FAIR, [], STEADY) == []


@pytest.mark.parametrize(
    ("waits", "failures", "memory", "word"),
    [
        (FAIR, ["client 3: refused"], STEADY, "errors: 1"),
        (FAIR, [], [(100.0 + n, 1.0) for n in range(30)], "memory grew by 10.0 MiB"),
        (FAIR | {4: [0.5] * 3}, [], STEADY, "infill: client 4 waits 2.50 times"),
        (FAIR | {5: [0.5] * 3}, [], STEADY, "chat: client 5 waits 2.50 times"),
        (FAIR | {6: [0.1]}, [], STEADY, "chat: client 6 had 1 answers"),
        (FAIR, [], STEADY[:2], "too short"),
    ],
)
def test_a_bad_one_has_the_one_that_it_has(waits, failures, memory, word):
    (fault,) = serve_soak.judge(waits, failures, memory)
    assert word in fault
