"""Hooks that hold files open are closed also where no engine came to use them."""

import os
from pathlib import Path

import pytest
from synthetic_models import LITE, small_model

from coderv2_local.larger_than_memory.residency import SUPPORTED
from coderv2_local.local_backend import LocalBackend
from coderv2_local.placement.load_options import LoadOptions
from quant.errors import CoderError

pytestmark = pytest.mark.skipif(not SUPPORTED, reason="experts are read ahead on Linux only")


def times_open(path: Path) -> int:
    """How many of this process's file descriptors are of one file."""
    links = []
    for fd in os.listdir("/proc/self/fd"):
        try:
            links.append(os.readlink(f"/proc/self/fd/{fd}"))
        except OSError:  # that of the listing itself
            continue
    return links.count(str(path))


def test_a_model_that_cannot_be_loaded_leaves_no_file_open(tmp_path):
    path = small_model(tmp_path / "m.gguf", LITE)
    options = LoadOptions(n_ctx=256, n_threads=1, stream_experts=True)
    with LocalBackend(path, options):
        assert times_open(path) > 0, "the hook opens it"
    assert times_open(path) == 0
    with pytest.raises(CoderError) as caught:
        LocalBackend(path, LoadOptions(n_ctx=1 << 40, n_threads=1, stream_experts=True))
    assert times_open(path) == 0, "its traceback keeps all that was made"
    assert "context" in str(caught.value)
