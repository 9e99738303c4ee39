"""The snippets for Vim and Neovim of docs/fim.md, in the real editors."""

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import time

import pytest
from conftest import ROOT
from remote_servers import STREAM_HEAD, ScriptedServer, events, models

if sys.platform == "win32":
    pytest.skip("needs a pseudo-terminal", allow_module_level=True)
import pexpect
import pyte

SOURCE = 'def add(a, b):\n    """Gibt die Summe zurück: a + b."""\n\n\ndef other(a):\n    return a\n'
SIZE = (24, 80)


def is_full(vim):
    """Can this Vim evaluate expressions? The smallest builds cannot."""
    return vim and "+eval" in subprocess.run([vim, "--version"], capture_output=True, text=True).stdout


VIM = shutil.which("vim")
NEOVIM = shutil.which("nvim")
EDITORS = [
    pytest.param("vim", marks=pytest.mark.skipif(not is_full(VIM), reason="needs a Vim with +eval")),
    pytest.param("lua", marks=pytest.mark.skipif(NEOVIM is None, reason="needs Neovim")),
    pytest.param("init.vim", marks=pytest.mark.skipif(NEOVIM is None, reason="needs Neovim")),
]


@pytest.fixture
def environment(tmp_path):
    """Where `coder` is found as an installed program is: by its name."""
    (tmp_path / "bin").mkdir()
    command = tmp_path / "bin" / "coder"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m cli "$@"\n')
    command.chmod(0o755)
    (tmp_path / "home").mkdir()
    (tmp_path / "a.py").write_text(SOURCE)
    return dict(
        os.environ,
        PATH=f"{tmp_path / 'bin'}:{os.environ['PATH']}",
        PYTHONPATH=str(ROOT),
        CODER_HOME=str(tmp_path / "home"),
        XDG_CONFIG_HOME=str(tmp_path),
        XDG_STATE_HOME=str(tmp_path),
        TERM="vt220",
        LC_ALL="C.UTF-8",
    )


def snippet(kind):
    language = "lua" if kind == "lua" else "vim"
    return re.search(rf"```{language}\n(.*?)```", (ROOT / "docs" / "fim.md").read_text(), re.S)[1]


class Editor:
    """An editor in a pseudo-terminal, with the snippet, and what its screen shows."""

    def __init__(self, kind, folder, environment):
        self.folder = folder
        settings = folder / ("settings.lua" if kind == "lua" else "settings.vim")
        settings.write_text(snippet(kind))
        command = [VIM, "-N"] if kind == "vim" else [NEOVIM]
        options = ["-u", "NONE", "-i", "NONE", "-n", "-c", "set encoding=utf-8 showmode", "-c", f"source {settings}"]
        self.child = pexpect.spawn(
            command[0],
            [*command[1:], *options, "a.py"],
            cwd=str(folder),
            env=environment,
            encoding="utf-8",
            dimensions=SIZE,
        )
        self.screen = pyte.Screen(SIZE[1], SIZE[0])
        self.screen.write_process_input = self.child.send
        self._stream = pyte.Stream(self.screen)
        self.until(lambda text: "def add" in text)

    def pump(self):
        with contextlib.suppress(pexpect.TIMEOUT):
            self._stream.feed(self.child.read_nonblocking(1 << 16, timeout=0.05))

    def until(self, is_there, seconds=40):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.pump()
            text = "\n".join(self.screen.display)
            if is_there(text):
                return text
        pytest.fail("it did not come:\n" + "\n".join(self.screen.display))

    def keys(self, keys):
        self.child.send(keys)

    def written(self, name="after.py"):
        """The buffer, once it is written to a file."""
        self.keys(f"\x1b:write! {name}\r")
        self.until(lambda text: f'"{name}"' in text and "written" in text)
        return (self.folder / name).read_text()


@pytest.fixture
def edit(tmp_path, environment):
    running = []

    def start(kind):
        running.append(Editor(kind, tmp_path, environment))
        return running[-1]

    yield start
    for editor in running:
        editor.child.close(force=True)


@pytest.fixture
def server(tmp_path, environment):
    """A model that writes MIDDLE, and is the one that `coder fim` uses."""
    with ScriptedServer().running() as server:
        server.answers["/v1/models"] = [models("deepseek", "deepseek-chat")]
        text = events({"choices": [{"text": "MIDDLE", "finish_reason": "stop"}]})
        server.answers["/beta/completions"] = [STREAM_HEAD, text]
        (tmp_path / "home" / "config.toml").write_text(
            f'[fim]\nmodel = "there"\n[servers.there]\nurl = "{server.address}"\n'
        )
        yield server


@pytest.mark.parametrize("kind", EDITORS)
def test_the_suggestion_is_put_at_the_cursor_and_taken_back_in_one_step(edit, environment, tmp_path, kind):
    unsaved = SOURCE.replace("Summe", "summe")
    answer = subprocess.run(
        ["coder", "fim", "a.py:3:1", "--stdin", "--json"],
        input=unsaved,
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    middle = json.loads(answer.stdout)["text"]
    assert middle.strip()
    editor = edit(kind)
    editor.keys(":%s/Summe/summe/\r")  # the buffer is not saved: what the program sees has to be the buffer
    editor.until(lambda text: "summe" in text)
    editor.keys("3Gi\x07\x06")
    first = middle.strip().split("\n")[0]
    editor.until(lambda text: first in text)
    lines = unsaved.split("\n")
    assert editor.written() == "\n".join([*lines[:2], middle, *lines[3:]])
    editor.keys("u")
    assert editor.written("undone.py") == "\n".join(lines)


@pytest.mark.parametrize("kind", EDITORS)
def test_columns_are_counted_as_the_program_does(edit, server, tmp_path, kind):
    (tmp_path / "a.py").write_text("def add():\n    e\u0301 = ü()\n")  # é as a letter and an accent
    editor = edit(kind)
    editor.keys("jf(i\x07\x06")
    editor.until(lambda text: "MIDDLE" in text)
    sent = server.requests[-1].body
    assert sent["prompt"].endswith("    e\u0301 = ü")
    assert sent["suffix"] == "()\n"
    assert editor.written() == "def add():\n    e\u0301 = üMIDDLE()\n"


@pytest.mark.parametrize("kind", EDITORS)
def test_the_cursor_is_behind_what_was_put_there(edit, server, tmp_path, kind):
    server.answers["/beta/completions"][1] = events({"choices": [{"text": "1\n    z = 2", "finish_reason": "stop"}]})
    (tmp_path / "a.py").write_text("def add():\n    y = \n")
    editor = edit(kind)
    editor.keys("jA\x07\x06")
    editor.until(lambda text: "z = 2" in text)
    editor.keys("!")
    editor.until(lambda text: "2!" in text)
    assert editor.written() == "def add():\n    y = 1\n    z = 2!\n"


@pytest.mark.parametrize("kind", EDITORS)
@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ('[fim]\nmodel = "gone"\n', "no model named"),
        ('[fim]\nmodel = "http://127.0.0.1:9"\n', "127.0.0.1:9"),
        ("[fim]\nmodel = 3\n", "must be text"),
    ],
    ids=["no model", "no server", "a broken setting"],
)
def test_what_goes_wrong_is_shown_without_a_prompt(edit, environment, tmp_path, kind, settings, words):
    (tmp_path / "home" / "config.toml").write_text(settings)
    editor = edit(kind)
    editor.keys("3Gi\x07\x06")
    text = editor.until(lambda text: "coder-fim: error:" in text)
    assert "Press ENTER" not in text
    editor.keys("x")  # still in insert mode
    assert editor.written() == SOURCE.replace("\n\n\n", "\nx\n\n", 1)
    editor.keys(":messages\r")
    editor.until(lambda text: words in text.replace("\n", ""))


@pytest.mark.parametrize("kind", EDITORS)
def test_nothing_to_suggest_is_said(edit, server, kind):
    server.answers["/beta/completions"][1] = events({"choices": [{"text": "", "finish_reason": "stop"}]})
    editor = edit(kind)
    editor.keys("3Gi\x07\x06")
    text = editor.until(lambda text: "coder-fim: nothing suggested, ended by: end" in text)
    assert "Press ENTER" not in text


@pytest.mark.parametrize("kind", ["lua"])
@pytest.mark.skipif(NEOVIM is None, reason="needs Neovim")
def test_who_types_on_gets_no_answer_to_an_earlier_text(edit, server, kind):
    server.answers["/beta/completions"].insert(1, 2.0)
    editor = edit(kind)
    editor.keys("3Gi\x07\x06")
    editor.keys("x")
    end = time.monotonic() + 30
    while not server.requests and time.monotonic() < end:
        editor.pump()
    time.sleep(3)
    assert editor.written() == SOURCE.replace("\n\n\n", "\nx\n\n", 1)
