"""The real aider and `coder serve` with `tiny`: one edit round, in which the file is changed. The format is what is
tested; `tiny` does not do what it is told here.

aider is no part of this project and wants other versions of its packages: the test runs where AIDER names its
executable, or where it is on the PATH.
"""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from serve_process import serving

CODE = "def add(a, b):\n    return a + b\n"
QUIETLY = ["--no-check-update", "--analytics-disable", "--no-show-model-warnings", "--no-gitignore", "--no-pretty"]
WORD = "Write a Python function `is_even`: Return True if a number is even"


def test_an_edit_round_changes_the_file(tmp_path: Path):
    aider = shutil.which(os.environ.get("AIDER") or "aider")
    if aider is None:
        pytest.skip("aider is not installed, and AIDER names no executable")
    home, project = tmp_path / "home", tmp_path / "project"
    home.mkdir()
    project.mkdir()
    file = project / "app.py"
    file.write_text(CODE)
    environment = {"PATH": os.environ["PATH"], "HOME": str(home), "OPENAI_API_KEY": "none", "NO_COLOR": "1"}
    how = ["--edit-format", "whole", "--map-tokens", "0", "--no-git", "--no-auto-lint", "--no-stream", "--yes-always"]
    with serving(tmp_path / "server", "--log") as served:
        run = subprocess.run(
            [aider, "--model", "openai/tiny", *how, *QUIETLY, "--message", WORD, file.name],
            env=environment | {"OPENAI_API_BASE": served.address + "/v1"},
            cwd=project,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            encoding="utf-8",
            timeout=120,
        )
    said = run.stdout + run.stderr
    assert run.returncode == 0, said
    assert any("POST /v1/chat/completions 200" in line for line in served.log), said
    assert "Applied edit to app.py" in said
    text = file.read_text()
    assert text != CODE
    assert text.strip()
    assert "```" not in text, "the fence is aider's, the code what stands in it"
