"""What the conversation's commands do and say, without a terminal."""

import io
from dataclasses import replace

import pytest
from rich.console import Console

from cli.begin import begin
from cli.chat_commands import obey
from cli.chat_wishes import Wishes
from cli.repl import Repl
from coderv2_local.models import TINY, find_model
from coderv2_local.preferences import Preferences
from coderv2_local.sessions.store import Sessions
from quant.errors import InputError

REQUEST = "Write a Python function `is_even`: Return True if a number is even"


@pytest.fixture
def wishes(tmp_path, monkeypatch):
    monkeypatch.setenv("CODER_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.py").write_text("x = 1\n" * 20)
    return Wishes(Preferences({"chat.system": "Be brief."}), server=False, context=512, threads=1, max_tokens=20)


@pytest.fixture
def repl(wishes, tmp_path):
    model, sessions = find_model(TINY), Sessions(tmp_path / "sessions")
    screens = [Console(file=io.StringIO(), width=100) for _ in range(2)]
    made = Repl(
        wishes.conversation(model),
        model,
        sessions.new(),
        sessions,
        wishes=wishes,
        screen=screens[0],
        answers=screens[1],
    )
    yield made
    made.close()


def said(repl, line):
    """What the screen shows after a line."""
    before = len(repl.screen.file.getvalue())
    repl._take(line)
    return repl.screen.file.getvalue()[before:]


def test_what_was_set_by_hand_stays_with_another_model(repl):
    assert repl.conversation.options.temperature == 0
    obey(repl, "/set temperature 0.9")
    obey(repl, "/model tiny")
    assert repl.conversation.options.temperature == 0.9
    assert repl.conversation.options.repeat_penalty == 1.2


@pytest.mark.parametrize("nothing", ['""', "''"])
def test_the_system_prompt_can_be_removed(repl, nothing):
    repl.conversation.set_system("Be brief.")
    assert "removed" in said(repl, f"/system {nothing}")
    assert repl.conversation.system == ""
    assert "there is no system prompt" in said(repl, "/system")


def test_an_empty_system_prompt_on_the_command_line_is_none(wishes, monkeypatch):
    begun = []
    monkeypatch.setattr(Repl, "run", lambda self: (begun.append(self.conversation.system), self.close()))
    for system in (None, "", "Be long."):
        begin(replace(wishes, system=system), TINY, [], resume=False, session=None)
    assert begun == ["Be brief.", "", "Be long."]


def test_going_on_with_a_complete_answer_says_so(repl):
    repl.conversation.max_tokens = 200
    said(repl, REQUEST)
    answer = repl.conversation.turns[-1].answer
    assert "the answer was complete: the model adds nothing" in said(repl, "/continue")
    assert repl.conversation.turns[-1].answer == answer


def test_tokens_add_up_with_a_file_that_waits_and_one_that_changed(repl, tmp_path):
    def check(*parts):
        shown = [line.rsplit(None, 1) for line in said(repl, "/tokens").splitlines()]
        found = [(name.strip(), int(n)) for name, n in shown]
        rows = [name for name, _ in found]
        at = rows.index("all, laid out")
        assert rows[:at] == [*parts, "signs between them"]
        assert 0 < found[at - 1][1] <= 15 * len(parts)
        assert sum(n for _, n in found[:at]) == found[at][1] == repl.conversation.used()
        assert sum(n for _, n in found[at:]) == repl.conversation.backend.n_ctx
        return rows[at:]

    rest = ["all, laid out", "free for questions", "held free for an answer"]
    repl._take("/add a.py")
    assert check("turns (0)") == [rest[0], "a.py, goes with the next question", *rest[1:]]
    repl._take("Hi")
    assert check("a.py", "turns (1)") == rest
    (tmp_path / "a.py").write_text("x = 2\n")
    repl._take("Hi")
    assert check("a.py", "a.py", "turns (2)") == rest


def test_a_context_from_the_settings_is_named_by_its_setting(wishes):
    asked = replace(wishes, context=None, settings=Preferences({"chat.context": 999_999}))
    with pytest.raises(InputError) as caught:
        asked.load(find_model(TINY))
    assert caught.value.message.startswith("chat.context: a context of 999999 tokens")
    assert caught.value.hint == "`coder config chat.context 2048` or less"
    with pytest.raises(InputError) as caught:
        replace(asked, context=999_999).load(find_model(TINY))
    assert caught.value.hint == "--ctx 2048 or less"
