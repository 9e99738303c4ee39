"""Edits found in an answer's Markdown: which blocks name a file, and which only look like it."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coderv2_local.edits.answers import find_edits
from coderv2_local.edits.blocks import find_blocks
from coderv2_local.edits.file_edits import Deletion, FileEdit, HunkEdit, WholeFile


def only(answer: str) -> FileEdit:
    [edit] = find_edits(answer)
    return edit


def names(answer: str) -> list[str]:
    return [edit.path for edit in find_edits(answer)]


CODE = "x = 1\n"


@pytest.mark.parametrize(
    "info",
    [
        "python src/a.py",
        "python:src/a.py",
        "src/a.py",
        'python title="src/a.py"',
        "python title='src/a.py'",
        "python filename=src/a.py",
        'python {filename="src/a.py"}',
        "python file=src/a.py",
        'py linenums="1" title="src/a.py"',
        "python `src/a.py`",
        "python (src/a.py)",
    ],
)
def test_files_named_in_the_info_string(info):
    assert only(f"Here:\n\n~~~{info}\n{CODE}~~~\n") == WholeFile("src/a.py", lines=("x = 1",))


@pytest.mark.parametrize(
    "label",
    [
        "`src/a.py`",
        "`src/a.py`:",
        "**src/a.py**",
        "**`src/a.py`**",
        "**`src/a.py`:**",
        "### src/a.py",
        "### `src/a.py`",
        "#### 2. `src/a.py`",
        "1. **src/a.py**",
        "- src/a.py:",
        "File: src/a.py",
        "**File:** src/a.py",
        "**File: `src/a.py`**",
        "### File: src/a.py",
        "Filename: `src/a.py`",
        "path: src/a.py",
        "`src/a.py` (new file)",
        "**src/a.py** (updated)",
        "New file: `src/a.py`",
        "src/a.py",
        "*src/a.py*",
        "__src/a.py__:",
    ],
)
def test_files_named_on_the_line_before(label):
    assert only(f"Text.\n\n{label}\n```python\n{CODE}```\n") == WholeFile("src/a.py", lines=("x = 1",))
    assert names(f"{label}\n\n```python\n{CODE}```") == ["src/a.py"]
    assert names(f"{label}\n\n\n```python\n{CODE}```") == []  # too far off
    assert names(f"{label}\r\n```python\r\nx = 1\r\n```\r\n") == ["src/a.py"]


@pytest.mark.parametrize(
    "comment",
    [
        "# src/a.py",
        "// src/a.py",
        "// file: src/a.py",
        "# File: src/a.py",
        "/* src/a.py */",
        "<!-- src/a.py -->",
        "-- src/a.py",
        "; src/a.py",
        '"""src/a.py"""',
    ],
)
def test_files_named_in_a_first_comment_which_is_then_dropped(comment):
    assert only(f"```python\n{comment}\n{CODE}```\n") == WholeFile("src/a.py", lines=("x = 1",), comment=comment)


@pytest.mark.parametrize(
    "answer",
    [
        "```python\nx = 1\n```",
        "```\nx = 1\n```",
        "Here is `src/a.py` as it should be:\n```python\nx = 1\n```",
        "In src/a.py, change the function:\n```python\nx = 1\n```",
        "### Node.js\n```js\nx\n```",
        "### Input/Output\n```\nx\n```",
        "**Example**\n```\nx\n```",
        "e.g.\n```\nx\n```",
        "### Version 3.10\n```\nx\n```",
        "### Build\n```bash\nmake\n```",
        "### Makefile\n```bash\nmake\n```",
        "src/a.py\n```bash\npython src/a.py\n```",
        "```bash\n# src/a.py\npython src/a.py\n```",
        "```python\n#!/usr/bin/env python\nx = 1\n```",
        "```python\n# -*- coding: utf-8 -*-\n```",
        "```python\n# TODO: this/that\n```",
        "```js {linenos=true}\nx\n```",
        "```js {1,3-5} showLineNumbers\nx\n```",
        "```application/json\n{}\n```",
        "```c++\nx\n```",
        "```a.py:10-20\nx\n```",
        "```12:15:src/a.py\nx\n```",
        "```vb.net\nx\n```",
        "```objective-c\nx\n```",
        "https://example.org/a.py\n```python\nx\n```",
        "See a.py and b.py\n```python\nx\n```",
        "src/\n```python\nx\n```",
        "``` not `a.py` fence\nx\n",
        "",
    ],
)
def test_blocks_that_name_no_file_propose_nothing(answer):
    assert find_edits(answer) == []


def test_dangerous_names_are_names_so_that_they_are_refused_by_name():
    for name in ("../x.py", "../../.ssh/config", "/etc/passwd", "~/.bashrc", "C:\\x\\y.py", ".git/config", "..\\x.py"):
        assert names(f"`{name}`\n```\nx\n```") == [name]
        assert names(f"### {name}\n```\nx\n```") == [name]
        assert names(f"```python {name}\nx\n```") == [name], name
        assert names(f"```python:{name}\nx\n```") == [name], name
        assert names(f'```python title="{name}"\nx\n```') == [name]


def test_a_name_with_spaces_needs_marks():
    assert names("File: `my notes.md`\n```\nx\n```") == ["my notes.md"]
    assert names("`cat notes.md`\n```\nx\n```") == []  # more likely a command
    assert names('```md title="my notes.md"\nx\n```') == ["my notes.md"]
    assert names("my notes.md\n```\nx\n```") == []


def test_shell_blocks_are_files_only_where_the_file_is_a_script():
    assert names("`run.sh`\n```bash\nx\n```") == ["run.sh"]
    assert names("`bin/run`\n```bash\nx\n```") == ["bin/run"]
    assert names("```bash tools/a.py\nx\n```") == ["tools/a.py"]  # the fence itself says so


def test_the_line_before_belongs_to_one_block_only():
    assert names("`a.py`\n```python\nx\n```\n```python\ny\n```\n") == ["a.py"]
    assert names("```text\nb.py\n```\n```python\ny\n```\n") == []  # what stands in a block is no label


def test_unclosed_fences_are_refused_and_said_to_be_cut():
    edit = only("`a.py`\n```python\nx = 1\nif x")
    assert edit.path == "a.py"
    assert "cut" in edit.problem
    assert "continue" in edit.hint
    edit = only("```diff\n--- a/a.py\n+++ b/a.py\n@@ -1 +1 @@\n-x")
    assert "ends in the middle" in edit.problem
    edit = only("a.py\n<<<<<<< SEARCH\nx\n=======\n")
    assert "ends in the middle" in edit.problem


def test_nested_fences():
    readme = "# Title\n\n```sh\nmake\n```\n\nText\n"
    assert only(f"`README.md`\n```markdown\n{readme}```\n").lines == tuple(readme.splitlines())
    assert only(f"`README.md`\n````markdown\n{readme}````\n").lines == tuple(readme.splitlines())
    assert only(f"`README.md`\n~~~markdown\n{readme}~~~\n").lines == tuple(readme.splitlines())
    bare = "# Title\n\n```\nmake\n```\n\nText"
    assert only(f"`README.md`\n```markdown\n{bare}\n```\n\nDone.").lines == tuple(bare.splitlines())
    docstring = '"""\n    ```\n    f()\n    ```\n"""'
    assert only(f"`a.py`\n```python\n{docstring}\n```\n").lines == tuple(docstring.splitlines())


def test_fences_in_list_items_lose_the_indentation_of_the_fence():
    answer = "1. `a.py`\n\n   ```python\n   if x:\n       y\n\n   ```\n"
    assert only(answer).lines == ("if x:", "    y", "")


def test_a_fence_inside_a_diff_does_not_end_it():
    diff = "--- a/R.md\n+++ b/R.md\n@@ -1,4 +1,4 @@\n text\n ```sh\n-make\n+make all\n ```\n"
    for answer in (f"```diff\n{diff}```\n", diff, f"Here it is:\n\n{diff}\nDone.\n"):
        edit = only(answer)
        assert isinstance(edit, HunkEdit)
        assert edit.path == "R.md"
        assert edit.hunks[0].lines[:2] == ((" ", "text"), (" ", "```sh"))
        assert edit.hunks[0].lines[-1] == (" ", "```")
        assert len(edit.hunks[0].lines) == 5


def test_search_replace_with_fences_in_it_and_every_place_for_the_name():
    block = "<<<<<<< SEARCH\n```\nold\n```\n=======\n```\nnew\n```\n>>>>>>> REPLACE\n"
    for answer in (
        f"R.md\n{block}",
        f"R.md\n```\n{block}```\n",
        f"```markdown\nR.md\n{block}```\n",
        f"```R.md\n{block}```\n",
        f"`R.md`\n\n```markdown\n{block}```\n",
    ):
        edit = only(answer)
        assert isinstance(edit, HunkEdit), answer
        assert edit.path == "R.md"
        assert (edit.hunks[0].old, edit.hunks[0].new) == (["```", "old", "```"], ["```", "new", "```"])
    assert names(f"R.md\n{block}\n{block}") == ["R.md", "R.md"]
    assert names(f"R.md\n```\n{block}\n{block}b.md\n{block}```\n{block}") == ["R.md", "R.md", "b.md", "b.md"]


def test_search_replace_that_cannot_be_read():
    assert "names no file" in only("<<<<<<< SEARCH\na\n=======\nb\n>>>>>>> REPLACE\n").problem
    assert "no line of" in only("a.py\n<<<<<<< SEARCH\na\n>>>>>>> REPLACE\n").problem
    two = "a.rst\n<<<<<<< SEARCH\nTitle\n=======\n=======\nTitel\n=======\n>>>>>>> REPLACE\n"
    assert "more than one" in only(two).problem
    nine = "a.rst\n<<<<<<<<< SEARCH\nTitle\n=======\n=========\nTitel\n=======\n>>>>>>>>> REPLACE\n"
    assert only(nine).hunks[0].new == ["Titel", "======="]


def test_git_headers_new_and_deleted_files_and_names_in_quotes():
    answer = (
        "diff --git a/n.py b/n.py\nnew file mode 100644\nindex 0000000..1\n--- /dev/null\n+++ b/n.py\n@@ -0,0 +1,2 @@\n"
        "+a\n+b\n\n"
        "diff --git a/o.py b/o.py\ndeleted file mode 100644\n--- a/o.py\n+++ /dev/null\n@@ -1 +0,0 @@\n-gone\n"
        'diff --git "a/\\303\\274.py" "b/\\303\\274.py"\n--- "a/\\303\\274.py"\n+++ "b/\\303\\274.py"\n'
        "@@ -1 +1 @@\n-a\n+b\n"
        "diff --git a/e.py b/e.py\nnew file mode 100644\n"
    )
    for text in (answer, f"```diff\n{answer}```"):
        new, old, quoted, empty = find_edits(text)
        assert isinstance(new, HunkEdit)
        assert (new.path, new.creates, new.hunks[0].new) == ("n.py", True, ["a", "b"])
        assert old == Deletion("o.py", lines=("gone",))
        assert quoted.path == "ü.py"
        assert empty == HunkEdit("e.py", creates=True)


@pytest.mark.parametrize(
    ("diff", "path", "word"),
    [
        ("diff --git a/a.py b/b.py\nrename from a.py\nrename to b.py\n", "b.py", "renaming"),
        ("--- a/a.py\n+++ b/b.py\n@@ -1 +1 @@\n-x\n+y\n", "b.py", "renames a.py"),
        ("diff --git a/a.png b/a.png\nBinary files a/a.png and b/a.png differ\n", "a.png", "binary"),
        ("--- a/a.py\n+++ b/a.py\n", "a.py", "changes nothing"),
        ("--- /dev/null\n+++ b/a.py\n@@ -1 +1,2 @@\n x\n+y\n", "a.py", "lines that were there"),
        ("--- a/a.py\n+++ /dev/null\n@@ -1 +1 @@\n-x\n+y\n", "a.py", "deletes the file and adds"),
        ("@@ -1 +1 @@\n-x\n+y\n", "", "names no file"),
        ("-x\n+y\n", "", "names no file"),
        ("--- /dev/null\n+++ /dev/null\n@@ -1 +1 @@\n-x\n+y\n", "", "names no file"),
    ],
)
def test_diffs_that_are_refused_whatever_the_file_holds(diff, path, word):
    edit = only(f"```diff\n{diff}```\n")
    assert edit.path == path
    assert word in edit.problem
    assert edit.hint


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("a/src/a.py", "b/src/a.py"),
        ("src/a.py", "src/a.py"),
        ("a/src/a.py\t2024-01-01 10:00:00", "b/src/a.py\t2024-01-01 10:00:00"),
        ("src/a.py.orig", "src/a.py"),
        ("a/src/a.py", "src/a.py"),
        ("src/a.py  2024-01-01 10:00:00.000 +0100", "src/a.py  2024-01-02 10:00:00.000 +0100"),
    ],
)
def test_names_in_diff_headers(old, new):
    assert names(f"--- {old}\n+++ {new}\n@@ -1 +1 @@\n-x\n+y\n") == ["src/a.py"]


def test_a_diff_block_takes_its_name_from_the_fence_or_the_label():
    assert names("`a.py`\n```diff\n@@ -1 +1 @@\n-x\n+y\n```") == ["a.py"]
    assert names("```diff a.py\n-x\n+y\n```") == ["a.py"]


def test_removed_lines_that_look_like_headers_are_lines():
    edit = only("--- a/q.sql\n+++ b/q.sql\n@@ -1,2 +1,2 @@\n--- old comment\n+-- new comment\n select\n")
    assert edit.hunks[0].lines == (("-", "-- old comment"), ("+", "-- new comment"), (" ", "select"))


def test_a_mailed_patch_ends_with_its_signature():
    edit = only("```diff\n--- a/a.py\n+++ b/a.py\n@@ -1 +1 @@\n-x\n+y\n-- \n2.40.1\n```")
    assert edit.hunks[0].lines == (("-", "x"), ("+", "y"))


PIECES = st.sampled_from(
    [
        *(
            "```\n",
            "```python a.py\n",
            "~~~\n",
            "````md\n",
            "    ```\n",
            "a.py\n",
            "`../b`\n",
            "\n",
            "text\r\n",
            "\x1b]0\n",
        ),
        *("--- a/a.py\n", "+++ b/a.py\n", "@@ -1 +1 @@\n", "-x\n", "+y\n", " z\n", "rename to x\n", "@@", "\\ No\n"),
        *("diff --git a/a b/a\n", "<<<<<<< SEARCH\n", "=======\n", ">>>>>>> REPLACE\n"),
    ]
)


@settings(deadline=None)
@given(st.lists(PIECES | st.text(max_size=5), max_size=40).map("".join))
def test_any_answer_can_be_read(answer):
    for edit in find_edits(answer):
        assert edit.path or edit.problem
    for block in find_blocks(answer):
        assert all("\n" not in line for line in block.lines)


@pytest.mark.parametrize(
    "answer",
    [
        "x" * 1_000_000,
        "```" + "a/" * 500_000,
        "`" * 1_000_000,
        "--- " + " " * 500_000 + "x\n+++ y\n@@\n-x\n",
        "#" + " " * 1_000_000 + "x\n```\ny\n```",
        "```\n" * 100_000,
        "```markdown a.md\n" + "```\nx\n" * 50_000,
        "<<<<<<< SEARCH\n" * 100_000,
        "--- a\n+++ a\n" * 50_000,
        "`a.py`\n```\n# " + " " * 199 + "\n" * 2 + "# rest " * 20_000 + "\n```",
    ],
    ids=range(10),
)
def test_hostile_answers_are_read_in_linear_time(answer):
    """No assertion on time: quadratic work on these would not come to an end."""
    find_edits(answer)
