"""`coder chat`: the terminal conversation, and one answer on stdout."""

import json
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from cli.errors import remarks
from cli.options import (
    ContextOverSettingOption,
    ModelOption,
    RepeatPenaltyOption,
    SeedOption,
    StockRoutingOption,
    ThreadsOption,
)
from cli.piped import piped_text
from coderv2_local.stream import printable
from quant.errors import CoderError, InputError

if TYPE_CHECKING:
    from cli.chat_wishes import Wishes


def chat(
    files: Annotated[
        list[str] | None, typer.Argument(metavar="FILE", help="Files to show to the model.", show_default=False)
    ] = None,
    prompt: Annotated[
        str | None, typer.Option("--prompt", "-p", help="Ask once, print the answer to stdout, and exit.")
    ] = None,
    model: ModelOption = None,
    resume: Annotated[bool, typer.Option("--resume", "-r", help="Go on with the last session.")] = False,
    session: Annotated[
        str | None, typer.Option("--session", "-s", metavar="NAME", help="Go on with this session, or begin it.")
    ] = None,
    system: Annotated[str | None, typer.Option("--system", metavar="TEXT", help="System prompt.")] = None,
    max_tokens: Annotated[
        int | None, typer.Option("--max-tokens", "-n", min=1, help="Longest answer, in tokens; 1024.")
    ] = None,
    temperature: Annotated[
        float | None,
        typer.Option("--temperature", metavar="X", help="0 always takes the most probable token; 0.3, for tiny 0."),
    ] = None,
    top_p: Annotated[
        float | None,
        typer.Option("--top-p", metavar="X", help="Share of the probability drawn from; 0.95."),
    ] = None,
    repeat_penalty: RepeatPenaltyOption = None,
    seed: SeedOption = None,
    context: ContextOverSettingOption = None,
    threads: ThreadsOption = None,
    stock_routing: StockRoutingOption = False,
    no_server: Annotated[
        bool, typer.Option("--no-server", help="Load the model here, even where a `coder serve` runs it already.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="With -p: the answer, counts and times as JSON.")] = False,
) -> None:
    """Talk to a model. With -p, or with text on stdin, print one answer and exit.

    Examples: coder chat, coder chat -p "Explain this" app.py, or git diff | coder chat -p "Review this"
    """
    from cli.chat_wishes import Wishes
    from coderv2_local import preferences

    question = one_shot_question(prompt)
    wishes = Wishes(
        settings=preferences.read(),
        context=context,
        threads=threads,
        exact_routing=not stock_routing,
        system=system,
        max_tokens=max_tokens,
        temperature=temperature,
        top_p=top_p,
        repeat_penalty=repeat_penalty,
        seed=0 if seed is None and question is not None else seed,
        server=not no_server,
    )
    if question is not None:
        answer_once(wishes, model, files or [], question, as_json=as_json, resume=resume, session=session)
        return
    if as_json:
        raise InputError("--json is for one answer, not for a conversation", hint='ask with -p "…"')
    from cli.begin import begin

    begin(wishes, model, files or [], resume=resume, session=session)


def one_shot_question(prompt: str | None) -> str | None:
    """What to ask once: the prompt, what stdin holds, or both; None for a conversation."""
    if sys.stdin.isatty():
        return prompt
    parts = [part for part in (prompt, piped_text().strip("\n")) if part]
    if not parts:
        raise InputError("there is nothing to answer: stdin is empty", hint='ask with -p "…", or run it in a terminal')
    return "\n\n".join(parts)


def answer_once(
    wishes: "Wishes",
    model: str | None,
    files: list[str],
    question: str,
    *,
    as_json: bool,
    resume: bool = False,
    session: str | None = None,
) -> None:
    """Print the answer to stdout, and nothing else. Where a session is named, it goes on with this question.

    Raises:
        InputError: there is no such session, or it is in use or damaged; a file or model that cannot be used.
        CoderError: what answering raises. What came of the answer is kept in the session.
    """
    from cli.chat_backend import who_answers
    from cli.chat_session import for_one_question

    attachments = wishes.attachments(files)
    with for_one_question(wishes, model, resume=resume, name=session) as (conversation, notice):
        try:
            for file in attachments:
                conversation.attach(file)
            asked = conversation.ask(question)
        except CoderError as error:
            if error.hint.startswith("/"):  # a command, which only a conversation takes
                error.hint = "ask less or show less, or give a larger --ctx where the model has one"
            raise
        screen = remarks()
        backend, shrinking = conversation.backend, str(asked.shrinking) if asked.shrinking else ""
        for said in filter(None, [notice, who_answers(backend), *backend.notices, shrinking]):
            screen.print(f"note: {printable(said)}", markup=False)
        generation, text, whole = asked.generation, "", False
        try:
            for chunk in generation:
                text += chunk
                if not as_json:
                    sys.stdout.write(chunk)
                    sys.stdout.flush()
            whole = True
        finally:
            if text:
                conversation.keep(generation, text, cut=not whole)
        if as_json:
            report = {
                "text": text,
                "model": conversation.backend.name,
                "reason": generation.reason,
                "prompt_tokens": generation.prompt_tokens,
                "tokens": generation.tokens,
                "prompt_seconds": round(generation.prompt_seconds, 3),
                "seconds": round(generation.seconds, 3),
            }
            text = json.dumps(report, ensure_ascii=False)
            sys.stdout.write(text)
        sys.stdout.write("\n" * (not text.endswith("\n")))
