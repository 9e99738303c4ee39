"""What several test modules share: the embedded model, and the real command as a process."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import forked_coder
import pytest

from coderv2_local.local_backend import LocalBackend
from coderv2_local.models import find_model
from coderv2_local.placement.load_options import LoadOptions
from quant.cores import usable_cores

ROOT = Path(__file__).parent.parent

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # started in the background by a shell: the programs under test would inherit that Ctrl-C means nothing
    signal.signal(signal.SIGINT, signal.default_int_handler)
# hundreds of processes are started here: each would compile this program anew, a sixth of the time it takes
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

Coder = Callable[..., subprocess.CompletedProcess[str]]


def pytest_xdist_auto_num_workers() -> int:
    """One more than there are cores: many tests wait for another process, or for a time to be over."""
    return usable_cores() + 1


@pytest.fixture(scope="session")
def tiny() -> LocalBackend:
    """The embedded model, loaded once."""
    return LocalBackend(find_model("tiny").path, LoadOptions(n_threads=1))


@pytest.fixture
def coder(tmp_path: Path) -> Coder:
    """Run `coder` as a user's shell would: a process of its own, in an empty folder, without the network."""

    def run(*args: object, stdin: str | None = None, cwd: Path = tmp_path) -> subprocess.CompletedProcess[str]:
        environment = dict(
            os.environ, CODER_HOME=str(tmp_path / "home"), HF_HUB_OFFLINE="1", NO_COLOR="1", PYTHONPATH=str(ROOT)
        )
        return subprocess.run(
            [*forked_coder.command(), *map(str, args)],
            input=stdin if stdin is not None else "",
            capture_output=True,
            text=True,
            encoding="utf-8",
            timeout=120,
            cwd=cwd,
            env=environment,
        )

    return run


def assert_refused(result: subprocess.CompletedProcess[str], *words: str) -> None:
    """Wrong input: exit code 2, one line saying what, nothing on stdout, no traceback."""
    assert result.returncode == 2, result.stderr
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    lines = result.stderr.strip().split("\n")
    assert lines[0].startswith("error: ")
    assert len(lines) <= 2, result.stderr
    for word in words:
        assert word in result.stderr, result.stderr
