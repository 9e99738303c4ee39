"""Other files that the model is shown: which ones, what of them, and which ones never."""

import os
import subprocess
import sys
import time
from contextlib import closing, nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from conftest import ROOT
from hypothesis import given
from hypothesis import strategies as st

from coderv2_local.fim.comments import path_comment
from coderv2_local.fim.context import Cut, Snippet, outline, preamble
from coderv2_local.fim.related import MAX_ENTRIES, label_of, named_snippets, related_snippets


def words(text):
    return len(text.split())


@pytest.fixture
def project(tmp_path):
    """A project in many languages, all of it edited just now."""
    root = tmp_path / "project"
    for name, text in {
        ".git/HEAD": "ref: refs/heads/main\n",
        ".gitignore": "ignored.py\nmade/\n*.gen.py\n",
        ".env": "KEY=secret\n",
        "app.py": "import lib.io\nfrom .near import b\n",
        "near.py": "def b():\n    return 1\n",
        "lib/__init__.py": "",
        "lib/io.py": "import os\n\nLIMIT = 3\n\nclass Reader:\n    def read(self, n):\n        return n\n",
        "lib/other.py": "def other(): pass\n",
        "ignored.py": "def ignored(): pass\n",
        "made/made.py": "def made(): pass\n",
        "x.gen.py": "def generated(): pass\n",
        "secret_keys.py": "KEY = 1\n",
        "node_modules/m.py": "def vendored(): pass\n",
        "main.c": '#include "util.h"\n#include <stdio.h>\n',
        "util.h": "int add(int a, int b);\n",
        "web/a.ts": "import { b } from './b'\nimport fs from 'fs'\n",
        "web/b.ts": "export const b = 1\nexport function c(x: number) {\n  return x\n}\n",
        "src/lib.rs": "mod parse;\n",
        "src/parse.rs": "pub fn parse(s: &str) -> u32 {\n    0\n}\n",
    }.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def labels(project, name):
    return [s.label for s in related_snippets(project / name, (project / name).read_text(), max_seconds=5)]


@pytest.mark.parametrize(
    ("name", "imported"),
    [
        ("app.py", ["lib/io.py", "near.py"]),
        ("main.c", ["util.h"]),
        ("web/a.ts", ["web/b.ts"]),
        ("src/lib.rs", ["src/parse.rs"]),
    ],
)
def test_imported_files_come_first(project, name, imported):
    found = labels(project, name)
    assert sorted(found[: len(imported)]) == imported


def test_recently_edited_files_of_the_same_language_follow(project):
    assert "lib/other.py" in labels(project, "app.py")
    assert "util.h" not in labels(project, "app.py")
    old = time.time() - 30 * 24 * 3600
    os.utime(project / "lib/other.py", (old, old))
    assert "lib/other.py" not in labels(project, "app.py")
    assert "lib/io.py" in labels(project, "app.py")  # imported, however old


def test_what_could_hold_a_secret_or_is_ignored_is_never_shown(project):
    (project / "app.py").write_text(
        "import secret_keys, ignored\nimport made.made\nimport x.gen\nimport node_modules.m\nfrom . import near\n"
    )
    found = labels(project, "app.py")
    assert set(found) <= {"near.py", "lib/io.py", "lib/other.py", "lib/__init__.py"}
    assert "near.py" in found


def test_gitignore_files_are_read_as_git_reads_them(project):
    for name, text in {
        "lib/.gitignore": "made_*.py\n/only_here.py\n!made_kept.py\n[\n",
        ".gitignore": "ignored.py\ndeep/**/gone.py\n*_kept.py\nwhole/\n",
        "lib/made_one.py": "def one(): pass\n",
        "lib/made_kept.py": "def kept(): pass\n",
        "lib/only_here.py": "def only(): pass\n",
        "lib/sub/only_here.py": "def elsewhere(): pass\n",
        "deep/a/b/gone.py": "def gone(): pass\n",
        "whole/.gitignore": "!inside.py\n",
        "whole/inside.py": "def inside(): pass\n",
        "app.py": "import lib.made_one, lib.made_kept, lib.only_here, lib.sub.only_here, deep.a.b.gone, whole.inside\n",
    }.items():
        (project / name).parent.mkdir(parents=True, exist_ok=True)
        (project / name).write_text(text)
    found = labels(project, "app.py")
    assert set(found) >= {"lib/made_kept.py", "lib/sub/only_here.py"}
    assert not {"lib/made_one.py", "lib/only_here.py", "deep/a/b/gone.py", "whole/inside.py"} & set(found)


@pytest.mark.skipif(os.name == "nt", reason="needs links and pipes")
def test_a_gitignore_that_is_no_plain_file_is_not_read(project, tmp_path):
    """git follows no link there, and reading a device or a pipe would never end."""
    (tmp_path / "patterns").write_text("near.py\n")
    (project / ".gitignore").unlink()
    (project / ".gitignore").symlink_to(tmp_path / "patterns")
    assert "near.py" in labels(project, "app.py")
    os.mkfifo(project / "lib/.gitignore")
    assert "lib/io.py" in labels(project, "app.py")


def test_a_file_without_an_ending_has_no_others_of_its_language(project):
    (project / "Makefile").write_text("all:\n")
    assert labels(project, "Makefile") == []


def test_nothing_outside_the_project_is_shown(project, tmp_path):
    (tmp_path / "outside.py").write_text("def outside(): pass\n")
    (project / "link.py").symlink_to(tmp_path / "outside.py")
    (project / "lib/app.py").write_text("from ...outside import x\nimport link\nfrom .... import y\n")
    assert not {label for label in labels(project, "lib/app.py") if "outside" in label or "link" in label}


def test_a_large_project_takes_no_longer_than_allowed(tmp_path):
    for n in range(1500):
        folder = tmp_path / f"f{n % 50}"
        folder.mkdir(exist_ok=True)
        (folder / f"m{n}.py").write_text(f"def f{n}(): pass\n" * 50)
    (tmp_path / ".git").mkdir()
    (tmp_path / "app.py").write_text("".join(f"import f{n % 50}.m{n}\n" for n in range(1500)))
    found = related_snippets(tmp_path / "app.py", (tmp_path / "app.py").read_text(), max_seconds=0)
    assert len(found) <= 1  # no time at all: at most one import, whatever there is


def test_files_that_cannot_be_read_are_left_out(project):
    (project / "near.py").write_bytes(b"\xff\xfe\x00")
    (project / "lib/io.py").write_bytes(b"\0" * 100)
    assert set(labels(project, "app.py")) <= {"lib/other.py", "lib/__init__.py"}


def test_a_file_that_goes_away_while_it_is_looked_for_is_left_out(project, monkeypatch):
    scan = os.scandir

    def slow_scan(path):
        """Another program removes a file once the folder has been listed."""
        entries = list(scan(path))
        (project / "lib/other.py").unlink(missing_ok=True)
        return nullcontext(iter(entries))

    monkeypatch.setattr(os, "scandir", slow_scan)
    assert sorted(labels(project, "app.py")) == ["lib/io.py", "near.py"]


@pytest.mark.skipif(os.name == "nt", reason="needs POSIX permissions")
def test_a_folder_that_can_be_listed_and_not_entered_is_left_out():
    program = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from coderv2_local.fim.related import related_snippets\n"
        "os.geteuid() or os.setuid(65534)\n"  # root enters every folder
        "print([s.label for s in related_snippets(Path(sys.argv[1]), 'import near', max_seconds=5)])\n"
    )
    with TemporaryDirectory() as name:  # not below the folder of pytest, which others cannot enter
        root = Path(name)
        root.chmod(0o755)
        (root / "near.py").write_text("def near(): pass\n")
        (root / "closed").mkdir()
        (root / "closed" / "other.py").write_text("def other(): pass\n")
        (root / "closed").chmod(0o644)
        command = [sys.executable, "-c", program, str(root / "app.py")]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        (root / "closed").chmod(0o755)
    assert done.stdout == "['near.py']\n", done.stderr


def test_one_folder_with_very_many_files_is_not_looked_at_whole(tmp_path, monkeypatch):
    (tmp_path / "many").mkdir()
    for n in range(MAX_ENTRIES + 500):
        (tmp_path / "many" / f"m{n}.py").touch()
    listed, scan = [], os.scandir

    def counting(path):
        with scan(path) as entries:
            yield from (listed.append(entry.name) or entry for entry in entries)

    monkeypatch.setattr(os, "scandir", lambda path: closing(counting(path)))
    related_snippets(tmp_path / "app.py", "", max_seconds=60)
    assert len(listed) == MAX_ENTRIES


def test_a_folder_is_left_when_the_time_is_over(tmp_path, monkeypatch):
    for n in range(50):
        (tmp_path / f"m{n}.py").write_text("x = 1\n")
    now, looked = [0.0], []

    class Slow:
        """An entry of a folder on a slow disk: a second for each look at it."""

        def __init__(self, entry):
            self.name, self.path = entry.name, entry.path

        def is_dir(self, follow_symlinks=True):
            return False

        is_symlink = is_dir

        def stat(self):
            now[0] += 1
            looked.append(self.name)
            return os.stat(self.path)

    scan = os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: nullcontext(map(Slow, list(scan(path)))))
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    related_snippets(tmp_path / "app.py", "", max_seconds=5)
    assert len(looked) <= 6


def test_a_file_that_does_not_exist_yet_has_context_too(project):
    assert next(s.label for s in related_snippets(project / "new.py", "import near\n", max_seconds=5)) == "near.py"


def test_an_outline_has_the_lines_that_define_names(project):
    text = (project / "lib/io.py").read_text()
    assert outline(text) == "LIMIT = 3\nclass Reader:\n    def read(self, n):\n"
    assert outline("int add(int a, int b) {\n  return a;\n}\n") == "int add(int a, int b) {\n"
    assert outline("pub fn f() {}\nlet x = 1;\n    x + 1\n").startswith("pub fn f() {}\n")
    assert outline("just\ntext\n") == "just\ntext\n"


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ('SECRET_KEY = "hunter2"', "SECRET_KEY = ..."),
        ("TOKEN: str = b'hunter2'", "TOKEN: str = ..."),
        ('URL = f"https://me:hunter2@host"', "URL = ..."),
        ('KEYS = ["hunter2", "hunter3"]', "KEYS = ..."),
        ('KEY = os.environ.get("KEY", "hunter2")', "KEY = ..."),
        ('PEM = """hunter2', "PEM = ..."),
        ("export const API_KEY = `hunter2`;", "export const API_KEY = ..."),
        ('const KEY: &\'static str = "hunter2";', "const KEY: &'static str = ..."),
        ('public static final String PASSWORD = "hunter2";', "public static final String PASSWORD = ..."),
        ('def connect(host, password="hunter2"):', "def connect(host, password=...):"),
        ("def f(a: str = 'hunter2', b=1) -> int:", "def f(a: str = ..., b=1) -> int:"),
        ("function f(a = 'hunter2', b) {", "function f(a = ..., b) {"),
        ("module.exports = {key: 'hunter2', n: 1}", "module.exports = {key: ..., n: 1}"),
        ('const f = (mode: "r" | "w") => {', "const f = ..."),
        ('function f(mode: "r" | "w" = "hunter2") {', 'function f(mode: "r" | "w" = ...) {'),
        ('type Mode = "r" | "w";', 'type Mode = "r" | "w";'),
        (r'def f(a="hunter\"2", b="\\", c=0):', "def f(a=..., b=..., c=0):"),
        ("LIMIT = 3", "LIMIT = 3"),
        ("let x = 1;", "let x = 1;"),
        ("fn f<'a>(x: &'a str, y: &'a str) -> &'a str {", "fn f<'a>(x: &'a str, y: &'a str) -> &'a str {"),
        ("impl<'a> It<Item = &'a str> for X<'a> {", "impl<'a> It<Item = &'a str> for X<'a> {"),
        ("class A(B, metaclass=C):", "class A(B, metaclass=C):"),
    ],
)
def test_an_outline_keeps_the_names_of_strings_alone(line, shown):
    assert outline(f"{line}\nreturn\n") == f"{shown}\n"


def test_a_call_is_no_definition():
    assert outline('f(1);\nlogin("me", "hunter2");\ndef f(): pass\n') == "f(1);\ndef f(): pass\n"


def test_a_text_without_definitions_keeps_its_strings_to_itself():
    text = "password = 'hunter2'\nexported = {key: 'hunter2', n: 1}\nIt isn't a secret: don't hide it\n"
    assert outline(text) == "password = ...\nexported = {key: ..., n: 1}\nIt isn't a secret: don't hide it\n"


@pytest.mark.parametrize("ending", [".yaml", ".toml", ".json", ".ini", ".env", ".properties"])
def test_of_configuration_no_other_file_is_shown_unasked(project, ending):
    (project / f"one{ending}").write_text("password: hunter2\n")
    (project / f"two{ending}").write_text("a: 1\n")
    assert labels(project, f"two{ending}") == []


def test_snippets_are_cut_at_whole_lines_within_the_budget():
    long = Snippet("b.py", "".join(f"line {n}\n" for n in range(1000)))
    text = preamble([Snippet("a.py", "x = 1\n"), long], "c.py", words, 100)
    assert text.startswith("# a.py\nx = 1\n\n# b.py\nline 0\n")
    assert text.endswith("\n\n# c.py\n")
    assert words(text) <= 100
    assert all(line.startswith(("#", "line ", "x =")) or not line for line in text.split("\n"))
    assert preamble([long], "c.py", words, 3) == preamble([], "c.py", words, 100) == ""


def test_named_files_share_the_budget_and_what_is_cut_is_told():
    long = [Snippet(f"{name}.py", "".join(f"{name} {n}\n" for n in range(1000))) for name in "ab"]
    small, cut = Snippet("small.py", "x = 1\n"), []
    text = preamble([long[0], small, long[1]], "c.py", words, 200, is_shared=True, cut=cut)
    assert 180 <= words(text) <= 200
    assert "# small.py\nx = 1\n\n# b.py\nb 0\n" in text
    assert [(c.label, c.of_lines) for c in cut] == [("a.py", 1000), ("b.py", 1000)]
    for c, name in zip(cut, "ab", strict=True):
        assert 40 <= c.lines == text.count(f"\n{name} ") <= 50
    cut = []
    assert preamble([small, Snippet("one.py", "y " * 999)], "c.py", words, 100, is_shared=True, cut=cut)
    assert cut == [Cut("one.py", 0, 1)]  # its only line does not fit
    cut = []
    assert preamble([small], "c.py", words, 0, cut=cut) == ""
    assert cut == [Cut("small.py", 0, 1)]


@given(st.lists(st.integers(1, 300), min_size=1, max_size=6), st.integers(0, 400))
def test_shares_leave_nothing_that_somebody_needs(sizes, budget):
    snippets = [Snippet(f"{n}", "w\n" * size) for n, size in enumerate(sizes)]
    cut = []
    text = preamble(snippets, "c", words, budget, is_shared=True, cut=cut)
    assert words(text) <= max(budget, 0)
    whole = 2 + sum(size + 4 for size in sizes)  # of each, two words of its path, and two for the blank line
    assert bool(cut) == (budget < whole)


@pytest.mark.parametrize(
    ("name", "comment"),
    [
        ("a/b.py", "# a/b.py\n"),
        ("a.rs", "// a.rs\n"),
        ("a.sql", "-- a.sql\n"),
        ("a.css", "/* a.css */\n"),
        ("a.html", "<!-- a.html -->\n"),
        ("Makefile", "# Makefile\n"),
        ("odd\nname.py", "# odd name.py\n"),
    ],
)
def test_a_path_is_a_comment_of_its_language(name, comment):
    assert path_comment(name) == comment


def test_named_files_are_shown_whole(project):
    (found,) = named_snippets([project / "lib/io.py"], project / "app.py")
    assert found == Snippet("lib/io.py", (project / "lib/io.py").read_text())
    assert label_of(project / "lib" / "io.py") == "lib/io.py"
