"""Evaluation: holes by seed, measures against plain definitions, both figures from one answer."""

import difflib
import json
from functools import lru_cache

import pytest
from conftest import assert_refused
from hypothesis import given
from hypothesis import strategies as st

from coderv2_local.backend import Generation
from coderv2_local.evaluation.documents import Document, read_documents
from coderv2_local.evaluation.holes import KINDS, draw_holes
from coderv2_local.evaluation.infilling import Score, evaluate, figures
from coderv2_local.evaluation.measures import common_subsequence, edit_similarity, exact_match, parses
from quant.errors import InputError

TEXT = "".join(f"def function_{n}(a, b):\n    total = a + {n}\n    return total * b\n\n\n" for n in range(6))
DOCUMENTS = [Document(f"{n}.py", "Python", TEXT.replace("total", f"sum_{n}")) for n in range(4)]


@lru_cache
def slow_subsequence(a, b):
    if not a or not b:
        return 0
    if a[-1] == b[-1]:
        return slow_subsequence(a[:-1], b[:-1]) + 1
    return max(slow_subsequence(a[:-1], b), slow_subsequence(a, b[:-1]))


@given(st.text("abc ", max_size=12), st.text("abc ", max_size=12))
def test_the_common_subsequence_is_the_longest(a, b):
    assert common_subsequence(a, b) == slow_subsequence(a, b) == common_subsequence(b, a)


@given(st.text("abc \n", max_size=60), st.text("abc \n", max_size=60))
def test_similarity_lies_between_0_and_1_and_is_1_for_equals_alone(a, b):
    assert 0 <= edit_similarity(a, b) <= 1
    assert (edit_similarity(a, b) == 1) == exact_match(a, b)
    blocks = difflib.SequenceMatcher(None, a.strip(), b.strip(), autojunk=False).get_matching_blocks()
    assert common_subsequence(a.strip(), b.strip()) >= sum(block.size for block in blocks)


def test_what_parses():
    assert parses("x = 1\n")
    assert not parses("x = \n")
    assert not parses("(" * 5000)
    assert not parses("a\0b")
    assert parses("x = '\\d'\n")  # a warning, not an error


@pytest.mark.parametrize("kind", KINDS)
def test_holes_follow_from_the_seed(kind):
    found = draw_holes(DOCUMENTS, kind, 20, seed=1)
    assert found == draw_holes(DOCUMENTS, kind, 20, seed=1)
    assert found != draw_holes(DOCUMENTS, kind, 20, seed=2)
    assert len(found) == len({(s.document.name, s.start, s.end) for s in found}) == 20
    assert {s.document.name for s in found} == {d.name for d in DOCUMENTS}
    for sample in found:
        assert sample.hole.prefix + sample.middle + sample.hole.suffix == sample.document.text
        assert sample.middle.strip()


def test_holes_are_of_their_kind():
    for sample in draw_holes(DOCUMENTS, "line", 30, 0):
        assert sample.hole.prefix.endswith("\n")
        assert sample.hole.suffix.startswith("\n")
        assert "\n" not in sample.middle
    for sample in draw_holes(DOCUMENTS, "rest", 30, 0):
        assert sample.hole.line_before.strip()
        assert sample.hole.suffix.startswith("\n")
        assert "\n" not in sample.middle
    for sample in draw_holes(DOCUMENTS, "within", 30, 0):
        assert sample.hole.line_before.strip()
        assert sample.hole.is_within_line
        assert "\n" not in sample.middle
    for sample in draw_holes(DOCUMENTS, "lines", 30, 0):
        assert 1 <= sample.middle.count("\n") <= 5
        assert sample.hole.suffix.startswith("\n")
    assert all(len(s.middle) <= 200 for s in draw_holes(DOCUMENTS, "span", 30, 0))


def test_short_documents_give_the_holes_there_are():
    assert draw_holes([Document("a.py", "Python", "x\n")], "line", 5, 0) == []
    assert len(draw_holes([Document("a.py", "Python", "x\nlonger\n")], "line", 5, 0)) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_is_not_dropped_for_one_unlucky_draw(kind):
    """In this document half of the lines have no block of several lines after them, and little to cut a part out of."""
    short = Document("a.py", "Python", "x\na  +  b\nvalue = 1\n\n\n")
    for seed in range(40):
        assert draw_holes([short], kind, 3, seed), seed


@pytest.mark.parametrize("kind", KINDS)
def test_one_document_gives_as_many_holes_as_are_asked_for(kind):
    assert len(draw_holes(DOCUMENTS[:1], kind, 12, 0)) == 12
    assert len(draw_holes([Document("a.py", "Python", TEXT * 10)], kind, 60, 0)) == 60


def test_an_empty_answer_does_not_parse():
    """It leaves a file that parses, so a model that says nothing would do best."""
    sample = next(s for s in draw_holes(DOCUMENTS, "line", 20, 0) if "total" not in s.middle and "sum" in s.middle)

    class Says:
        n_ctx, name = 2048, "says"
        text = ""

        def count(self, text):
            return len(text)

        def infill(self, prefix, suffix, sampling, max_tokens, on_progress=None):
            return Generation(iter([self.text]))

    backend = Says()
    whole = sample.hole.prefix + sample.hole.suffix
    for answer, expected in (("", False), ("\n  \n", False), (sample.middle, True), ("    x = (", False)):
        backend.text = answer
        (outcome,) = evaluate([sample], backend, 4)
        assert outcome.raw_score.parses is expected, (answer, whole)


def test_documents_are_the_source_files_of_a_folder(tmp_path):
    for name, data in {
        "b/x.rs": b"fn main() {\r\n}\r\n",
        "a.py": b"x = 1\n",
        "README.md": b"# no code\n",
        "blob.py": b"\0\1\2",
        ".hidden/y.py": b"y = 1\n",
        "node_modules/z.js": b"let z\n",
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(data)
    assert [(d.name, d.language, d.text) for d in read_documents([tmp_path])] == [
        ("a.py", "Python", "x = 1\n"),
        ("b/x.rs", "Rust", "fn main() {\n}\n"),
    ]
    with pytest.raises(InputError, match="no source file"):
        read_documents([tmp_path / "README.md"])
    with pytest.raises(InputError, match="no such"):
        read_documents([tmp_path / "missing"])


def test_files_of_the_same_name_in_two_folders_are_two(tiny, tmp_path):
    for folder, text in (("a", TEXT), ("b", "def broken(:\n    total = 1\n" * 4)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "same.py").write_text(text)
    documents = read_documents([tmp_path / "a", tmp_path / "b"])
    assert [d.name for d in documents] == ["same.py", "same.py"]
    outcomes = list(evaluate(draw_holes(documents, "line", 4, 0), tiny, 4))
    assert {o.sample.document.text == TEXT: o.score.parses is None for o in outcomes} == {True: False, False: True}
    twins = [Document("same.py", "Python", "a\nlonger\n")] * 2
    assert len(draw_holes(twins, "line", 9, 0)) == 2


def test_each_hole_is_filled_once_and_judged_twice(tiny):
    samples = draw_holes(DOCUMENTS, "rest", 4, 0)
    outcomes = list(evaluate(samples, tiny, 24))
    assert [o.sample for o in outcomes] == samples
    for outcome in outcomes:
        assert outcome.kept.rstrip() in outcome.raw
        assert outcome.score.exact == exact_match(outcome.kept, outcome.sample.middle)
        assert outcome.raw_score.exact == exact_match(outcome.raw, outcome.sample.middle)
        assert outcome.score.parses is not None
        assert outcome.tokens <= 24
        assert outcome.reason


def test_figures_are_means():
    scores = [Score(True, 1.0, True), Score(False, 0.5, False), Score(False, 0.0, None)]
    found = figures(scores)
    assert (found.holes, found.similarity, found.parses) == (3, 0.5, 0.5)
    assert found.exact == pytest.approx(1 / 3)
    assert figures([]).holes == 0


def test_the_command_prints_a_table_or_json(coder, tmp_path):
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "a.py").write_text(TEXT)
    (tmp_path / "code" / "b.js").write_text("function f(a) {\n  let b = a + 1\n  return b\n}\n" * 4)
    arguments = ["eval", "fim", "code", "--holes", "2", "-n", "8", "--kind", "line", "--kind", "span"]
    table = coder(*arguments, "--raw")
    assert table.returncode == 0, table.stderr
    for word in ("tiny: infilling", "line", "span", "raw", "exact match", "JavaScript", "Python"):
        assert word in table.stdout
    assert "rest" not in table.stdout
    reports = [json.loads(coder(*arguments, "--json").stdout) for _ in range(2)]
    for report in reports:
        assert report["kinds"]["line"]["holes"] == 2
        for group in report["kinds"].values():
            for key in list(group):
                if "seconds" in key:
                    del group[key]
    assert reports[0]["kinds"] == reports[1]["kinds"]
    assert_refused(coder("eval", "fim", "nowhere"), "nowhere", "no such")
