"""Turns, files in context, and the rule by which a conversation shrinks; every event can be replayed."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coderv2_local.engine import ContextFull
from coderv2_local.local_backend import LocalBackend
from coderv2_local.models import find_model
from coderv2_local.placement.load_options import LoadOptions
from coderv2_local.sampling.sampler import SamplingOptions
from coderv2_local.sessions.attachments import attach, changed, expand
from coderv2_local.sessions.conversation import Conversation
from quant.errors import InputError


@pytest.fixture(scope="module")
def small():
    """tiny with a context that is soon full."""
    with LocalBackend(find_model("tiny").path, LoadOptions(n_ctx=400, n_threads=1)) as backend:
        yield backend


@pytest.fixture
def journal():
    return []


@pytest.fixture
def talk(small, tmp_path, journal):
    return Conversation(small, SamplingOptions(), 24, root=tmp_path, journal=journal.append)


def answer(asked, talk, *, cut=False):
    text = "".join(asked.generation)
    talk.keep(asked.generation, text, cut=cut)
    return text


def replayed(talk, journal):
    other = Conversation(talk.backend, talk.options, talk.max_tokens, root=talk.root)
    other.replay(json.loads(json.dumps(journal)))
    return other


def test_an_answer_keeps_its_ids_so_the_next_question_evaluates_only_itself(talk, journal):
    answer(talk.ask("Write a function `a`"), talk)
    known = len(talk.backend.engine.tokens)
    asked = talk.ask("And another")
    next(asked.generation.chunks)
    assert asked.generation.reused_tokens >= known - 1
    assert replayed(talk, journal).messages() == talk.messages()


def test_ids_of_another_vocabulary_are_not_used(talk, journal):
    answer(talk.ask("Hi"), talk)
    journal[-1]["vocabulary"] = "another"
    assert replayed(talk, journal).messages()[-1].ids is None


def test_a_file_is_shown_with_the_next_question_and_again_when_it_changed(talk, tmp_path, journal):
    path = tmp_path / "a.py"
    path.write_text("x = 1\n")
    assert talk.attach(attach(path, tmp_path)) > 0
    answer(talk.ask("Read it"), talk)
    assert "`a.py`:\n```python\nx = 1\n```" in talk.messages()[0].content
    asked = talk.ask("Unchanged")
    answer(asked, talk)
    assert asked.reread == []
    path.write_text("x = 2\n")
    asked = talk.ask("Changed")
    answer(asked, talk)
    assert asked.reread == ["a.py"]
    assert "has changed" in talk.messages()[-2].content
    assert "x = 2" in talk.messages()[-2].content
    path.unlink()
    asked = talk.ask("Gone")
    assert asked.lost == ["a.py"]
    assert replayed(talk, journal).messages() == talk.messages()


def test_a_full_context_shrinks_by_the_rule_and_says_so(talk, tmp_path, journal):
    path = tmp_path / "a.py"
    path.write_text("x = 1\n")
    talk.attach(attach(path, tmp_path))
    shrunk = []
    for n in range(30):
        if n == 3:
            path.write_text("x = 22\n")
        asked = talk.ask(f"Question number {n}: write a function")
        answer(asked, talk)
        assert talk.used() <= talk.backend.n_ctx
        if asked.shrinking:
            shrunk.append(asked.shrinking)
    assert len(shrunk) >= 2
    assert shrunk[0].outdated == 1
    assert shrunk[0].turns > 0
    assert "no longer seen by the model" in str(shrunk[0]).lower()
    assert [f.text for f in talk.files] == ["x = 22\n"], "the newest version outlives the turn it came with"
    assert replayed(talk, journal).messages() == talk.messages()


def test_files_go_oldest_first_and_only_when_no_turn_is_left(talk, tmp_path):
    for name in "abc":
        (tmp_path / name).write_text(f"{name} = 1\n" * 12)
        talk.attach(attach(tmp_path / name, tmp_path))
        answer(talk.ask(f"This is {name}"), talk)
    asked = talk.ask("word " * 190)
    assert asked.shrinking.files == ("a",)
    assert [f.name for f in talk.files] == ["b", "c"]


def test_a_question_that_cannot_fit_changes_nothing(talk, journal):
    answer(talk.ask("Hi"), talk)
    before, events = talk.messages(), list(journal)
    with pytest.raises(ContextFull, match="context 400"):
        talk.ask("word " * 500)
    assert talk.messages() == before
    assert journal == events


def test_a_file_past_the_budget_is_refused_by_name(talk, tmp_path):
    (tmp_path / "big.py").write_text("value = 1\n" * 300)
    with pytest.raises(InputError, match=r"big\.py has \d+ tokens, and \d+ are free"):
        talk.attach(attach(tmp_path / "big.py", tmp_path))
    assert talk.files == []


def test_a_cut_answer_goes_on_where_it_stopped(talk, journal):
    whole = "".join(talk.ask("Write a Python function `add(a, b)`: Add two numbers").generation)
    talk.take_back()
    asked = talk.ask("Write a Python function `add(a, b)`: Add two numbers")
    first = next(asked.generation.chunks) + next(asked.generation.chunks)
    asked.generation.chunks.close()
    talk.keep(asked.generation, first, cut=True)
    rest = answer(talk.resume(), talk)
    assert (first + rest).startswith(whole)
    assert talk.turns[-1].answer == first + rest
    assert not talk.turns[-1].cut
    assert replayed(talk, journal).messages() == talk.messages()


def test_take_back_removes_the_answer_then_the_question(talk):
    answer(talk.ask("Hi"), talk)
    assert talk.take_back() == "Hi"
    assert talk.messages()[-1].role == "user"
    assert talk.take_back() is None
    assert talk.messages() == []


def test_clearing_keeps_files_and_system(talk, tmp_path):
    (tmp_path / "a.py").write_text("x = 1\n")
    talk.set_system("Be brief.")
    talk.attach(attach(tmp_path / "a.py", tmp_path))
    answer(talk.ask("Hi"), talk)
    talk.clear()
    assert [m.role for m in talk.messages()] == ["system"]
    assert [f.name for f in talk.pending] == ["a.py"]
    talk.detach("a.py")
    assert talk.files == []
    with pytest.raises(InputError, match="not in the context"):
        talk.detach("a.py")


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda p: p.mkdir(), "not a regular file"),
        (lambda p: p.write_bytes(b"\0\1"), "binary"),
        (lambda p: p.write_bytes(b"\xff\xfeabc"), "not UTF-8"),
        (lambda p: None, "no such file"),
        (lambda p: p.write_bytes(b"a" * 4_000_001), "larger than 4 MB"),
    ],
)
def test_what_is_no_text_file_is_refused_by_name(tmp_path, make, words):
    make(tmp_path / "thing")
    with pytest.raises(InputError, match=f"thing.*{words}"):
        attach(tmp_path / "thing", tmp_path)


def test_patterns_name_files(tmp_path):
    (tmp_path / "src").mkdir()
    for name in ("b.py", "a.py", "c.txt"):
        (tmp_path / "src" / name).write_text("")
    assert [p.name for p in expand("src/*.py", tmp_path)] == ["a.py", "b.py"]
    with pytest.raises(InputError, match="no file matches"):
        expand("src/*.rs", tmp_path)
    with pytest.raises(InputError, match="is a folder"):
        expand("src", tmp_path)


@settings(max_examples=60, deadline=None)
@given(st.text(st.sampled_from("`~a\n "), max_size=40))
def test_no_text_closes_its_own_fence(tmp_path_factory, text):
    path = tmp_path_factory.mktemp("f") / "x.md"
    path.write_text(text)
    block = attach(path, path.parent).block()
    lines = block.split("\n")
    fence = lines[-1]
    assert lines[1].startswith(fence)
    assert not any(line.strip().startswith(fence) for line in lines[2:-1])


def test_a_file_that_is_touched_but_equal_has_not_changed(tmp_path):
    (tmp_path / "a").write_text("x")
    old = attach(tmp_path / "a", tmp_path)
    (tmp_path / "a").write_text("x")
    assert changed([old], tmp_path) == ([], [])
