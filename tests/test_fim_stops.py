"""The rules that end a middle: each on its own, and what none of them may do."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coderv2_local.fim.fill import by_the_rules
from coderv2_local.fim.hole import Hole
from coderv2_local.fim.stops import RULES, Watch, end_of
from coderv2_local.fim.trims import TRIMS

IN_FUNCTION = Hole("def f(a):\n    ", "\n    return a\n")
C_FUNCTION = Hole("int f(int a) {\n  ", "\n}\n")
CUT_IN_DOCSTRING = Hole("x\n" * 6000 + '"""\nclass A:\n    def f(self):\n        ', "\n", "a.py")

ENDS = [
    ("line", Hole("f(", ")\n"), "a, b\nmore", "a, b"),
    ("line", Hole("x = ", " + 1\n"), "a[\n0]", "a["),
    ("repeats what follows", IN_FUNCTION, "a += 1\n    return a\n", "a += 1\n"),
    ("repeats what follows", Hole("def f(a):\n", "\n    return a\n"), "    return a\n", ""),
    ("repeats what follows", Hole("a\n", "\n\n# http://x.org\nb\n"), "c\n# http://x.org\n", "c\n"),
    ("leaves the block", IN_FUNCTION, "a += 1\n\ndef g(b):\n", "a += 1\n\n"),
    ("leaves the block", Hole("class A:\n    def f(self):\n        ", "\n"), "pass\n    def g(self):\n", "pass\n"),
    ("leaves the block", Hole("def f(a):\n    ", "\n\n\ndef g():\n"), "pass\n\n\ndef h():\n", "pass\n\n\n"),
    ("leaves the block", Hole("def f():", "\n"), "\n    return 1\n\n\ndef g():\n", "\n    return 1\n\n\n"),
    ("leaves the block", Hole("if a:", "\n"), "\n    b()\nelse:\n    c()\nd()\n", "\n    b()\nelse:\n    c()\n"),
    ("leaves the block", IN_FUNCTION, "b = a\n\n# the next\n# one\nclass B:\n", "b = a\n\n"),
    ("leaves the block", Hole("\tif a {\n\t\t", "\n"), "b()\n\tc()\n", "b()\n"),
    ("runs away", IN_FUNCTION, "add(1)\n" + "    add(1)\n" * 4, "add(1)\n"),
    ("runs away", IN_FUNCTION, "x()\n" + "    add(1)\n    pop(2)\n" * 5, "x()\n    add(1)\n    pop(2)\n"),
    ("runs away", IN_FUNCTION, "f(" + "b, " * 30, "f(b, "),
    ("runs away", IN_FUNCTION, "a = 1\n    f(" + "b, " * 30, "a = 1\n    f(b, "),
    ("closed after the hole", Hole("f(", "\n)\n"), "a, b)\n", "a, b"),
    ("closed after the hole", Hole("f(g(", ")\n"), "a))\n", "a)"),
    ("closed after the hole", C_FUNCTION, "g(a);\n}\n", "g(a);\n"),
    ("closed after the hole", C_FUNCTION, "if (a) {\n    g('}');\n  }\n}\n", "if (a) {\n    g('}');\n  }\n"),
    ("closed after the hole", Hole("int b = 1;\n" * 5000 + "f(", "\n);\n}}"), "a, b)\n", "a, b"),
    ("closed after the hole", Hole("int b = 1;\n" * 5000, "\n}\n"), "f();\n}\n", "f();\n"),
    ("closed after the hole", Hole("x = {\n  a: 1, # {\n  ", "\n}\n", "a.py"), "b: 2 # {\n}\n", "b: 2 # {\n"),
    ("closed after the hole", Hole("f() {\n  g(`", "\n}\n", "a.js"), "a`)\n}\n", "a`)\n"),
    ("leaves the block", IN_FUNCTION, 's = """\nleft\n"""\nclass B:\n', 's = """\nleft\n"""\n'),
    ("leaves the block", Hole('def f():\n    """Do', "\n"), ' it."""\n    a()\ndef g():\n', ' it."""\n    a()\n'),
    ("leaves the block", CUT_IN_DOCSTRING, "a()\nb()\n", "a()\n"),
    ("brackets closed", Hole("int f(int a) {\n  ", ""), "g(a);\n}\n\nint h() {\n", "g(a);\n}"),
    ("brackets closed", Hole("x = [\n    ", "\n\ny = 1\n"), "1,\n    2,\n]\nz = 2\n", "1,\n    2,\n]"),
]

GOES_ON = [
    (Hole("f(", "\n"), "a,\n  b)"),
    (Hole("f(", "  \nx"), "a,\n  b)"),
    (IN_FUNCTION, "a += 1\n    return a + 1\n"),
    (Hole("if (a) {\n  b();\n", "\n"), "  c();\n}"),
    (Hole("x = [\n    ", "\n"), "1,\n    2,\n]"),
    (Hole("def f():\n", "\n    return 1\n"), "    a = 1\n    b = 2\n"),
    (Hole("def f():\n    if a:\n        b()\n", "\n    return\n"), "    c()\n"),
    (Hole("{ {\n{{\n{", "\nb\n"), "c\n}\n}\n}\n"),
    (Hole("f(", ")\n"), "a) + g(b"),
    (IN_FUNCTION, "# " + "-" * 300),
    (Hole("def f(a):\n    if a:\n        ", "\n\n\ndef g():\n"), "b()\n    c()\n    d()"),
    (Hole("a = 1\n", "\ndef g():\n"), "b = 1\ndef f():\n    pass\n\nc = 2"),
    (IN_FUNCTION, "a = 1\n# at the left edge\n    b = 2\n"),
    (IN_FUNCTION, "a = 1\n#ifdef X\n    b = 2\n#endif\n"),
    (Hole('print("(', '")\n'), "a) b) c)"),  # within a string nothing is known of brackets
    (Hole("f(g(", ")\n"), "x)"),
    (Hole("if (a) {", "\n}\n"), "\n  b();\n} else {\n  c();\n"),
    (Hole("f(\n", "\n}\n"), "a)"),
    (Hole("def f(\n    a,\n", "\n"), "    b,\n) -> int:\n    return a"),
    (Hole("f(]\n", "\n}}\n"), "a)\n"),  # brackets that do not match say nothing
    # nothing after the hole closes it
    (IN_FUNCTION, "# 1) check the input\n    b = 2\n    return b"),
    (IN_FUNCTION, "b = 2  # :)\n    c = 3"),
    (Hole("x = 1\n", "\ny = 2\n"), "1) first\n2) second"),
    (Hole("case $1 in\n  ", "\n  b) echo b;;\nesac\n"), "a) echo a;;\n  c) echo c;;"),
    (Hole("(\n  case $1 in\n  ", "\n  esac\n)\n", "run.sh"), "a) echo a;;\n  c) echo c;;"),
    (Hole("- (see\n", "\n2) second)\n", "a.md"), "1) first\n"),
    # in comments and strings
    (C_FUNCTION, "// a) first\n  g(a);"),
    (C_FUNCTION, "g(a); // done }\n  h(a);"),
    (C_FUNCTION, "/* } */ g(a);\n  h(a);"),
    (C_FUNCTION, "/* }\n} */ g(a);\n  h(a);"),
    (Hole("int f(int a) {\n  g(a); // ", "\n}\n", "a.c"), "done }\n  h(a);"),
    (Hole("int f(int a) {\n  /* ", "\n  } */\n}\n", "a.c"), "done }\n  g()"),
    (Hole("int f(int a) {\n  ", "\n}\n", "a.c"), "g('}'); // }\n  h(a);"),
    (Hole("fn f<'a>(x: &'a str) {\n    ", "\n}\n", "a.rs"), "g('}', x); // }\n    h::<'a>(x);"),
    (Hole("function f() {\n  ", "\n}\n", "a.js"), "const r = /[)}]/\n  return r"),
    (Hole("function f() {\n  const r = ", "\n}\n"), "/[}\\/]}/g\n  return r"),
    (Hole("function f() {\n  ", "\n}\n", "a.ts"), "const t = `\n}\n`\n  return t"),
    (Hole("x = {\n    ", "\n}\n", "a.py"), "1: 2,  # }\n    3: 4,"),
    (Hole("{\n  ", "\n}\n", "a.lua"), "a = 1, -- }\n  b = 2,"),
    (Hole("(f\n  ", "\n)\n", "a.el"), "; a)\n  b"),
    (Hole("f() {\n  ", "\n}\n", "run.sh"), "cat <<EOF\n}\nat the left\nEOF\n  echo a"),
    (Hole("a {\n  ", "\n}\n", "a.css"), "/* } */\n  color: red;"),
    # text in a string is indented as it likes
    (IN_FUNCTION, 's = """\ntext at the left\nmore\n"""\n    return s'),
    (Hole('def f():\n    """Do it.\n\n    ', '\n    """\n', "a.py"), "Like so:\n\ntext at the left\n\n    and so on"),
    (Hole("def f():\n    '''Do it.\n    ", "\n"), "Like so:\ntext at the left\n    '''\n    a()"),
    (Hole("  f(`", "\n", "a.js"), "\ntext at the left\n`)\n  g()"),
    (Hole("  /* ", "\n  b;\n", "a.c"), "why\nat the left\n*/\n  g();"),
    (Hole('#!/bin/sh\nf() {\n  echo "', "\n}\n"), 'one\ntwo"\n  g'),
    # a prefix that is cut within a docstring: the next quotation marks end it
    (CUT_IN_DOCSTRING, 's = """\nleft\n"""\n        a()'),
]


@pytest.mark.parametrize(("rule", "hole", "middle", "expected"), ENDS)
def test_a_rule_ends_a_middle(rule, hole, middle, expected):
    end = end_of(middle, hole)
    assert end is not None
    assert (middle[: end.at], end.rule) == (expected, rule)


def test_every_rule_is_tested():
    assert {rule for rule, *_ in ENDS} == set(RULES)
    assert set(TRIMS) == {"code block", "line written again", "repeated rest of the line", "blank end"}


@pytest.mark.parametrize(("hole", "middle"), GOES_ON)
def test_what_is_right_as_it_is_goes_on(hole, middle):
    end = end_of(middle, hole)
    assert end is None or end.at >= len(middle)


@pytest.mark.parametrize(
    "middle",
    [
        "a = 'http://x.org'  # see // there\n    b = a",
        "return 1  # done",
        "x //= 2\n    y = 1",
        "// a comment\n    f(); // another\n    /* and */ g()",
        "# https://example.org/a/b?c=d#e\n    u = 'https://example.org'\n    -- x",
        "s = '''\n    http://x // # '''",
    ],
)
@pytest.mark.parametrize("hole", [IN_FUNCTION, Hole("x = 1\n", "\ny = 2\n"), C_FUNCTION])
def test_comments_and_urls_end_nothing(middle, hole):
    assert end_of(middle + "\n", hole) is None
    assert by_the_rules(middle, hole) == (middle, None)


@pytest.mark.parametrize(
    ("hole", "middle", "expected"),
    [
        (Hole("f(", ")\n"), "a, b)", "a, b"),
        (Hole("f(g(", ")\n"), "x)", "x)"),
        (Hole("x = f(", ");\n"), "a);", "a"),
        (Hole('print("', '")\n'), 'hello")', "hello"),
        (Hole('a = "', '"\n'), 'b"', "b"),
        (Hole("a = b", ";\n"), " + c;", " + c"),
        (Hole("def f(", ") -> int:\n"), "a) -> int:", "a"),
        (Hole("a = b", " + 1\n"), " * 2 + 1", " * 2"),
        (Hole("a = x", " + 1\n"), " + 11", " + 11"),
        (Hole("a = [", "]\n"), "b[0]", "b[0]"),
        (Hole("))) f(", ")\n"), "a)", "a"),  # brackets elsewhere do not match: the line decides
        (Hole("a) ec", ")\n", "a.sh"), "ho $(b)", "ho $(b"),  # in these languages they need not be in pairs
        (Hole("# a (b", ")\n", "a.py"), " c)", " c"),
        (Hole("f(er", "=e)\ng(h)\n"), "r=e)", "r"),  # the rest as a whole, not its bracket alone
        (Hole("a = 1", "\nb\n"), "  \n\n", ""),
        (Hole("a = 1", "\nb\n"), " + 2  \n", " + 2"),
        (Hole("a = 1\n", ""), "b = 2\n\n\n", "b = 2\n"),
        (Hole("a = ", "  # why\n"), "1 ", "1 "),
        (Hole("a = 1\n", "\nb\n"), "```python\nc = 2\nd = 3\n```\nThis adds c.", "c = 2\nd = 3"),
        (Hole("a = 1\n", "\nb\n"), "```\nc = 2", "c = 2"),
        (Hole("# Title\n```sh\nls\n```\n", "\nb\n"), "```py\nc = 2\n```", "```py\nc = 2\n```"),
        (Hole("    self.total = ", "\n"), "self.total = a\n    b()", "a\n    b()"),
        (Hole("    self.total = ", " + 1\n"), "    self.total = a", "a"),
        (Hole("    return t", "\n"), "turn total", "otal"),
        (Hole("    return t", "\n"), "eturns", "eturns"),
        (Hole("    node.next", "\n"), ".next = a", ".next = a"),  # right: the line was not begun again
        (Hole("    add(", "\n"), "add(1, 2), 3)", "add(1, 2), 3)"),  # right, too: one word can stand there twice
        (Hole("    true, false, ", "\n"), "true, false, true,", "true, false, true,"),
        (Hole('"""\n', '\n"""\n'), "x\n```\ny\n```", "x\n```\ny\n```"),
    ],
)
def test_what_is_taken_off(hole, middle, expected):
    assert by_the_rules(middle, hole)[0] == expected


texts = st.text("ab {}()[]\n\t #'\"\\/:-", max_size=120)


@given(texts, texts, texts, st.lists(st.integers(1, 7), max_size=60))
def test_an_end_does_not_depend_on_how_the_text_is_cut(middle, prefix, suffix, sizes):
    hole = Hole(prefix, suffix)
    watch, at, end = Watch(hole), 0, None
    for size in sizes:
        if end is None:
            end = watch.feed(middle[at : at + size])
            at += size
    end = end or watch.feed(middle[at:]) or watch.finish()
    assert end == end_of(middle, hole)
    assert end is None or 0 <= end.at <= len(middle)


@given(texts, texts, texts)
def test_an_end_stays_as_the_middle_grows(middle, prefix, suffix):
    watch = Watch(Hole(prefix, suffix))
    found = watch.feed(middle)
    if found:
        longer = Watch(Hole(prefix, suffix))
        assert longer.feed(middle + "\nbbb") == found


@given(texts, texts, texts)
def test_what_is_kept_was_written(middle, prefix, suffix):
    assert by_the_rules(middle, Hole(prefix, suffix))[0].rstrip() in middle


def test_the_rule_that_ends_first_wins():
    end = end_of("a = 1\n    return a\nlast\n", IN_FUNCTION)
    assert (end.at, end.rule) == (6, "repeats what follows")
