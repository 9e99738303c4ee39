"""`coder chat`: the terminal conversation, and one answer on stdout."""

import sys
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape

from cli.options import (
    ContextOption,
    ModelOption,
    RepeatPenaltyOption,
    SeedOption,
    StockRoutingOption,
    TemperatureOption,
    ThreadsOption,
)
from cli.piped import piped_text
from quant.errors import CoderError, InputError

if TYPE_CHECKING:
    from prompt_toolkit.key_binding import KeyBindings

    from coderv2_local.conversation import Conversation
    from coderv2_local.models import Model

HELP = """\
/help    this list
/clear   forget the conversation
/exit    leave (so does Ctrl-D)

Ctrl-C stops an answer; what was said so far is kept. Alt-Enter starts a new line."""


def chat(
    prompt: Annotated[
        str | None, typer.Option("--prompt", "-p", help="Ask once, print the answer to stdout, and exit.")
    ] = None,
    model: ModelOption = None,
    max_tokens: Annotated[int, typer.Option("--max-tokens", "-n", min=1, help="Longest answer, in tokens.")] = 1024,
    temperature: TemperatureOption = 0.0,
    repeat_penalty: RepeatPenaltyOption = None,
    seed: SeedOption = 0,
    context: ContextOption = 0,
    threads: ThreadsOption = None,
    stock_routing: StockRoutingOption = False,
) -> None:
    """Talk to a model. With -p, or with text on stdin, print one answer and exit.

    Example: coder chat -p "Write a Python function `is_even`: Return True if a number is even"
    """
    from coderv2_local.backend import LocalBackend
    from coderv2_local.conversation import Conversation
    from coderv2_local.load_options import LoadOptions
    from coderv2_local.models import find_model
    from coderv2_local.sampling import SamplingOptions

    question = one_shot_question(prompt)
    chosen = find_model(model)
    penalty = chosen.repeat_penalty if repeat_penalty is None else repeat_penalty
    options = SamplingOptions(temperature=temperature, repeat_penalty=penalty, seed=seed)
    load = LoadOptions(n_ctx=context, n_threads=threads)
    with LocalBackend(chosen.path, load, exact_routing=not stock_routing, name=chosen.name) as backend:
        conversation = Conversation(backend, options, max_tokens)
        if question is None:
            converse(conversation, chosen)
        else:
            answer_once(conversation, question)


def one_shot_question(prompt: str | None) -> str | None:
    """What to ask once: the prompt, what stdin holds, or both; None for a conversation."""
    if sys.stdin.isatty():
        return prompt
    parts = [part for part in (prompt, piped_text().strip("\n")) if part]
    if not parts:
        raise InputError("there is nothing to answer: stdin is empty", hint='ask with -p "…", or run it in a terminal')
    return "\n\n".join(parts)


def answer_once(conversation: "Conversation", question: str) -> None:
    """Print the answer to stdout, and nothing else."""
    for chunk in conversation.ask(question).generation:
        sys.stdout.write(chunk)
        sys.stdout.flush()
    sys.stdout.write("\n")


def converse(conversation: "Conversation", model: "Model") -> None:
    """The conversation loop, until /exit or Ctrl-D."""
    from prompt_toolkit import PromptSession
    from prompt_toolkit.formatted_text import HTML

    screen = Console(stderr=True, highlight=False)
    size = conversation.backend.n_ctx
    screen.print(f"[bold]{escape(model.name)}[/] · context {size} tokens · /help for commands, Ctrl-D to leave")
    if model.is_toy:
        screen.print("[yellow]tiny is a toy for trying things out: small Python functions, often wrong.[/]")
        screen.print("[dim]Try: Write a Python function `is_even`: Return True if a number is even[/]")
    keyboard: PromptSession[str] = PromptSession(key_bindings=newline_keys())
    while True:
        try:
            line = keyboard.prompt(HTML("<b><ansigreen>&gt;</ansigreen></b> ")).strip()
        except KeyboardInterrupt:
            continue
        except EOFError:
            return
        if not line:
            continue
        if line in ("/exit", "/quit"):
            return
        if line == "/help":
            screen.print(HELP)
        elif line == "/clear":
            conversation.clear()
            screen.print("[dim]the conversation is forgotten[/]")
        elif line.startswith("/"):
            screen.print(f"[red]no command {escape(line.split()[0])}[/]: /help lists them")
        else:
            take_turn(conversation, line, screen)


def take_turn(conversation: "Conversation", question: str, screen: Console) -> None:
    """Ask and stream the answer. Ctrl-C keeps what came so far."""
    from cli.main import show_error

    try:
        asked = conversation.ask(question)
        generation = asked.generation
    except CoderError as error:
        show_error(error)
        return
    if asked.shrinking:
        screen.print(f"[yellow]{escape(str(asked.shrinking))}[/]")
    answer = ""
    cut = False
    try:
        for chunk in generation:
            answer += chunk
            sys.stdout.write(chunk)
            sys.stdout.flush()
    except KeyboardInterrupt:
        cut = True
    except CoderError as error:
        sys.stdout.write("\n")
        show_error(error)
    sys.stdout.write("\n")
    sys.stdout.flush()
    if answer:
        conversation.keep(generation, answer)
    else:
        conversation.take_back()
    if cut:
        screen.print("[yellow]stopped[/]")


def newline_keys() -> "KeyBindings":
    """Key bindings: Alt-Enter starts a new line."""
    from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent

    keys = KeyBindings()

    @keys.add("escape", "enter")
    def _(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    return keys
