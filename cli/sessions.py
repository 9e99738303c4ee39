"""`coder sessions`: conversations that were saved."""

import json
import sys
from datetime import datetime
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape

if TYPE_CHECKING:
    from rich.table import Table

    from coderv2_local.sessions.store import Sessions

QUESTION_WIDTH = 200
QUESTION_LEAST = 20
"""Columns that the first question has at least: of it one knows a conversation again, so the model gives way."""
OTHERS = 12 + 5 + 5 * 2
"""Columns of the time, of the turns, and between the columns."""
WIDE = 320
"""Columns where nobody reads on a screen: nothing but a very long question is cut."""


def sessions(
    name: Annotated[str | None, typer.Argument(help="Print this session as Markdown.", show_default=False)] = None,
    as_json: Annotated[bool, typer.Option("--json", help="The list as JSON.")] = False,
) -> None:
    """List the saved conversations, or print one as Markdown.

    Example: coder sessions, then coder chat --session NAME
    """
    from coderv2_local.home import home
    from coderv2_local.sessions.markdown import as_markdown
    from coderv2_local.sessions.store import Sessions

    store = Sessions(home() / "sessions")
    if name is not None:
        sys.stdout.write(as_markdown(name, store.read(name)))
    elif as_json:
        rows = [
            {"name": i.name, "changed": i.changed, "model": i.model, "turns": i.turns, "question": i.first_question}
            for i in store.infos()
        ]
        print(json.dumps(rows, ensure_ascii=False, indent=2))
    else:
        out = Console(highlight=False)
        out = out if out.is_terminal else Console(highlight=False, width=WIDE)
        out.print(sessions_table(store, width=out.width))


def sessions_table(store: "Sessions", current: str = "", width: int | None = None) -> "Table | str":
    """All sessions, the one that changed last first.

    Args:
        current: the one that is marked.
        width: columns that there are; None: those of the terminal.
    """
    from rich.table import Table

    from coderv2_local.stream import printable

    infos = list(store.infos())
    names = [info.name + (" *" if info.name == current else "") for info in infos]
    models = [printable(info.model).removeprefix("http://") for info in infos]
    room = (width or Console().width) - OTHERS - max(map(len, names), default=0) - QUESTION_LEAST
    table = Table(box=None, header_style="dim", padding=(0, 2, 0, 0), expand=(width or 0) < WIDE)
    for heading in ("session", "last used", "turns", "model", "first question"):
        if heading != "model":
            ratio = 1 if heading == "first question" else None
            table.add_column(heading, no_wrap=True, overflow="ellipsis", ratio=ratio)
        elif room >= len(heading):
            table.add_column(heading, no_wrap=True, overflow="ellipsis", max_width=room)
    for info, name, model in zip(infos, names, models, strict=True):
        question = " ".join(printable(info.first_question).split())
        table.add_row(
            escape(name),
            datetime.fromtimestamp(info.changed).strftime("%d %b %H:%M"),
            str(info.turns),
            *([escape(model)] if room >= len("model") else []),
            escape(question if len(question) <= QUESTION_WIDTH else question[: QUESTION_WIDTH - 1] + "…"),
        )
    return table if table.row_count else "no sessions yet: coder chat begins one"
