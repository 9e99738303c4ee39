"""Every command in an interpreter that has imported nothing yet. Most tests run it in one that has: forked_coder.py."""

import os
import subprocess
import sys

import pytest
from conftest import ROOT

from cli.main import app
from coderv2_local.models import find_model

TINY = str(find_model("tiny").path)
COMMANDS = {
    "bench": ["tiny", "--pairs", "1", "--tokens", "2", "--prompt", "8", "--no-cold", "--json"],
    "chat": ["-p", "Hi", "-n", "2"],
    "config": [],
    "convert": [str(ROOT / "models" / "tiny"), "x.gguf", "--dry-run"],
    "eval": ["fim", "a.py", "--holes", "1", "--json"],
    "fim": ["a.py:1", "--json", "-n", "2"],
    "inspect": [TINY],
    "models": [],
    "plan": [],
    "pull": ["tiny"],
    "rm": ["nothing"],
    "serve": ["-m", "nothing"],
    "sessions": [],
    "verify": [TINY],
}
REFUSED = ("pull", "rm", "serve")


def test_there_is_none_besides():
    assert {command.name or command.callback.__name__ for command in app.registered_commands} <= set(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_it_runs(tmp_path, name):
    (tmp_path / "a.py").write_text("def add(a, b):\n    return a + b\n")
    done = subprocess.run(
        [sys.executable, "-m", "cli", name, *COMMANDS[name]],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=tmp_path,
        env=dict(os.environ, CODER_HOME=str(tmp_path / "home"), PYTHONPATH=str(ROOT), HF_HUB_OFFLINE="1"),
    )
    assert "Traceback" not in done.stderr
    assert done.returncode == (2 if name in REFUSED else 0), done.stderr
