"""stdout that is full, closed, or no longer read."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT
from forked_coder import command

pytestmark = pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")


def run_into(stdout, home, *arguments, program=None):
    return subprocess.run(
        [*(program or command()), *arguments],
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        timeout=60,
        cwd=home,
        env=dict(os.environ, CODER_HOME=str(home), PYTHONPATH=str(ROOT)),
    )


@pytest.mark.parametrize(
    "arguments",
    [
        ["fim", "a.py:2", "-n", "8"],
        ["fim", "a.py:2", "-n", "8", "--json"],
        ["chat", "-p", "hi", "-n", "4"],
        ["models"],
        ["inspect", "tiny"],
        ["sessions"],
        ["config", "--path"],
        ["--help"],
    ],
    ids=" ".join,
)
def test_a_full_disk_is_one_line(tmp_path, arguments):
    (tmp_path / "a.py").write_text("def add(a, b):\n    return \n")
    with open("/dev/full", "w") as full:
        done = run_into(full, tmp_path, *arguments)
    assert done.stderr == "error: cannot write to stdout: No space left on device\n"
    assert done.returncode == 1


def test_a_full_disk_is_one_line_without_a_buffer(tmp_path):
    """What failed is not tried again then."""
    with open("/dev/full", "w") as full:
        done = run_into(full, tmp_path, "inspect", "tiny", program=[sys.executable, "-u", "-m", "cli"])
    assert (done.returncode, done.stderr) == (1, "error: cannot write to stdout: No space left on device\n")


def test_a_closed_stdout_is_one_line(tmp_path):
    """A new interpreter, which finds none."""
    closed = ["sh", "-c", f'exec "{sys.executable}" -m cli "$@" >&-', "coder"]
    done = run_into(subprocess.DEVNULL, tmp_path, "config", "--path", program=closed)
    assert (done.returncode, done.stderr) == (1, "error: cannot write to stdout: Bad file descriptor\n")


def test_a_reader_that_has_gone_is_no_error(tmp_path):
    reader, writer = os.pipe()
    os.close(reader)
    done = run_into(writer, tmp_path, "inspect", "tiny")
    os.close(writer)
    assert (done.returncode, done.stderr) == (1, "")
