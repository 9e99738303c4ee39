"""The real llama.vim in a real Neovim: a suggestion is asked for, shown, accepted with Tab, and in the file.

llama.vim is no part of this project: the test runs where LLAMA_VIM names a folder that has it.
"""

import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from serve_process import serving

if sys.platform == "win32":
    pytest.skip("needs a pseudo-terminal", allow_module_level=True)
import pexpect

SETTINGS = """
let &runtimepath = $LLAMA_VIM .. ',' .. &runtimepath
let g:llama_config = {{'endpoint_fim': '{address}/infill', 'auto_fim': v:false, 'show_info': 0, 'n_predict': 24}}
inoremap <expr> <silent> <C-F> llama#fim_inline(v:false, v:false)
call timer_start(50, {{-> llama#is_fim_hint_shown() ? writefile(['yes'], '{file}.shown') : 0}}, {{'repeat': -1}})
"""
TEXT = 'def is_even(n):\n    """Return True if n is even."""\n    \n\n\ndef add(a, b):\n    return a + b\n'


def wait_for(terminal: "pexpect.spawn", path: Path) -> None:
    """Until a file is there; what the editor draws meanwhile is read, or it would stop."""
    deadline = time.monotonic() + 30
    while not path.exists():
        assert time.monotonic() < deadline, f"{path.name} does not appear"
        terminal.expect([pexpect.TIMEOUT, ".+"], timeout=0.1)


def test_a_suggestion_accepted_in_llama_vim_changes_the_file(tmp_path: Path):
    plugin, editor = os.environ.get("LLAMA_VIM", ""), shutil.which("nvim")
    if not Path(plugin, "plugin", "llama.vim").exists():
        pytest.skip("LLAMA_VIM names no folder with llama.vim")
    if editor is None or shutil.which("curl") is None:
        pytest.skip("Neovim and curl, which llama.vim needs, are not installed")
    version = subprocess.run([editor, "--version"], capture_output=True, text=True).stdout
    if not (found := re.match(r"NVIM v(\d+)\.(\d+)", version)) or (int(found[1]), int(found[2])) < (0, 8):
        pytest.skip("llama.vim needs Neovim 0.8")
    file = tmp_path / "app.py"
    file.write_text(TEXT)
    with serving(tmp_path / "home", "--log") as served:
        first, rest = TEXT.splitlines(keepends=True)[:2], TEXT.splitlines(keepends=True)[3:]
        (tmp_path / "init.vim").write_text(SETTINGS.format(address=served.address, file=file))
        options = ["-u", str(tmp_path / "init.vim"), "-i", "NONE", "-n", "+3", str(file)]
        terminal = pexpect.spawn(editor, options, encoding="utf-8", dimensions=(24, 80), timeout=20)
        try:
            terminal.send("A\x06")
            wait_for(terminal, Path(f"{file}.shown"))
            terminal.send("\t")
            time.sleep(0.5)
            terminal.send("\x1b:wq\r")
            terminal.expect(pexpect.EOF)
        finally:
            terminal.close(force=True)
    text, before, after = file.read_text(), "".join(first) + "    ", "\n" + "".join(rest)
    assert text.startswith(before)
    assert text.endswith(after)
    assert text[len(before) : -len(after)].strip(), "nothing was put into the file"
    assert any("POST /infill 200" in line for line in served.log)
