"""What an answer makes of the files: hunks found by content, bytes that are not edited kept, refusals with reasons."""

import contextlib
import difflib

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from coderv2_local.edits import EditRefused, Proposal, Workspace, propose
from coderv2_local.edits.elision import is_elision
from coderv2_local.edits.hunks import Hunk, apply_hunks, hunk_between, replaced
from coderv2_local.edits.text_files import body, decode, encode, split_lines
from coderv2_local.edits.unified_diff import parse_diff

FUNCTIONS = "def a():\n    return 1\n\n\ndef b():\n    return 2\n\n\ndef c():\n    return 3\n"


def proposed(tmp_path, answer: str, **files: "str | bytes") -> Proposal:
    """The one proposal of an answer, in a workspace with these files (`a_py` is a.py)."""
    for name, content in files.items():
        data = content if isinstance(content, bytes) else content.encode()
        (tmp_path / name.replace("_", ".")).write_bytes(data)
    [proposal] = propose(answer, Workspace(tmp_path))
    return proposal


def result(tmp_path, answer: str, old: "str | bytes") -> bytes:
    proposal = proposed(tmp_path, answer, a_py=old)
    assert proposal.can_apply, [r.message for r in proposal.refusals]
    assert proposal.after is not None
    return proposal.after


def reason(tmp_path, answer: str, **files: "str | bytes") -> str:
    """Why the one proposal is refused; it names the file."""
    proposal = proposed(tmp_path, answer, **files)
    assert proposal.after is None
    [refusal, *_] = proposal.refusals
    assert proposal.path in refusal.message
    assert "\n" not in refusal.message + refusal.hint
    return f"{refusal.message}; {refusal.hint}"


def diff(hunks: str, path: str = "a.py") -> str:
    return f"```diff\n--- a/{path}\n+++ b/{path}\n{hunks}```\n"


WHOLE = "`a.py`\n```python\n{}```\n"


# -- hunks


@pytest.mark.parametrize(
    "header",
    ["@@ -5,2 +5,2 @@", "@@ -1,2 +1,2 @@", "@@ -500,9 +7,70 @@ def b():", "@@ ... @@", "@@", "@@ -0,0 +0,0 @@", ""],
)
def test_wrong_line_numbers_and_counts_do_not_matter(tmp_path, header):
    hunk = f"{header}\n" * bool(header) + " def b():\n-    return 2\n+    return 20\n"
    assert result(tmp_path, diff(hunk), FUNCTIONS) == FUNCTIONS.replace("2", "20").encode()


def test_several_hunks_in_any_order(tmp_path):
    one, three = "@@ -1 +1 @@\n-    return 1\n+    x\n+    y\n", "@@ -9 +9 @@\n-    return 3\n"
    expected = FUNCTIONS.replace("return 1", "x\n    y").replace("    return 3\n", "").encode()
    assert result(tmp_path, diff(one + three), FUNCTIONS) == expected
    assert result(tmp_path, diff(three + one), FUNCTIONS) == expected


def test_context_found_nowhere_is_refused_with_the_nearest_place(tmp_path):
    why = reason(tmp_path, diff("@@ -5 +5 @@\n def b():\n-    return 7\n+    return 8\n"), a_py=FUNCTIONS)
    assert "hunk 1 are not in the file, beginning with 'def b():'" in why
    assert "line 5" in why


def test_a_change_that_is_there_already_is_said_to_be(tmp_path):
    why = reason(tmp_path, diff("@@ -5 +5 @@\n def b():\n-    return 1\n+    return 2\n"), a_py=FUNCTIONS)
    assert "have this change already" in why


def test_context_in_several_places_is_refused_unless_numbers_and_counts_are_right(tmp_path):
    text = "x\nstart\nend\n" * 3
    right = "@@ -5,2 +5,3 @@\n start\n+new\n end\n"
    assert result(tmp_path, diff(right), text) == b"x\nstart\nend\nx\nstart\nnew\nend\nx\nstart\nend\n"
    for wrong in (right.replace("-5,2", "-4,2"), right.replace("-5,2", "-5,9"), right.replace("@@ -5,2 +5,3 @@", "@@")):
        why = reason(tmp_path, diff(wrong), a_py=text)
        assert "in 3 places, at lines 2, 5, 8" in why
        assert "more lines around" in why


def test_hunks_over_the_same_lines_are_refused(tmp_path):
    hunks = "@@ -1 +1 @@\n def a():\n-    return 1\n+    x\n@@ -2 +2 @@\n-    return 1\n+    y\n"
    assert "hunk 1 and hunk 2 change the same lines, from line 2" in reason(tmp_path, diff(hunks), a_py=FUNCTIONS)


def test_lost_trailing_spaces_and_blank_lines_at_the_edges_are_forgiven_and_the_file_keeps_its_own(tmp_path):
    text = "a  \nb\n\nc\t\n"
    assert result(tmp_path, diff("@@ -1 +1 @@\n a\n-b\n+B\n\n c\n\n\n"), text) == b"a  \nB\n\nc\t\n"


def test_a_hunk_without_context_has_no_place(tmp_path):
    assert "no lines around it" in reason(tmp_path, diff("@@ -3,0 +4 @@\n+new\n"), a_py=FUNCTIONS)


@pytest.mark.parametrize(
    ("hunk", "old", "new"),
    [
        ("-b\n+c\n", "a\nb", "a\nc"),
        ("-b\n+c\n", "a\nb\n", "a\nc\n"),
        ("-b\n\\ No newline at end of file\n+c\n", "a\nb", "a\nc\n"),
        ("-b\n+c\n\\ No newline at end of file\n", "a\nb\n", "a\nc"),
        ("-b\n\\ No newline at end of file\n+c\n\\ No newline at end of file\n", "a\nb", "a\nc"),
        (" b\n+c\n", "a\nb", "a\nb\nc"),
        (" a\n-b\n", "a\nb", "a"),
        (" b\n+c\n", "a\r\nb\r\n", "a\r\nb\r\nc\r\n"),
        (" b\n+c\n", "a\r\nb", "a\r\nb\r\nc"),
        ("-a\n-b\n+c\n", "a\r\nb\n", "c\r\n"),
        ("-a\n-b\n+c\n+d\n+e\n", "a\r\nb\nx\r\n", "c\r\nd\ne\nx\r\n"),
        ("-a\n-b\n", "a\nb\n", ""),
    ],
)
def test_ends_of_lines_and_of_the_file(tmp_path, hunk, old, new):
    assert result(tmp_path, diff("@@ -1 +1 @@\n" + hunk), old) == new.encode()
    assert result(tmp_path, diff("@@ -1 +1 @@\n" + hunk).replace("\n", "\r\n"), old) == new.encode()


LINES = st.lists(st.sampled_from(["", "a", "b", "c", "  d", "a "]), max_size=12)
ENDS = st.sampled_from(["\n", "\r\n"])


@st.composite
def texts(draw) -> str:
    """A text with line ends of one kind or mixed, with or without a final one."""
    lines = draw(LINES)
    ends = draw(st.one_of(st.just(["\n"]), st.just(["\r\n"]), st.just(["\n", "\r\n"])))
    text = "".join(line + draw(st.sampled_from(ends)) for line in lines)
    return text if draw(st.booleans()) else text.removesuffix("\n").removesuffix("\r")


@settings(deadline=None)
@given(texts(), LINES)
def test_a_true_diff_gives_the_new_lines_and_the_old_line_ends(old, new):
    bodies = [body(line) for line in split_lines(old)]
    assume(bodies and bodies != new)
    assume(old.endswith("\n") or not new or new[-1])  # an empty last line without an end is no line
    text = "".join(difflib.unified_diff([f"{b}\n" for b in bodies], [f"{b}\n" for b in new], "a/x", "b/x", n=20))
    [edit] = parse_diff(tuple(text.split("\n")[:-1]))
    made = apply_hunks(old, list(edit.hunks), "x")
    assert [body(line) for line in split_lines(made)] == new
    assert made.endswith("\n") == (bool(made) and old.endswith("\n"))
    if old.endswith("\r\n") and "\n" not in old.replace("\r\n", ""):
        assert "\n" not in made.replace("\r\n", "")


@settings(deadline=None)
@given(texts())
def test_a_hunk_that_changes_nothing_changes_no_byte(old):
    bodies = [body(line) for line in split_lines(old)]
    assert apply_hunks(old, [hunk_between(bodies, bodies)] if bodies else [], "x") == old
    assert replaced(old, bodies) == old


@settings(deadline=None)
@given(texts(), LINES)
def test_a_whole_replacement_has_the_new_lines_and_the_old_state_of_the_end(old, new):
    assume(new and new[-1])
    made = replaced(old, new)
    assert [body(line) for line in split_lines(made)] == new
    assert made.endswith("\n") == (old.endswith("\n") or not old)
    if "\n" not in old.replace("\r\n", "") and "\r\n" in old:
        assert "\n" not in made.replace("\r\n", "")


@settings(deadline=None)
@given(texts(), LINES, st.data())
def test_lines_outside_of_a_hunk_keep_their_bytes(old, new, data):
    lines = split_lines(old)
    assume(lines)
    start = data.draw(st.integers(0, len(lines) - 1))
    stop = data.draw(st.integers(start + 1, len(lines)))
    wanted = [body(line) for line in lines[start:stop]]
    hunk = Hunk((*(("-", b) for b in wanted), *(("+", b) for b in new)), start + 1)
    made = apply_hunks(old, [hunk], "x")
    if stop < len(lines):
        assert made.startswith("".join(lines[:start]))
        assert made.endswith("".join(lines[stop:]))
    assert encode(made, decode(old.encode(), "x").format, "x") == made.encode()


# -- whole files, search/replace, several edits


def test_whole_files_new_and_replaced(tmp_path):
    new = proposed(tmp_path, "`src/n.py`\n```python\nx = 1\n```\n")
    assert (new.kind, new.path, new.after, new.before) == ("create", "src/n.py", b"x = 1\n", None)
    assert new.diff() == "--- /dev/null\n+++ b/src/n.py\n@@ -0,0 +1 @@\n+x = 1\n"
    old = proposed(tmp_path, WHOLE.format("a\nB\n"), a_py="a\r\nb")
    assert (old.kind, old.after) == ("replace", b"a\r\nB")
    assert "-b\n\\ No newline at end of file\n+B\n\\ No newline" in old.diff()


def test_a_comment_that_names_the_file_stays_out_unless_the_file_begins_with_it(tmp_path):
    answer = "```python\n# a.py\nx = 1\n```\n"
    assert proposed(tmp_path, answer).after == b"x = 1\n"
    assert result(tmp_path, answer, "# a.py\nx = 0\n") == b"# a.py\nx = 1\n"
    assert result(tmp_path, answer, "x = 0\n") == b"x = 1\n"


def test_a_whole_file_keeps_mixed_line_ends_where_lines_stay(tmp_path):
    assert result(tmp_path, WHOLE.format("a\nB\nc\nd\n"), "a\r\nb\nc\r\n") == b"a\r\nB\nc\r\nd\r\n"


@pytest.mark.parametrize(
    "line",
    [
        "# ... existing code ...",
        "// ... rest of the code unchanged",
        "/* ... other methods ... */",
        "    # rest of the file remains the same ...",
        "... (rest of the file)",
        "<!-- ... existing markup ... -->",
        "// … unchanged …",
    ],
)
def test_a_block_that_leaves_parts_out_is_refused(tmp_path, line):
    assert "leaves out parts" in reason(tmp_path, WHOLE.format(f"def a():\n{line}\n"), a_py=FUNCTIONS)
    assert proposed(tmp_path, WHOLE.format(f"{line}\nx\n"), a_py=f"{line}\ny\n").can_apply  # the file has that line


@pytest.mark.parametrize("line", ["print('...')", "x = ...", "# the rest", "args: ...", "# same as above", "f(*rest)"])
def test_lines_that_leave_nothing_out(line):
    assert not is_elision(line)


def test_an_empty_block_does_not_empty_a_file(tmp_path):
    assert "empty" in reason(tmp_path, WHOLE.format(""), a_py="x\n")
    assert proposed(tmp_path, "`pkg/__init__.py`\n```python\n```").after == b""


def test_search_replace(tmp_path):
    def block(search: str, new: str) -> str:
        return f"a.py\n<<<<<<< SEARCH\n{search}=======\n{new}>>>>>>> REPLACE\n"

    assert result(tmp_path, block("    return 2\n", "    return 20\n"), FUNCTIONS.replace("\n", "\r\n")) == (
        FUNCTIONS.replace("return 2", "return 20").replace("\n", "\r\n").encode()
    )
    assert "search/replace block 1 are not in" in reason(tmp_path, block("nothing\n", "x\n"), a_py=FUNCTIONS)
    assert "in 2 places" in reason(tmp_path, block("x\n", "y\n"), a_py="x\nx\n")
    assert "exists already" in reason(tmp_path, block("", "y\n"), a_py="x\n")
    assert result(tmp_path, block("", "y\n"), "") == b"y\n"
    assert result(tmp_path, block("b\n", "c\n") + block("c\n", "d\n"), "a\nb\n") == b"a\nd\n"  # one after another
    new = proposed(tmp_path, block("", "y\n").replace("a.py", "n.py"))
    assert (new.kind, new.after) == ("create", b"y\n")


def test_one_refused_edit_refuses_its_file_but_no_other(tmp_path):
    (tmp_path / "a.py").write_text("a\n")
    (tmp_path / "b.py").write_text("b\n")
    answer = diff("@@ -1 +1 @@\n-a\n+A\n") + diff("@@ -1 +1 @@\n-nothing\n+A\n") + diff("@@ -1 +1 @@\n-b\n+B\n", "b.py")
    first, second = propose(answer, Workspace(tmp_path))
    assert (first.path, first.can_apply, len(first.refusals)) == ("a.py", False, 1)
    assert (second.path, second.can_apply) == ("b.py", True)


def test_names_of_one_file_are_one_proposal(tmp_path):
    answer = diff("@@ -1 +1 @@\n-a\n+b\n") + diff("@@ -1 +1 @@\n-b\n+c\n", "./a.py")
    assert proposed(tmp_path, answer, a_py="a\n").after == b"c\n"


def test_new_and_deleted_files_by_diff(tmp_path):
    new = proposed(tmp_path, "--- /dev/null\n+++ b/n.py\n@@ -0,0 +1,9 @@\n+a\n+b\n")
    assert (new.kind, new.after) == ("create", b"a\nb\n")
    bare = proposed(tmp_path, "--- /dev/null\n+++ b/n.py\n@@ -0,0 +1 @@\n+a\n\\ No newline at end of file\n")
    assert bare.after == b"a"
    gone = "--- a/a.py\n+++ /dev/null\n@@ -1,2 +0,0 @@\n-a\n-b\n"
    old = proposed(tmp_path, gone, a_py="a\r\nb\r\n")
    assert (old.kind, old.after, old.can_apply) == ("delete", None, True)
    assert old.diff().startswith("--- a/a.py\n+++ /dev/null\n")
    assert "other lines than it has" in reason(tmp_path, gone, a_py="a\nb\nc\n")
    assert "no such file" in reason(tmp_path, gone.replace("a.py", "x.py"))
    assert "exists already" in reason(tmp_path, "--- /dev/null\n+++ b/a.py\n@@ -0,0 +1 @@\n+z\n", a_py="a\n")
    assert "no such file" in reason(tmp_path, diff("@@ -1 +1 @@\n-a\n+b\n", "x.py"))


# -- what is in the files


@pytest.mark.parametrize("codec", ["utf-8", "utf-8-sig", "utf-16"])
def test_encodings_are_kept(tmp_path, codec):
    old, new = "ä = 'Ω𝄞'\r\nb\r\n", "ä = 'Ω𝄞'\r\nc é\r\n"
    assert result(tmp_path, diff("@@ -2 +2 @@\n-b\n+c é\n"), old.encode(codec)) == new.encode(codec)
    big = b"\xfe\xff" + old.encode("utf-16-be")
    assert result(tmp_path, diff("@@ -2 +2 @@\n-b\n+c é\n"), big) == b"\xfe\xff" + new.encode("utf-16-be")


@pytest.mark.parametrize(
    ("data", "word"),
    [
        ("é\n".encode("latin-1"), "not UTF-8 text (byte 0)"),
        (b"ok\n\xff\n", "not UTF-8 text (byte 3)"),
        (b"\x7fELF\0\0\xff", "binary"),
        (b"a\0b\n", "binary"),
        ("a\n".encode("utf-16-le"), "binary"),
        ("a\n".encode("utf-32"), "binary"),
        (b"\xff\xfea", "not UTF-16-LE text"),
        (b"\xff\xfe\x00\xd8", "not UTF-16-LE text"),
        (b"x" * 10_000_001, "larger than 10 MB"),
    ],
    ids=range(9),
)
def test_files_that_are_not_read_are_refused_by_name(tmp_path, data, word):
    assert word in reason(tmp_path, WHOLE.format("x\n"), a_py=data)


@settings(deadline=None)
@given(st.binary(max_size=40) | st.text().map(lambda t: t.encode("utf-16", "surrogatepass")))
def test_what_can_be_read_is_written_as_the_same_bytes(data):
    with contextlib.suppress(EditRefused):
        read = decode(data, "x")
        assert encode(read.text, read.format, "x") == data
        assert "".join(split_lines(read.text)) == read.text


@pytest.mark.parametrize("hidden", ["\x1b", "\0", "\x07", "\u202e", "\u2066", "\x9b", "\x7f"])
def test_characters_that_a_diff_cannot_show_are_not_written(tmp_path, hidden):
    why = reason(tmp_path, WHOLE.format(f"a\nb = '{hidden}'\n"), a_py="a\n")
    assert f"U+{ord(hidden):04X}" in why
    assert "line 2" in why


def test_hidden_characters_that_are_there_may_stay(tmp_path):
    old = "esc = '\x1b[0m'\nb\n"
    assert result(tmp_path, diff("@@ -2 +2 @@\n-b\n+c\n"), old) == old.replace("b\n", "c\n").encode()
    assert "U+001B" in reason(tmp_path, diff("@@ -2 +2 @@\n-b\n+\x1b\n"), a_py=old)


def test_a_lone_surrogate_has_no_bytes(tmp_path):
    assert "U+D800" in reason(tmp_path, WHOLE.format("\ud800\n"), a_py="a\n")


def test_a_file_that_is_as_the_answer_wants_it(tmp_path):
    assert "already" in reason(tmp_path, WHOLE.format("x\n"), a_py="x\r\n")


def test_names_out_of_the_workspace_are_proposals_with_a_reason(tmp_path):
    answer = "`../../.ssh/config`\n```\nHost *\n```\n" + diff("@@ -1 +1 @@\n-a\n+b\n", "../x") + WHOLE.format("x\n")
    outside, diffed, inside = propose(answer, Workspace(tmp_path))
    assert (outside.path, outside.can_apply) == ("../../.ssh/config", False)
    assert (diffed.path, diffed.can_apply) == ("../x", False)
    assert inside.can_apply
