"""The start of a conversation in the terminal: which session, which model, what is shown first."""

from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape

from cli.chat_edits import tell_interrupted
from cli.chat_session import model_for, pick, set_system
from cli.chat_wishes import Wishes
from cli.repl import Repl
from coderv2_local.home import home_folder
from coderv2_local.models import is_first_run
from coderv2_local.sessions.store import Sessions
from coderv2_local.stream import printable
from quant.errors import CoderError


def begin(wishes: Wishes, model: str | None, files: Sequence[str], *, resume: bool, session: str | None) -> None:
    """Begin or resume a conversation, and stay in it until the user leaves.

    Raises:
        InputError: there is no session to resume, or it is in use or damaged; an unknown model.
    """
    attachments = wishes.attachments(files)
    sessions = Sessions(home_folder("sessions"))
    opened, events, notice = pick(sessions, resume=resume, name=session)
    chosen = model_for(opened, wishes, model, goes_on=bool(events))
    opened.model = chosen.reference
    screen = Console(stderr=True, highlight=False)
    repl = Repl(wishes.conversation(chosen), chosen, opened, sessions, wishes=wishes, screen=screen, answers=Console())
    greet(repl)
    if is_first_run(chosen, model):
        name_the_right_one(screen)
    if events:
        repl.take_up(events)
        repl.show_where_it_stopped()
    elif last := sessions.latest():
        repl.note(f"a new session (coder chat --resume: {last})")
    if notice:
        repl.note(notice, "yellow")
    set_system(repl.conversation, wishes, goes_on=bool(events))
    tell_interrupted(repl)
    for file in attachments:
        try:
            repl.conversation.attach(file)
        except CoderError as error:
            repl.show_error(error)
    repl.run()
    if opened.name:
        screen.print(f"[dim]saved as {escape(repl.session.name)}; coder chat --resume goes on with it[/]")


def greet(repl: Repl) -> None:
    """Who answers, and how to get help."""
    size = repl.conversation.backend.n_ctx
    about = f" · context {size} tokens" if size else ""
    repl.screen.print(f"[bold]{escape(printable(repl.title))}[/]{about} · /help for commands, Ctrl-D to leave")
    repl.tell_notices()
    if repl.model.is_toy:
        repl.screen.print(
            "[yellow]tiny is a toy for trying things out: small Python functions, often wrong.[/]\n"
            "[dim]Try: Write a Python function `is_even`: Return True if a number is even[/]"
        )


def name_the_right_one(screen: Console) -> None:
    """Nothing is installed: the one command that gets the right model for this machine. Nothing is measured for it."""
    from coderv2_local.placement.machine import this_machine
    from coderv2_local.recommend import model_to_get

    row = model_to_get(this_machine())
    command, end = (
        (f"coder pull {row.model}", "gets what suits this machine") if row else ("coder plan", "says what runs")
    )
    screen.print(f"[dim]Nothing better is installed: [/][bold]{command}[/][dim] {end}[/]")
