"""What the program takes of its own, beside what was planned for it."""

import sys
from pathlib import Path

import pytest
from serve_process import HELLO, serving

from coderv2_local.benchmark.process_counters import memory
from coderv2_local.models import find_model
from coderv2_local.placement.load_wishes import LoadWishes
from coderv2_local.placement.place import load_options_for


@pytest.mark.skipif(sys.platform != "linux", reason="/proc says what a process has")
def test_even_a_small_model_takes_no_more_than_is_planned(tmp_path: Path) -> None:
    planned = load_options_for(find_model("tiny").path, LoadWishes()).layout.private
    with serving(tmp_path) as served:
        assert served.post("/v1/chat/completions", {"messages": HELLO, "max_tokens": 30})[0] == 200
        used = memory(Path(f"/proc/{served.process.pid}"))
    assert used is not None
    assert planned / 2 < used.anonymous <= planned
