"""The real program in a pseudo-terminal, and its screen as a terminal shows it."""

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pexpect
import pyte
from conftest import ROOT

SECONDS = 30


class Terminal:
    """`coder …` on a screen of fixed size.

    Args:
        cwd: the folder it runs in.
        home: its CODER_HOME.
    """

    def __init__(self, *arguments: str, cwd: Path, home: Path, columns: int = 80, rows: int = 30, **environment: str):
        variables = dict(
            os.environ,
            TERM="xterm-256color",
            COLUMNS="",
            LINES="",
            PYTHONPATH=str(ROOT),
            CODER_HOME=str(home),
            HF_HUB_OFFLINE="1",
        )
        variables.update(environment)
        for name in ("COLUMNS", "LINES", "NO_COLOR"):
            if not environment.get(name):
                variables.pop(name, None)
        self.child = pexpect.spawn(
            sys.executable,
            ["-m", "cli", *arguments],
            cwd=str(cwd),
            env=variables,
            encoding="utf-8",
            codec_errors="replace",
            timeout=SECONDS,
            dimensions=(rows, columns),
        )
        self.screen = pyte.HistoryScreen(columns, rows, history=10_000, ratio=0.5)
        self.screen.write_process_input = self.child.send  # where the program asks for the cursor's place
        self._stream = pyte.Stream(self.screen)
        self.raw = ""

    def __enter__(self) -> "Terminal":
        return self

    def __exit__(self, *_: object) -> None:
        self.child.close(force=True)

    def pump(self, seconds: float = 0.05) -> None:
        """Take what the program has written."""
        try:
            data = self.child.read_nonblocking(1 << 16, timeout=seconds)
        except (pexpect.TIMEOUT, pexpect.EOF):
            return
        self.raw += data
        self._stream.feed(data)

    def lines(self) -> list[str]:
        """Everything on the screen and scrolled off it, right ends stripped."""
        gone = ["".join(row[x].data for x in range(self.screen.columns)).rstrip() for row in self.screen.history.top]
        return gone + [line.rstrip() for line in self.screen.display]

    def text(self) -> str:
        return "\n".join(self.lines())

    def until(self, wanted: str | Callable[[str], bool], seconds: float = SECONDS) -> str:
        """Wait until the screen has `wanted`. Returns the screen's text."""
        is_there = (lambda text: wanted in text) if isinstance(wanted, str) else wanted
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.pump()
            if is_there(self.text()):
                return self.text()
            if not self.child.isalive():
                self.pump()
                break
        text = self.text()
        assert is_there(text), f"{wanted!r} did not come:\n{text}"
        return text

    def ready(self) -> str:
        """Wait until the program takes keys. Returns what the screen shows then."""
        return self.until(lambda shown: self._takes_keys())

    def say(self, text: str) -> str:
        """Type a line, send it, and wait for the next prompt. Returns what the screen shows then."""
        self.ready()
        self.child.send(text + "\r")
        self.until(lambda shown: not self._takes_keys())
        return self.ready()

    def _takes_keys(self) -> bool:
        """Is the last line but the status line an empty prompt?"""
        shown = [line for line in self.screen.display if line.strip()]
        return len(shown) >= 2 and shown[-2].strip() == ">"

    def resize(self, columns: int, rows: int) -> None:
        """Give the terminal another size."""
        self.child.setwinsize(rows, columns)
        self.screen.resize(rows, columns)

    def send(self, text: str) -> None:
        self.child.send(text)

    def wait(self) -> int:
        """Wait for the end. Returns the exit status."""
        while self.child.isalive():
            self.pump()
        self.pump()
        self.child.close()
        return int(self.child.exitstatus if self.child.exitstatus is not None else -self.child.signalstatus)
