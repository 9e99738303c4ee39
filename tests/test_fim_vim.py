"""The Vim snippet of docs/fim.md, in a real Vim."""

import json
import os
import re
import shutil
import subprocess
import sys

import pytest
from conftest import ROOT

VIM = shutil.which("vim")
SOURCE = 'def add(a, b):\n    """Gibt die Summe zurück: a + b."""\n\n\ndef other(a):\n    return a\n'


def is_full(vim):
    """Can this Vim evaluate expressions? The smallest builds cannot."""
    return vim and "+eval" in subprocess.run([vim, "--version"], capture_output=True, text=True).stdout


@pytest.mark.skipif(not is_full(VIM), reason="needs a Vim with +eval")
def test_the_snippet_puts_the_suggestion_at_the_cursor(tmp_path):
    snippet = re.search(r"```vim\n(.*?)```", (ROOT / "docs" / "fim.md").read_text(), re.S)[1]
    (tmp_path / "coder.vim").write_text(snippet)
    (tmp_path / "a.py").write_text(SOURCE)
    # as an installed program is found: by its name
    (tmp_path / "bin").mkdir()
    command = tmp_path / "bin" / "coder"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m cli "$@"\n')
    command.chmod(0o755)
    environment = dict(
        os.environ,
        PATH=f"{tmp_path / 'bin'}:{os.environ['PATH']}",
        PYTHONPATH=str(ROOT),
        CODER_HOME=str(tmp_path / "home"),
        TERM="xterm",
        LC_ALL="C.UTF-8",
    )
    answer = subprocess.run(
        ["coder", "fim", "a.py:3:1", "--stdin", "--json"],
        input=SOURCE.replace("Summe", "summe"),
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    middle = json.loads(answer.stdout)["text"]
    assert middle.strip()
    script = [
        "set nocompatible encoding=utf-8",
        "source coder.vim",
        "%s/Summe/summe/",  # the buffer is not saved: what the program sees has to be the buffer
        "let &undolevels = &undolevels",  # what was done so far is one change, what follows another
        "call cursor(3, 1)",
        r'execute "normal! a\<C-r>\<C-o>=CoderFim()\<CR>"',
        "write! after.py",
        r'execute "normal! u"',
        "write! undone.py",
        "quitall!",
    ]
    (tmp_path / "script.vim").write_text("\n".join(script) + "\n")
    subprocess.run(
        [VIM, "-N", "-u", "NONE", "-i", "NONE", "-n", "-es", "-S", "script.vim", "a.py"],
        env=environment,
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=60,
    )
    lines = SOURCE.replace("Summe", "summe").split("\n")
    assert (tmp_path / "after.py").read_text() == "\n".join([*lines[:2], middle, *lines[3:]])
    assert (tmp_path / "undone.py").read_text() == "\n".join(lines)
    assert "inoremap" in snippet
