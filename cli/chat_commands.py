"""The slash commands of the conversation: one function each, in one table."""

import shlex
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Table

from cli import chat_edits
from cli.clipboard import copy
from cli.status_line import meter, speed
from coderv2_local.atomic_file import write_atomically
from coderv2_local.edits.blocks import find_blocks
from coderv2_local.sampling.seed import new_seed
from coderv2_local.sessions.attachments import attach, expand
from coderv2_local.sessions.markdown import as_markdown
from quant.errors import CoderError, InputError

if TYPE_CHECKING:
    from cli.keyboard import Words
    from cli.repl import Repl

SETTINGS = ("temperature", "top_p", "top_k", "min_p", "repeat_penalty", "seed", "max_tokens")


@dataclass(frozen=True)
class Command:
    """A slash command.

    Attributes:
        argument: how its argument is shown in /help; "" where it takes none.
        meaning: one line.
        run: called with what was typed after the name.
    """

    name: str
    argument: str
    meaning: str
    run: "Callable[[Repl, str], None]"


COMMANDS: dict[str, Command] = {}


def command(name: str, argument: str, meaning: str) -> "Callable[[Callable[[Repl, str], None]], None]":
    """Enter a function into the table under `name`."""

    def enter(run: "Callable[[Repl, str], None]") -> None:
        COMMANDS[name] = Command(name, argument, meaning, run)

    return enter


def obey(repl: "Repl", line: str) -> None:
    """Run the command that `line` names; say what is wrong with it."""
    name, _, argument = line[1:].partition(" ")
    known = COMMANDS.get("exit" if name == "quit" else name)
    try:
        if known is None:
            raise InputError(f"no command /{name}", hint="/help lists them; begin with // to send a line with a slash")
        if argument.strip() and not known.argument:
            raise InputError(f"/{known.name} takes no argument")
        known.run(repl, argument.strip())
    except CoderError as error:
        repl.show_error(error)


def words_after(repl: "Repl") -> "dict[str, Words | None]":
    """What completion offers after a command; None stands for paths."""

    def files() -> Iterable[str]:
        return [f.name for f in repl.conversation.files]

    def settings() -> Iterable[str]:
        return [f"{name} " for name in SETTINGS]

    return {
        "/add": None,
        "/fim": None,
        "/drop": files,
        "/load": repl.sessions.names,
        "/set": settings,
        "/model": repl.model_names,
    }


def arguments(text: str) -> list[str]:
    """Words as a shell would split them, so that names may have spaces. Raises InputError for an open quote."""
    try:
        return shlex.split(text)
    except ValueError as error:
        raise InputError(f"{text!r:.80}: {str(error).lower()}") from None


@command("help", "", "this list")
def _(repl: "Repl", _: str) -> None:
    table = Table.grid(padding=(0, 2))
    for each in COMMANDS.values():
        table.add_row(f"[bold]/{each.name}[/] {escape(each.argument)}", each.meaning)
    repl.screen.print(table)
    repl.screen.print(
        "Ctrl-C stops an answer, Ctrl-D leaves. Tab completes, Ctrl-G opens the editor.\n"
        'Alt-Enter starts a line; a message that begins with """ ends with """.',
        style="dim",
    )


@command("add", "FILE…", "show files to the model with the next question; patterns such as src/*.py")
def _(repl: "Repl", text: str) -> None:
    root = repl.conversation.root
    if not text:
        raise InputError("/add needs a file", hint="/add src/*.py")
    for pattern in arguments(text):
        for path in expand(pattern, root):
            try:
                file = attach(path, root)
                length = repl.conversation.attach(file)
            except CoderError as error:
                repl.show_error(error)
                continue
            repl.note(f"{file.name} goes with the next question" + (f" ({length} tokens)" if length else ""))


@command("drop", "FILE…", "show a file no longer; without a name, all")
def _(repl: "Repl", text: str) -> None:
    for name in arguments(text) or [f.name for f in repl.conversation.files]:
        repl.conversation.detach(name)
        repl.note(f"{name} is no longer shown")
    repl.count()


@command("files", "", "the files that the model is shown")
def _(repl: "Repl", _: str) -> None:
    files = repl.conversation.files
    if not files:
        repl.note("no files; /add FILE shows one to the model")
    for file in files:
        length = repl.conversation.backend.count(file.block())
        waiting = " · goes with the next question" if file in repl.conversation.pending else ""
        repl.note(f"{file.name}" + (f" · {length} tokens" if length is not None else "") + waiting, "default")


@command("diff", "", "the edits that the last answer proposes")
def _(repl: "Repl", _: str) -> None:
    chat_edits.show(repl)


@command("apply", "[FILE…]", "write those edits, all or the named ones")
def _(repl: "Repl", text: str) -> None:
    chat_edits.apply(repl, arguments(text))


@command("undo", "", "take the last written edits back")
def _(repl: "Repl", _: str) -> None:
    chat_edits.take_back(repl)


@command("clear", "", "forget the turns; files and system prompt stay")
def _(repl: "Repl", _: str) -> None:
    repl.conversation.clear()
    repl.note("the conversation is forgotten")
    repl.count()


@command("retry", "", "another answer to the last question")
def _(repl: "Repl", _: str) -> None:
    conversation = repl.conversation
    if not conversation.turns:
        raise InputError("there is no question yet")
    if conversation.turns[-1].answer is not None:
        conversation.take_back()
    if conversation.options.temperature == 0:
        repl.note("temperature 0 gives the same answer again; /set temperature 0.7 varies it")
    repl.set_sampling(seed=new_seed())
    repl.take_turn(conversation.resume)


@command("continue", "", "go on with an answer that was cut")
def _(repl: "Repl", _: str) -> None:
    repl.take_turn(repl.conversation.resume)


@command("edit", "", "write the next message in $EDITOR")
def _(repl: "Repl", _: str) -> None:
    repl.editor = True


@command("save", "NAME", "name this session; NAME.md writes it as Markdown")
def _(repl: "Repl", text: str) -> None:
    names = arguments(text)
    if len(names) != 1:
        raise InputError("/save needs one name", hint="/save parser-work, or /save talk.md")
    if not names[0].endswith(".md"):
        repl.session.rename(names[0])
        repl.note(f"this session is called {repl.session.name}")
        return
    path = repl.conversation.root / Path(names[0]).expanduser()
    if path.exists():
        raise InputError(f"{path} exists", hint="choose another name")
    if not repl.session.name:
        raise InputError("there is nothing to save yet")
    text = as_markdown(repl.session.name, repl.sessions.read(repl.session.name))
    try:
        write_atomically(path, text.encode("utf-8", "replace"), 0o644)
    except OSError as error:
        raise InputError(f"{path}: {(error.strerror or str(error)).lower()}") from None
    repl.note(f"written to {path}")


@command("load", "NAME", "go on with another session")
def _(repl: "Repl", text: str) -> None:
    names = arguments(text)
    if len(names) != 1:
        raise InputError("/load needs one name", hint="/sessions lists them")
    if names[0] == repl.session.name:
        raise InputError(f"{names[0]} is the session you are in")
    session, events, notice = repl.sessions.open(names[0])
    repl.use_session(session, events)
    if notice:
        repl.note(notice, "yellow")
    repl.show_where_it_stopped()


@command("sessions", "", "all sessions, the last one first")
def _(repl: "Repl", _: str) -> None:
    from cli.sessions import sessions_table

    repl.screen.print(sessions_table(repl.sessions, current=repl.session.name))


@command("system", "[TEXT]", 'the system prompt; with TEXT, replace it; with "", remove it')
def _(repl: "Repl", text: str) -> None:
    if not text:
        repl.note(repl.conversation.system or "there is no system prompt", "default")
        return
    text = "" if text in ('""', "''") else text
    repl.conversation.set_system(text)
    done = "set" if text else "removed"
    repl.note(f"the system prompt is {done}; everything is evaluated again with the next question")
    repl.count()


@command("model", "[NAME]", "the model; with NAME, go on with another")
def _(repl: "Repl", text: str) -> None:
    if not text:
        repl.note(f"{repl.title} · {meter(None, repl.conversation.backend.n_ctx)}", "default")
        return
    repl.use_model(text)
    repl.note(f"{repl.title} answers from here on")


@command("set", "[KEY VALUE]", "sampling: temperature, top_p, top_k, min_p, repeat_penalty, seed, max_tokens")
def _(repl: "Repl", text: str) -> None:
    conversation = repl.conversation
    words = text.replace("=", " ").split()
    if not words:
        values = {k: getattr(conversation.options, k) for k in SETTINGS[:-1]} | {"max_tokens": conversation.max_tokens}
        repl.note("\n".join(f"{key} = {value}" for key, value in values.items()), "default")
        return
    if len(words) != 2 or words[0] not in SETTINGS:
        raise InputError(f"/set takes one of {', '.join(SETTINGS)}, and a value", hint="/set temperature 0.7")
    key, value = words
    try:
        number = int(value) if key in ("top_k", "seed", "max_tokens") else float(value)
    except ValueError:
        raise InputError(f"{key} is {value!r:.40}: it must be a number") from None
    if key == "max_tokens":
        if number < 1:
            raise InputError("max_tokens must be at least 1")
        conversation.max_tokens = int(number)
    else:
        repl.set_sampling(**{key: number})
        repl.set_by_hand[key] = number
    repl.note(f"{key} = {number}")


@command("tokens", "", "what fills the context")
def _(repl: "Repl", _: str) -> None:
    conversation, count = repl.conversation, repl.conversation.backend.count
    used, size = conversation.used(), conversation.backend.n_ctx
    table = Table.grid(padding=(0, 2))

    def row(what: str, tokens: int | None) -> int:
        table.add_row(what, "?" if tokens is None else str(tokens))
        return tokens or 0

    parts = row("system prompt", count(conversation.system)) if conversation.system else 0
    for file, is_new in (version for turn in conversation.turns for version in turn.versions):
        parts += row(escape(file.name), count(file.block(is_new)))
    turns = "".join(t.question + (t.answer or "") for t in conversation.turns)
    parts += row(f"turns ({len(conversation.turns)})", count(turns))
    if used is not None:
        row("signs between them", max(used - parts, 0))
        row("all, laid out", used)
    waiting = sum(
        row(f"{escape(file.name)}, goes with the next question", count(file.block())) for file in conversation.pending
    )
    if used is not None and size is not None:
        row("free for questions", max(size - used - waiting - conversation.reserve, 0))
        row("held free for an answer", conversation.reserve)
    repl.screen.print(table)


@command("stats", "", "speed of the last answer, and counts")
def _(repl: "Repl", _: str) -> None:
    last = repl.last
    if last is None:
        raise InputError("there was no answer yet")
    lines = [
        f"prompt: {last.prompt_tokens} tokens, {last.reused_tokens} of them known already, {last.prompt_seconds:.2f} s",
        f"answer: {last.tokens} tokens, {last.seconds:.2f} s" + (f", {speed(last)}" if speed(last) else ""),
        f"since the start: {repl.generated} tokens generated; turns in context: {len(repl.conversation.turns)}",
    ]
    repl.note("\n".join(lines), "default")


@command("copy", "[all]", "the last code block to the clipboard; all: the whole answer")
def _(repl: "Repl", text: str) -> None:
    answer = next((t.answer for t in reversed(repl.conversation.turns) if t.answer), None)
    if answer is None:
        raise InputError("there is no answer yet")
    blocks = find_blocks(answer)
    chosen = answer if text == "all" or not blocks else "\n".join(blocks[-1].lines)
    by = copy(chosen)
    if not by:
        raise InputError("nothing here takes a clipboard", hint="install xclip or wl-clipboard")
    repl.note(f"{len(chosen)} characters copied, through {by}")


@command("fim", "FILE[:LINE]", "fill in code in a file, with the same model")
def _(repl: "Repl", text: str) -> None:
    from cli.fim_chat import fim_in_chat

    fim_in_chat(repl, arguments(text))
    repl.count()


@command("exit", "", "leave (so does Ctrl-D)")
def _(repl: "Repl", _: str) -> None:
    repl.done = True
