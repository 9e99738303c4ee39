"""Do one thing many times, each time in a process that is killed one step later: test_edits_crash.py runs this.

A step is a moment before or after a call that changes the disk, or between the halves of a write::

    python edits_crash_runner.py (apply|undo) FOLDER…    each FOLDER holds a prepared room; prints how many were needed
"""

import builtins
import os
import signal
import sys
from pathlib import Path

from coderv2_local.edits import Journal, Workspace, apply_edits, folder, journal, propose, undo

system_open = os.open
CALLS = ("mkdir", "link", "unlink", "rename", "replace", "rmdir", "fsync", "fchmod", "open")


def quick_sync(fd: int) -> None:
    """What a killed process wrote stays without it; only a power cut needs it."""


class Bomb:
    """Kills the process, as `kill -9` does, at step number `at`."""

    def __init__(self, at: int) -> None:
        self.at = at
        self.steps = 0

    def step(self) -> None:
        if self.steps == self.at:
            os.kill(os.getpid(), signal.SIGKILL)
        self.steps += 1

    def arm(self) -> None:
        os.fsync = quick_sync
        for name in CALLS:
            setattr(os, name, self.around(getattr(os, name)))
        for module in (folder, journal):
            module.open = self.open

    def around(self, call):
        def called(*args, **more):
            if call is system_open and not (args[1] & os.O_CREAT):
                return call(*args, **more)
            self.step()
            result = call(*args, **more)
            self.step()
            return result

        return called

    def open(self, *args, **more):
        file = builtins.open(*args, **more)  # noqa: SIM115 - closed by Halves, or by the caller
        if "w" not in args[1]:
            return file
        bomb, write = self, file.write

        class Halves:
            def __enter__(self):
                return self

            def __exit__(self, *_):
                file.close()

            def write(self, data):
                write(data[: len(data) // 2])
                file.flush()
                bomb.step()
                write(data[len(data) // 2 :])

            def __getattr__(self, name):
                return getattr(file, name)

        return Halves()


def act(what: str, room: Path, bomb: Bomb) -> None:
    records = Journal(room / "undo")
    if what == "undo":
        bomb.arm()
        undo(records)
        return
    workspace = Workspace(room / "project")
    proposals = propose((room / "answer.md").read_text(), workspace)
    bomb.arm()
    apply_edits(proposals, workspace, records, made_by="chat")


def main() -> None:
    what, *rooms = sys.argv[1:]
    for step, room in enumerate(rooms):
        child = os.fork()
        if child == 0:
            try:
                act(what, Path(room), Bomb(step))
                os._exit(0)
            except BaseException as error:
                os.write(2, f"step {step}: {error!r}\n".encode())
                os._exit(1)
        _, status = os.waitpid(child, 0)
        if not os.WIFSIGNALED(status):
            assert os.WEXITSTATUS(status) == 0
            sys.stdout.write(str(step))
            return
    sys.exit("more steps than rooms")


if __name__ == "__main__":
    main()
