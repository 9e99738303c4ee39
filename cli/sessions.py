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
        Console(highlight=False).print(sessions_table(store))


def sessions_table(store: "Sessions", current: str = "") -> "Table | str":
    """All sessions, the one that changed last first."""
    from rich.table import Table

    from coderv2_local.stream import printable

    table = Table(box=None, header_style="dim", padding=(0, 2, 0, 0), expand=True)
    for heading in ("session", "last used", "turns", "model", "first question"):
        table.add_column(heading, no_wrap=True, overflow="ellipsis", ratio=1 if heading == "first question" else None)
    for info in store.infos():
        question = " ".join(printable(info.first_question).split())
        table.add_row(
            escape(info.name) + (" *" if info.name == current else ""),
            datetime.fromtimestamp(info.changed).strftime("%d %b %H:%M"),
            str(info.turns),
            escape(printable(info.model)),
            escape(question if len(question) <= QUESTION_WIDTH else question[: QUESTION_WIDTH - 1] + "…"),
        )
    return table if table.row_count else "no sessions yet: coder chat begins one"
