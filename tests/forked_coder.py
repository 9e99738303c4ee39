"""`coder` as a process forked from one that has imported everything: a new interpreter spends 0.4 seconds on that.

Hundreds of tests run the command. Each run is still a process of its own, with its own arguments, folder, environment,
input and output, which ends as any other does. What it does not show is a module that is imported too late or in a
circle: the tests that use a terminal, a server or a conversion start new interpreters.
"""

import atexit
import gc
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from functools import cache
from importlib import import_module
from pathlib import Path
from pkgutil import walk_packages

import hand_over

HERE = Path(__file__)
OWN_PROGRAMS = ("cli.__main__", "coderv2_local.prompt.render_template")


@cache
def command() -> list[str]:
    """What a test starts in place of ``python -m cli``. The first call in a process starts the program that forks."""
    if sys.platform != "linux":
        return [sys.executable, "-m", "cli"]
    folder = tempfile.mkdtemp(prefix="coder-")  # a socket's path has to be short
    path = os.path.join(folder, "fork")
    environment = dict(os.environ, PYTHONPATH=str(HERE.parents[1]), HF_HUB_OFFLINE="1")
    program = subprocess.Popen([sys.executable, HERE, path], stdin=subprocess.DEVNULL, env=environment)
    atexit.register(shutil.rmtree, folder)
    atexit.register(program.kill)
    deadline = time.monotonic() + 60
    while not os.path.exists(path):
        assert program.poll() is None, "it does not start"
        assert time.monotonic() < deadline, "it takes too long"
        time.sleep(0.01)
    return [sys.executable, "-S", "-E", str(HERE.with_name("hand_over.py")), path]


def import_all() -> None:
    """What `coder` imports at once or later. huggingface-hub reads the environment when it is imported: not that."""
    import cli
    import coderv2_local

    for package in (cli, coderv2_local):
        for module in walk_packages(package.__path__, f"{package.__name__}."):
            if module.name not in OWN_PROGRAMS:
                import_module(module.name)
    import_module("typer._adapters")
    assert "huggingface_hub" not in sys.modules, "it is imported before it is needed"


def wait_and_fork(path: str) -> list[str]:
    """Fork for each process that hands over. Returns in the child that is to be the command: its arguments."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(f"{path}.new")
    listener.listen()
    os.rename(f"{path}.new", path)
    gc.collect()
    gc.freeze()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # those that wait for the commands are not waited for
    while True:
        connection, _ = listener.accept()
        if not os.fork():
            listener.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            return _fork_command(connection)
        connection.close()


def _fork_command(connection: socket.socket) -> list[str]:
    """The parent waits for the command's end, and tells it; the child is the command."""
    head, files, _, _ = socket.recv_fds(connection, 4, len(hand_over.FILES))
    arguments, folder, environment = json.loads(hand_over.exactly(connection, int.from_bytes(head, "little")))
    if child := os.fork():
        for file in files:
            os.close(file)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        connection.sendall((status if status >= 0 else 128 - status).to_bytes(4, "little"))
        os._exit(0)
    connection.close()
    for file, number in zip(files, hand_over.FILES, strict=True):
        os.dup2(file, number)
        os.close(file)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    return list(arguments)


if __name__ == "__main__":
    import_all()
    from cli.main import main

    sys.argv = ["coder", *wait_and_fork(sys.argv[1])]
    sys.stdin, sys.stdout, sys.stderr = open(0), open(1, "w"), open(2, "w", errors="backslashreplace")  # noqa: SIM115
    main()
