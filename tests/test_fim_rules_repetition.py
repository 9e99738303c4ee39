"""What may repeat itself in a middle, and what runs away."""

import pytest

from coderv2_local.fim.fill import by_the_rules
from coderv2_local.fim.hole import Hole
from coderv2_local.fim.repetition import repeated_lines, repeated_piece
from coderv2_local.fim.stops import Watch

FUNCTION = Hole("def f(a):\n    ", "\n    return a\n", "a.py")
C_ARRAY = Hole("static const int a[] = {\n    ", "\n};\n", "a.c")
PAGE = Hole("# Title\n\n", "\n\nmore\n", "README.md")
RST = Hole("Title\n\n", "\n\nmore\n", "a.rst")

RIGHT = [
    # rulers and tables
    (FUNCTION, "# " + "- " * 38 + "-"),
    (FUNCTION, "# " + "-=" * 38),
    (FUNCTION, "# " + "- " * 200 + "-"),
    (FUNCTION, "a = 1  # " + "=-" * 150),
    (C_ARRAY, "/* " + "* " * 150 + "*/\n    1,"),
    (PAGE, "| a | b | c | d | e | f | g | h |\n" + "| --- " * 8 + "|"),
    (PAGE, "| --- " * 60 + "|"),
    (RST, "===== " * 12 + "====="),
    (FUNCTION, '"""Table.\n\n    ' + "===== " * 12 + '=====\n    """'),
    # numbers, whose letters are none, and other short values
    (C_ARRAY, "0, " * 17 + "0"),
    (C_ARRAY, "0, " * 60 + "0"),
    (C_ARRAY, "0x00, " * 16),
    (C_ARRAY, "1.0f, " * 16),
    (C_ARRAY, '"' + "\\x00" * 24 + '"'),
    (C_ARRAY, "NULL, " * 10),
    (C_ARRAY, "nullptr, " * 6),
    (Hole("a,b,c\n", "\n", "a.csv"), "0,0," * 40),
    # lines
    (Hole("zeros = [\n    ", "\n]\n", "a.py"), "[0, 0, 0],\n    [0, 0, 0],\n    [0, 0, 0],"),
    (Hole("zeros = [\n    ", "\n]\n", "a.py"), ",\n    ".join(["[" + ", ".join("00000000") + "]"] * 8)),
    (C_ARRAY, "\n    ".join(["0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,"] * 16)),
    (FUNCTION, "a.pop()\n    a.pop()\n    a.pop()"),
    (FUNCTION, "pop()\n    pop()\n    pop()\n    pop()"),
    (Hole("<tr>\n", "\n</tr>\n", "a.html"), "<td></td>\n" * 3 + "<td></td>"),
]


@pytest.mark.parametrize(("hole", "middle"), RIGHT)
def test_what_rightly_repeats_itself_is_kept(hole, middle):
    assert by_the_rules(middle, hole) == (middle.rstrip(), None)


RUNAWAY = [
    (FUNCTION, "f(" + "self, " * 20, "f(self,"),
    (FUNCTION, "# " + "the same as " * 10, "# the same as"),  # words run away in comments, too
    (FUNCTION, 'f("a", ' + '"b", ' * 20, 'f("a", "b'),
    (PAGE, "and " + "so on " * 20, "and so on"),
    (C_ARRAY, "0, " * 100, "0,"),
    (FUNCTION, "# " + "- " * 120 + "-\n    f(" + "self, " * 20, "# " + "- " * 120 + "-\n    f(self,"),
    (C_ARRAY, "0x00, " * 50, "0x00,"),
    (FUNCTION, "x = a" + " == 0 == 1" * 30, "x = a == 0 == 1"),
    (FUNCTION, "a.pop()\n" + "    a.pop()\n" * 9, "a.pop()"),
    (FUNCTION, "b = 1\n" + "    assert result.summary() == expected_summary\n" * 9, None),
    (FUNCTION, "b = 1\n" + "    a.append(b)\n    b.append(a)\n" * 9, "b = 1\n    a.append(b)\n    b.append(a)"),
    (C_ARRAY, "0, 0, 0,\n    " * 40, "0, 0, 0,"),
]


@pytest.mark.parametrize(("hole", "middle", "kept"), RUNAWAY)
def test_what_runs_away_is_kept_once(hole, middle, kept):
    kept = kept or "b = 1\n    assert result.summary() == expected_summary"
    assert by_the_rules(middle, hole) == (kept, "runs away")


@pytest.mark.parametrize(
    ("repeated", "characters"),
    [
        ("    self.size += 1\n", 100),
        ("    assert result.summary() == expected_summary\n", 144),
        ("self, ", 82),
        ("the same as ", 90),
        ("0, ", 220),
    ],
)
def test_a_model_that_has_lost_its_way_is_stopped_soon(repeated, characters):
    watch = Watch(Hole("def f(a):\n", "\n", "a.py"))
    read = 0
    while not watch.feed(repeated[read % len(repeated)]):
        read += 1
        assert read <= characters


def test_a_longer_piece_may_have_words():
    """Where the shortest piece at the end is a ruler, nothing else is looked for."""
    assert repeated_piece("a" + "word - " * 20).has_words
    assert repeated_piece("word " + "- " * 60) is None


def test_blocks_of_lines_count_as_a_whole():
    assert repeated_lines(["a", "b"]) == 0
    assert repeated_lines(["", "", ""]) == 0
    assert repeated_lines(["}"] * 30) == 0
    assert repeated_lines(["value"] * 4) == 0
    assert repeated_lines(["value"] * 5) == 4
    assert repeated_lines(["a long line of " + "text" * 7] * 3) == 2
    assert repeated_lines([f"a line {n} of eight that are said again" for n in range(8)] * 3) == 16
    assert repeated_lines([f"a line {n} of nine that are said again" for n in range(9)] * 3) == 0
    assert repeated_lines(["0, 0,"] * 16) == 0
    assert repeated_lines(["0, 0,"] * 17) == 16
