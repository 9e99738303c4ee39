"""Damaged model files are loaded or refused: none of them ends the process."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

RUNNER = Path(__file__).parent / "load_runner.py"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs processes that fork")
def test_no_damaged_header_ends_the_process(tmp_path):
    done = subprocess.run(
        [sys.executable, str(RUNNER), str(tmp_path), "3", "60"],
        env=dict(os.environ, PYTHONPATH=str(ROOT)),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    ended = json.loads(done.stdout)
    assert len(ended) == 60
    assert [(what, os.WTERMSIG(status)) for what, status in ended if os.WIFSIGNALED(status)] == []
    exits = [os.WEXITSTATUS(status) for _, status in ended]
    assert [what for (what, _), code in zip(ended, exits, strict=True) if code == 2] == []  # no error of ours
    assert exits.count(0) >= 5
    assert exits.count(1) >= 5
