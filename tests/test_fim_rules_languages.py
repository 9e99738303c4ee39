"""The rules in files of one language: what is a comment, a string, a label, a definition or prose there."""

from dataclasses import FrozenInstanceError

import pytest

from coderv2_local.fim import brackets
from coderv2_local.fim.brackets import REGEX, Brackets
from coderv2_local.fim.comments import MARKS, mark_of, path_comment
from coderv2_local.fim.duty import MOST_MARKS, before_hole, duty
from coderv2_local.fim.fill import by_the_rules
from coderv2_local.fim.hole import NEAR, Hole
from coderv2_local.fim.stops import end_of
from coderv2_local.fim.syntax import SPECIAL, syntax_of

IN_BRANCH = "def f(a):\n    if a:\n        "
IN_CLASS = "class A {\n  public:\n    int a;\n    "


@pytest.mark.parametrize("name", ["README.md", "a.markdown", "a.rst", "a.txt"])
@pytest.mark.parametrize("middle", ["```python\nc = 2\n```\nThis adds c.", "```\nc = 2"])
def test_in_prose_a_code_block_is_no_wrapping(name, middle):
    assert by_the_rules(middle, Hole("# Title\n\n", "\n\nmore\n", name)) == (middle, None)
    assert by_the_rules(middle, Hole("# Title\n\n", "\n\nmore\n", "a.py")) == ("c = 2", None)


@pytest.mark.parametrize(
    "following", ["record = 1", "type = b", "object.x()", "module: int = 2", "template = a", "func(a)"]
)
@pytest.mark.parametrize("name", ["a.py", ""])
def test_a_variable_is_no_definition(following, name):
    middle = "x = 1\n    y = 2"
    assert by_the_rules(middle, Hole(IN_BRANCH, f"\n    {following}\n", name)) == (middle, None)


@pytest.mark.parametrize(
    ("name", "following"),
    [
        ("a.js", "let b = 1"),
        ("a.js", "const b = 1"),
        ("a.js", "var b"),
        ("a.c", "static int b = 1;"),
        ("a.c", "struct point b = {0};"),
        ("a.c", "struct point *b;"),
        ("a.rb", "@total = 1"),
    ],
)
def test_a_declaration_is_no_definition(name, following):
    middle = "x = 1;\n  y = 2;"
    assert by_the_rules(middle, Hole("f(a)\n  if (a)\n    ", f"\n  {following}\n", name)) == (middle, None)


@pytest.mark.parametrize(
    "following",
    [
        "def g():",
        "async def g():",
        "class B:",
        "@property",
        "@a.route('/')",
        "@pytest.mark.parametrize(",
        "func (t *T) g() {",
        "pub(crate) fn g() {",
        "export default function g() {",
        "static class B {",
        "struct B {",
        "enum B: int {",
        "record B(int b) {",
        "impl<T> B for T {",
    ],
)
def test_before_a_definition_the_block_is_left(following):
    hole = Hole("class A:\n    def f(a):\n        ", f"\n\n    {following}\n")
    assert by_the_rules("x = 1\n    y = 2", hole) == ("x = 1", "leaves the block")


@pytest.mark.parametrize("url", ["url(//cdn.example.org/a.png)", "url(https://example.org/a.png)"])
@pytest.mark.parametrize("name", ["a.css", "a.scss", "a.less"])
def test_a_url_hides_no_bracket_in_css(url, name):
    hole = Hole("a {\n  ", "\n}\n", name)
    middle = f"background: {url};\n"
    assert end_of(middle, hole) is None
    assert by_the_rules(middle + "}\nb {", hole) == (middle.rstrip(), "closed after the hole")
    before = before_hole(Hole(f"a {{ background: {url}", "", name))
    assert [bracket for bracket, _ in before.open] == ["{"]


def test_slashes_begin_comments_where_the_language_has_them():
    for name, opened in (("a.css", ["(", "{"]), ("a.scss", ["("]), ("a.less", ["("])):
        before = before_hole(Hole("a: calc( // {", "", name))
        assert [bracket for bracket, _ in before.open] == opened


@pytest.mark.parametrize(
    ("hole", "middle"),
    [
        (Hole(IN_CLASS, "\n    int z;\n};\n", "a.cpp"), "int b;\n\n  private:\n    int c;"),
        (Hole(IN_CLASS, "\n    int z;\n};\n", "a.h"), "int b;\n  public slots:  // of Qt\n    void c();"),
        (Hole(IN_CLASS, "\n    int z;\n};\n"), "int b;\n  private:\n    int c;"),
        (Hole("int f(int a) {\n    ", "\n    return a;\n}\n", "a.c"), "if (!a) goto out;\nout:\n    g();"),
        (
            Hole("switch (a) {\n  case 1:\n    ", "", "a.c"),
            "b();\n    break;\n  case 2:\n    c();\n  default:\n    d();",
        ),
        (Hole("switch (a) {\n  case 1:\n    ", "", "a.js"), "b()\n    break\n  case 2: {\n    c()"),
    ],
)
def test_labels_leave_no_block(hole, middle):
    assert by_the_rules(middle, hole) == (middle, None)


@pytest.mark.parametrize("name", ["a.py", "", "a.yaml"])
def test_where_blocks_are_indented_a_colon_makes_no_label(name):
    middle = "b()\n    else:\n        c()"
    hole = Hole("if a:\n    if b:\n        ", "\n        d()\n", name)
    assert by_the_rules(middle, hole) == ("b()", "leaves the block")


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("a.sh", "a=$((1<<N))"),
        ("a.sh", "((a = (b + 1) <<N))"),
        ("a.sh", 'read a <<<"ABC"'),
        ("a.sh", "read a <<<ABC"),
        ("a.rb", "a = 1<<N"),
        ("a.rb", "a = f(b)<<N"),
        ("a.pl", "$a = $b[0]<<N;"),
        ("a.php", "$a = 1<<N;"),
    ],
)
def test_what_is_no_heredoc_hides_nothing(name, line):
    before = before_hole(Hole(f"{line}\n{{\n", "", name))
    assert (before.inside, before.awaited, len(before.open)) == (None, "", 1)


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("a.sh", "cat <<EOF"),
        ("a.sh", "cat<<EOF"),
        ("a.sh", "cat << 'EOF' > a"),
        ("a.sh", "cat <<-\\EOF"),
        ("a.sh", "echo $((1 + 2)) <<EOF"),
        ("a.rb", "a = <<~EOF"),
        ("a.rb", "f(<<-EOF, {b: 1})"),
        ("a.pl", 'print <<"EOF";'),
        ("a.php", "$a = <<<EOF"),
        ("a.php", "$a = <<<'EOF'"),
    ],
)
def test_a_heredoc_hides_what_is_in_it(name, line):
    before = before_hole(Hole(f"{line}\n{{ [\n", "", name))
    assert before.inside is not None
    assert before.inside.is_long
    assert before_hole(Hole(f"{line}\n{{ [\nEOF\n{{\n", "", name)).open[0][0] == "{"
    assert len(before_hole(Hole(f"{line}\n{{ [\nEOF\n{{\n", "", name)).open) == 1


def test_a_line_in_which_no_regular_expression_ends_is_read_once(monkeypatch):
    """Each look for the end goes through the rest of the line: all of them would take the square of its length."""
    looks = []

    class Counted:
        def match(self, *args):
            looks.append(args)
            return REGEX.match(*args)

    monkeypatch.setattr(brackets, "REGEX", Counted())
    reader = Brackets(syntax_of("a.js"))
    text = "x =/[" * 4 + "\n" + "y = /[)]/ (\n"
    reader.read(text)
    assert len(looks) == 2
    assert [at for bracket, at in reader.open if bracket == "("] == [text.index("(")]
    assert not reader.unmatched


@pytest.mark.parametrize("piece", ["=/[", "=/[\\", "(", "\"'", "((", "<<A\n", "'", "{\n"])
@pytest.mark.parametrize("name", ["a.js", "a.py", "a.sh", ""])
def test_dense_text_is_read_as_far_as_it_has_marks(piece, name, monkeypatch):
    """The time of the rules goes with the marks, so these are counted, not the seconds."""
    taken = []
    take = Brackets._take
    monkeypatch.setattr(Brackets, "_take", lambda self, *args: taken.append(1) or take(self, *args))
    text = (piece * NEAR)[:NEAR]
    hole = Hole(text, "\n" + text, name).near()
    before_hole.cache_clear()
    duty.cache_clear()
    duty(hole)
    assert len(taken) <= 2 * MOST_MARKS + text.count("\n")


def test_text_of_many_marks_is_judged_by_what_is_near():
    prefix = "x = [\n" + "    ((1), [2], {}),\n" * 180
    hole = Hole("}\n" + prefix + "    (", "),\n" + prefix[6:] + "]\n", "a.py")
    assert by_the_rules("3)", hole) == ("3", "closed after the hole")
    assert by_the_rules("f(3)", hole) == ("f(3)", None)
    assert not before_hole(hole.near()).is_whole


def test_what_is_before_a_hole_cannot_be_changed():
    before = before_hole(Hole("f(", ")\n", "a.py"))
    with pytest.raises(FrozenInstanceError):
        before.awaited = "EOF"
    assert isinstance(before.open, tuple)
    before.goes_on().read("[[[")
    assert before_hole(Hole("f(", ")\n", "a.py")).open == (("(", 1),)


def test_every_ending_can_be_one():
    endings = " ".join([*MARKS.values(), *SPECIAL]).split()
    assert not [ending for ending in endings if "." in ending or ending != ending.lower()]
    listed = " ".join(MARKS.values()).split()
    assert len(listed) == len(set(listed))


def test_comments_of_prose():
    assert path_comment("docs/a.rst") == ".. docs/a.rst\n"
    assert path_comment("docs/a.md") == "<!-- docs/a.md -->\n"
    assert path_comment("docs/a.adoc") == "// docs/a.adoc\n"
    assert mark_of("a.pl.in") is None
