"""What the conversation makes of an answer: edits, hostile text, errors. The answers come from a scripted server."""

import os

import pytest

pytestmark = pytest.mark.skipif(os.name == "nt", reason="needs a pseudo-terminal")
if os.name != "nt":
    from remote_servers import STREAM_HEAD, ScriptedServer, events, models, says
    from terminal import Terminal

OLD = b"def add(a, b):\r\n    return a - b\r\n"
NEW = b"def add(a, b):\r\n    return a + b\r\n"
DIFF = (
    "Here:\n\n```diff\n--- a/a.py\n+++ b/a.py\n@@ -1,2 +1,2 @@\n"
    " def add(a, b):\n-    return a - b\n+    return a + b\n```\n"
)


@pytest.fixture
def work(tmp_path):
    folder = tmp_path / "work"
    folder.mkdir()
    (folder / "a.py").write_bytes(OLD)
    return folder


@pytest.fixture
def chat_with(tmp_path, work):
    """Start a conversation in which the model says what the test decides, one text an answer."""
    opened = []

    def start(*texts, **options):
        server = ScriptedServer(
            {
                "/v1/models": [models("someone", "scripted")],
                "/v1/chat/completions": [
                    [
                        STREAM_HEAD,
                        *(events(says(text[i : i + 7])) for i in range(0, len(text), 7)),
                        events(says("", "stop"), "[DONE]"),
                    ]
                    for text in texts
                ],
            }
        )
        running = server.running()
        running.__enter__()
        terminal = Terminal(
            "chat", "-m", server.address, cwd=work, home=tmp_path / "home", **{"columns": 100, "rows": 50} | options
        )
        opened.append((running, terminal))
        return terminal

    yield start
    for running, terminal in opened:
        terminal.child.close(force=True)
        running.__exit__(None, None, None)


def test_an_edit_is_shown_written_and_taken_back(chat_with, work):
    chat = chat_with(DIFF)
    assert "edits proposed: a.py" in chat.say("Mend it")
    shown = chat.say("/diff")
    assert "-    return a - b" in shown
    assert "+    return a + b" in shown
    assert (work / "a.py").read_bytes() == OLD
    assert "written: a.py" in chat.say("/apply")
    assert (work / "a.py").read_bytes() == NEW
    assert "proposes no edit" in chat.say("/apply")
    assert "restored: a.py" in chat.say("/undo")
    assert (work / "a.py").read_bytes() == OLD


def test_an_edit_is_taken_back_after_a_crash_by_the_next_program(chat_with, work):
    chat = chat_with(DIFF)
    chat.say("Mend it")
    chat.say("/apply")
    chat.child.kill(9)
    chat.wait()
    again = chat_with("Fine.")
    assert "restored: a.py" in again.say("/undo")
    assert (work / "a.py").read_bytes() == OLD


def test_a_file_that_changed_meanwhile_is_not_written(chat_with, work):
    chat = chat_with(DIFF)
    chat.say("Mend it")
    (work / "a.py").write_bytes(b"mine\n")
    assert "changed" in chat.say("/apply")
    assert (work / "a.py").read_bytes() == b"mine\n"


@pytest.mark.parametrize(
    "path", ["../../.ssh/config", "/etc/passwd", "~/.bashrc", "link/x.py", ".git/hooks/pre-commit"]
)
def test_an_edit_outside_the_folder_is_refused(chat_with, work, tmp_path, path):
    (tmp_path / "elsewhere").mkdir()
    (work / "link").symlink_to(tmp_path / "elsewhere")
    before = sorted(p for p in tmp_path.rglob("*") if "home" not in p.parts)
    chat = chat_with(f"```python {path}\nx = 1\n```\n")
    assert "an edit is refused" in chat.say("Do it")
    chat.say("/apply")
    assert sorted(p for p in tmp_path.rglob("*") if "home" not in p.parts) == before


def test_hostile_text_is_shown_safely(chat_with):
    evil = (
        "\x1b]52;c;ZXZpbA==\x07\x1b]0;title\x07\x1b[2J\x1b[31mred\u202eright to left\x9b5m [bold]markup[/bold] \x00end"
    )
    chat = chat_with(evil + "\n\n```\nunclosed \x1b[1;1H fence\n" + "long " * 2000, "Bye")
    chat.ready()
    chat.raw = ""
    shown = chat.say("Hi")
    for sequence in ("\x1b]52", "\x1b]0;", "\x1b[31mred", "\u202e", "\x9b", "\x00", "\x1b[1;1H fence"):
        assert sequence not in chat.raw
    assert "[bold]markup[/bold]" in shown
    assert "unclosed" in shown


def test_a_line_of_a_million_characters(chat_with):
    chat = chat_with("a" * 1_000_000, "Still here.")
    chat.say("Hi")
    assert "Still here." in chat.say("Are you there?")


def test_wide_characters_and_a_resize_in_the_middle(chat_with):
    text = "# 見出し\n\n" + "- 漢字とかな 🙂 and words\n" * 40
    chat = chat_with(text, columns=60)
    chat.ready()
    chat.send("Hi\r")
    chat.until("漢字")
    chat.resize(44, 50)
    chat.ready()
    assert sum("漢字とかな" in line for line in chat.lines()) >= 40


def test_a_paste_of_5000_lines_is_one_message(chat_with):
    chat = chat_with("Read.", rows=20)
    chat.ready()
    paste = "\n".join(f"line {n}" for n in range(5000))
    chat.send(f"\x1b[200~{paste}\x1b[201~")
    chat.until("line 4999")
    chat.send("\r")
    chat.until("Read.")


def test_several_lines_between_quotation_marks(chat_with, tmp_path):
    chat = chat_with("Read.")
    chat.ready()
    for line in ('"""', "one", "", 'two"""'):
        chat.send(line + "\r")
    chat.until("Read.")
    (session,) = (tmp_path / "home" / "sessions").glob("*.jsonl")
    assert '"text":"one\\n\\ntwo"' in session.read_text()


def test_the_editor_writes_the_message(chat_with, tmp_path):
    editor = tmp_path / "editor"
    editor.write_text('#!/bin/sh\nprintf "from the editor" > "$1"\n')
    editor.chmod(0o755)
    chat = chat_with("Read.", EDITOR=str(editor), VISUAL=str(editor))
    chat.ready()
    chat.send("/edit\r")
    chat.until("from the editor")
    chat.send("\r")
    chat.until("Read.")


def test_a_server_that_fails_leaves_the_conversation_as_it_was(chat_with):
    chat = chat_with("Read.")
    chat.say("Hi")
    shown = chat.say("/model http://127.0.0.1:9")
    assert "error: " in shown
    assert "Read." in chat.say("Again")


def test_history_and_completion(chat_with):
    chat = chat_with("Read.")
    chat.say("first message")
    chat.ready()
    chat.send("/ad")
    chat.until("show files")  # the menu
    chat.send("\t a")
    chat.until("/add a")
    chat.send("\t")
    chat.until("/add a.py")
    chat.send("\x15")
    chat.send("\x1b[A")
    chat.until(lambda text: text.count("first message") >= 2)


def test_a_server_that_finds_its_context_full_is_asked_again_with_less(tmp_path, work):
    from remote_servers import answer

    full = {"error": {"message": "This model's maximum context length is 10 tokens", "code": "context_length_exceeded"}}
    good = [STREAM_HEAD, events(says("Fine."), says("", "stop"), "[DONE]")]
    server = ScriptedServer(
        {
            "/v1/models": [models("someone", "scripted")],
            "/v1/chat/completions": [good, good, [answer(full, 400)], good],
        }
    )
    with server.running():
        with Terminal("chat", "-m", server.address, cwd=work, home=tmp_path / "home", columns=100, rows=40) as chat:
            chat.say("One")
            chat.say("Two")
            assert "The context was full. No longer seen by the model: the oldest turn" in chat.say("Three")
        asked = [r.body["messages"] for r in server.requests if r.path == "/v1/chat/completions"]
    assert [len(m) for m in asked] == [1, 3, 5, 3]
