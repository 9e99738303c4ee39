"""The rules that end a middle: each on its own, and what none of them may do."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coderv2_local.fim_stops import RULES, Hole, end_of

IN_FUNCTION = Hole("def f(a):\n    ", "\n    return a\n")


def kept(middle, hole, rule):
    at = RULES[rule](middle, hole)
    return middle if at is None else middle[:at]


@pytest.mark.parametrize(
    ("rule", "hole", "middle", "expected"),
    [
        ("line", Hole("f(", ")\n"), "a, b)\nmore", "a, b)"),
        ("line", Hole("f(", "\n"), "a,\n  b)", "a,\n  b)"),
        ("line", Hole("f(", "  \nx"), "a,\n  b)", "a,\n  b)"),
        ("repeats what follows", IN_FUNCTION, "a += 1\n    return a\n", "a += 1\n"),
        ("repeats what follows", IN_FUNCTION, "a += 1\n    return a + 1\n", "a += 1\n    return a + 1\n"),
        ("repeats what follows", Hole("if (a) {\n  b();\n", "\n}\n"), "  c();\n}\n", "  c();\n}\n"),
        ("leaves the block", IN_FUNCTION, "a += 1\n\ndef g(b):\n", "a += 1\n\n"),
        ("leaves the block", Hole("class A:\n    def f(self):\n        ", "\n"), "pass\n    def g(self):\n", "pass\n"),
        ("leaves the block", Hole("x = [\n    ", "\n"), "1,\n    2,\n]\n", "1,\n    2,\n]\n"),
        (
            "leaves the block",
            Hole("def f():\n", "\n    return 1\n"),
            "    a = 1\n    b = 2\n",
            "    a = 1\n    b = 2\n",
        ),
        ("leaves the block", Hole("def f():\n    if a:\n        b()\n", "\n    return\n"), "    c()\n", "    c()\n"),
        ("runs away", IN_FUNCTION, "add(1)\nadd(1)\nadd(1)\n", "add(1)\n"),
        ("runs away", IN_FUNCTION, "}\n}\n}\n", "}\n}\n}\n"),
        ("runs away", IN_FUNCTION, "f(" + "b, " * 30, "f(b, "),
        ("runs away", IN_FUNCTION, "# " + "-" * 300, "# " + "-" * 300),
    ],
)
def test_a_rule_ends_a_middle(rule, hole, middle, expected):
    assert kept(middle, hole, rule) == expected


@pytest.mark.parametrize(
    "middle", ["a = 'http://x.org'  # see // there\n    b = a", "return 1  # done", "x //= 2\n    y = 1"]
)
def test_comments_and_urls_end_nothing(middle):
    assert end_of(middle + "\n", IN_FUNCTION) is None


@given(st.text("ab {}\n #", max_size=80), st.text("ab {}\n", max_size=20), st.text("ab {}\n", max_size=20))
def test_an_end_lies_within_the_middle_and_stays_there_as_it_grows(middle, prefix, suffix):
    hole = Hole(prefix, suffix)
    found = end_of(middle, hole)
    if found:
        assert 0 <= found[0] <= len(middle)
        later = end_of(middle + "\nbbb", hole)
        assert later
        assert later[0] <= found[0]


def test_the_rule_that_ends_first_wins():
    assert end_of("a = 1\n    return a\nlast\n", IN_FUNCTION) == (6, "repeats what follows")
