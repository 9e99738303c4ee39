"""`coder config`: the settings file."""

import json
import sys
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from quant.errors import InputError


def config(
    key: Annotated[str | None, typer.Argument(help="A setting, such as chat.temperature.", show_default=False)] = None,
    value: Annotated[str | None, typer.Argument(help="Its new value.", show_default=False)] = None,
    unset: Annotated[bool, typer.Option("--unset", help="Remove the setting, so that the default holds.")] = False,
    path: Annotated[bool, typer.Option("--path", help="Print where the file is.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="All settings as JSON.")] = False,
) -> None:
    """Show or change the settings.

    Examples: coder config, coder config chat.temperature 0.2, or coder config chat.temperature --unset
    """
    from coderv2_local import preferences

    if path:
        print(preferences.path())
    elif key is None:
        found = preferences.read()
        if as_json:
            tables = {"servers": found.servers, "models": found.models}
            print(json.dumps({**found.values, **{k: v for k, v in tables.items() if v}}, indent=2))
        else:
            _list(found)
    elif value is not None or unset:
        if value is not None and unset:
            raise InputError("give a value or --unset, not both")
        now = preferences.change(key, value)
        print(f"{key} is no longer set" if now is None else f"{key} = {now}", file=sys.stderr)
    else:
        if key not in preferences.KEYS:
            raise InputError(f"there is no setting {key!r}", hint="`coder config` lists them")
        found = preferences.read()
        if key in found.values:
            print(found.values[key])
        else:
            print(f"{key} is not set: {defaults()[key]}", file=sys.stderr)


def defaults() -> dict[str, str]:
    """What holds where a setting is not set, in words; for every one of them."""
    from cli import chat_wishes, fim_wishes, serve
    from coderv2_local.models import TINY, Model, find_model
    from coderv2_local.placement.load_options import LoadOptions
    from coderv2_local.preferences import KEYS
    from coderv2_local.sampling.options import SamplingOptions

    tiny = find_model(TINY)
    fits = "what fits"
    said: dict[str, object] = {
        **dict.fromkeys(("chat.model", "fim.model", "serve.model"), f"the best that is installed, or {TINY}"),
        "chat.system": "none",
        "chat.temperature": f"{Model.temperature:g}, {tiny.temperature:g} for {TINY}",
        "chat.top_p": chat_wishes.TOP_P,
        "chat.top_k": SamplingOptions.top_k,
        "chat.min_p": SamplingOptions.min_p,
        "chat.repeat_penalty": f"{Model.repeat_penalty:g}, {tiny.repeat_penalty:g} for {TINY}",
        "chat.max_tokens": chat_wishes.MAX_TOKENS,
        "fim.max_tokens": fim_wishes.MAX_TOKENS,
        **dict.fromkeys(("chat.context", "fim.context"), 0),
        "serve.port": serve.PORT,
        "load.threads": "a core each, 1 for a small model",
        "load.flash_attention": "true but for fim where that is slow",
        "load.kv_type": LoadOptions.kv_type,
        "load.repack": "false",
    }
    return {key: str(said.get(key, fits)) for key in KEYS}


def _list(found: object) -> None:
    from rich.table import Table

    from coderv2_local import preferences
    from coderv2_local.preferences import KEYS, Preferences
    from coderv2_local.stream import printable

    assert isinstance(found, Preferences)
    table = Table(box=None, header_style="dim", padding=(0, 2, 0, 0))
    for heading in ("setting", "value", "meaning"):
        table.add_column(heading, no_wrap=heading == "setting")
    without = defaults()
    for name, key in KEYS.items():
        value = found.values.get(name)
        shown = f"[dim]({without[name]})[/]" if value is None else f"[bold]{escape(printable(str(value)))}[/]"
        table.add_row(name, shown, key.meaning)
    for kind, names in (("servers", found.servers), ("models", found.models)):
        for name, content in names.items():
            what = content.get("url") or content.get("path") or content.get("repo") or ""
            table.add_row(f"{kind}.{escape(printable(name))}", escape(printable(str(what))), "")
    console = Console(highlight=False)
    console.print(table)
    console.print(f"[dim](…): what holds where nothing is set; in {escape(str(preferences.path()))}[/]", soft_wrap=True)
