"""`coder serve`: a model for editors and other programs, over HTTP."""

import json
import os
import sys
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape

from cli.options import ContextOption, StockRoutingOption, ThreadsOption
from quant.errors import CoderError, InputError

if TYPE_CHECKING:
    from coderv2_local.models import Model
    from coderv2_local.serving.server_file import ServerFile
    from coderv2_local.serving.state import Serving

PORT = 8012
STOP_SECONDS = 30


def serve(
    model: Annotated[
        str | None,
        typer.Option("--model", "-m", metavar="MODEL", help="A name from `coder models`, or a .gguf file."),
    ] = None,
    host: Annotated[
        str, typer.Option("--host", metavar="ADDRESS", help="Address to listen at; one of others needs a key.")
    ] = "127.0.0.1",
    port: Annotated[
        int | None, typer.Option("--port", min=0, max=65535, metavar="N", help="Port; 8012. 0: any free one.")
    ] = None,
    context: ContextOption = 0,
    threads: ThreadsOption = None,
    stock_routing: StockRoutingOption = False,
    key_variable: Annotated[
        str | None,
        typer.Option("--key-variable", metavar="NAME", help="Environment variable with the API key; CODER_SERVE_KEY."),
    ] = None,
    log: Annotated[bool, typer.Option("--log", help="Show a line for each request.")] = False,
    log_prompts: Annotated[bool, typer.Option("--log-prompts", help="Show what clients send, too.")] = False,
    status: Annotated[bool, typer.Option("--status", help="Show which servers run, and exit.")] = False,
    stop: Annotated[bool, typer.Option("--stop", help="End the server, and exit; with --port, the one there.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="With --status: as JSON.")] = False,
) -> None:
    """Serve a model to editors and programs on this machine: OpenAI's interface, and llama.cpp's /infill.

    Examples: coder serve, coder serve -m lite.gguf --port 8012, coder serve --status, coder serve --stop
    """
    if as_json and not status:
        raise InputError("--json is for --status")
    if status:
        show_status(as_json=as_json)
    elif stop:
        stop_server(port)
    else:
        start(
            model, host, port, context, threads, key_variable, exact_routing=not stock_routing, log=log,
            log_prompts=log_prompts,
        )  # fmt: skip


def start(
    model: str | None,
    host: str,
    port: int | None,
    context: int,
    threads: int | None,
    key_variable: str | None,
    *,
    exact_routing: bool,
    log: bool,
    log_prompts: bool,
) -> None:
    """Load the model and serve it until Ctrl-C."""
    from coderv2_local import preferences
    from coderv2_local.models import find_model
    from coderv2_local.serving.server import bind, run

    settings = preferences.read()
    chosen = find_model(model, settings, role="serve")
    if chosen.path is None:
        raise InputError(f"{chosen.name} is a server already", hint="give the path of a .gguf file, or `-m tiny`")
    key = read_key(key_variable)
    if key is None and not is_loopback(host):
        from coderv2_local.serving.find_server import KEY_VARIABLE

        raise InputError(
            f"{host} is open to other machines: that takes an API key",
            hint=f"set {KEY_VARIABLE} to a long random text; clients send it as their API key",
        )
    wanted_port = settings.get("serve.port", PORT) if port is None else port
    listener = bind(host, wanted_port)
    screen = Console(stderr=True, highlight=False)
    with screen.status(f"loading {escape(chosen.name)} …"):
        serving = load(chosen, context, threads, key, host, exact_routing=exact_routing, log_prompts=log_prompts)
    show_log(requests=log or log_prompts)
    file = file_of(serving, chosen, host, listener.getsockname()[1], exact_routing=exact_routing)

    def ready() -> None:
        file.write()
        greet(screen, file, chosen)

    try:
        notice = run(serving, listener, ready, wanted_port)
    finally:
        file.remove()
        serving.backend.close()
        listener.close()
    with suppress(OSError):  # the terminal may be closed
        screen.print("[yellow]ended[/]" + (f"; what was evaluated was not kept: {escape(notice)}" if notice else ""))


def load(
    chosen: "Model",
    context: int,
    threads: int | None,
    key: str | None,
    host: str,
    *,
    exact_routing: bool,
    log_prompts: bool,
) -> "Serving":
    """The model, ready to be served."""
    import secrets

    from coderv2_local import preferences
    from coderv2_local.load_settings import load_wishes
    from coderv2_local.local_backend import LocalBackend
    from coderv2_local.serving.file_limit import connections_here
    from coderv2_local.serving.guard import LOOPBACK_NAMES
    from coderv2_local.serving.state import Limits, Serving
    from coderv2_local.states.prefix_states import loaded_fingerprint

    assert chosen.path is not None
    wishes = load_wishes(preferences.read(), n_ctx=context, n_threads=threads)
    backend = LocalBackend(chosen.path, wishes, exact_routing=exact_routing, name=chosen.name)
    return Serving(
        backend,
        instance=secrets.token_hex(8),
        fingerprint=loaded_fingerprint(backend.engine),
        temperature=chosen.temperature,
        repeat_penalty=chosen.repeat_penalty,
        key=key,
        limits=Limits(connections=connections_here(Limits.connections)),
        hosts=LOOPBACK_NAMES | {host.lower()} if is_loopback(host) else None,
        log_prompts=log_prompts,
    )


def file_of(serving: "Serving", chosen: "Model", host: str, port: int, *, exact_routing: bool) -> "ServerFile":
    """What others may know of this server."""
    from coderv2_local import __version__
    from coderv2_local.serving.server_file import ServerFile, own_start

    return ServerFile(
        os.getpid(),
        own_start(),
        host,
        port,
        serving.name,
        str(chosen.path.absolute()) if chosen.path else "",
        serving.fingerprint,
        serving.backend.n_ctx,
        __version__,
        exact_routing,
        serving.key is not None,
        "\n".join(serving.backend.notices),
    )


def greet(screen: Console, file: "ServerFile", chosen: "Model") -> None:
    """What runs where, what is not as it should be, and how to end it."""
    from coderv2_local.stream import printable

    key = " · clients need the API key" if file.needs_key else ""
    screen.print(f"[bold]{escape(file.model)}[/] · context {file.n_ctx} tokens · [bold]{file.address}[/]{key}")
    screen.print(f"[dim]OpenAI's interface: {file.address}/v1 · llama.cpp's: {file.address}/infill[/]", soft_wrap=True)
    for notice in file.notices.splitlines():
        screen.print(f"[yellow]{escape(printable(notice))}[/]", soft_wrap=True)
    if chosen.is_toy:
        screen.print("[yellow]tiny is a toy for trying things out: small Python functions, often wrong.[/]")
    screen.print("[dim]Ctrl-C ends it, or `coder serve --stop` elsewhere[/]")


def show_log(*, requests: bool) -> None:
    """Send the log to stderr: what fails, or every request."""
    import logging

    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    log = logging.getLogger("coder.serve")
    log.addHandler(handler)
    log.propagate = False
    log.setLevel(logging.INFO if requests else logging.WARNING)


def read_key(variable: str | None) -> str | None:
    """The key that clients must send; None for none.

    Raises:
        InputError: the variable was named and is not set, or holds what cannot be a key.
    """
    from coderv2_local.serving.find_server import KEY_VARIABLE

    name = variable or KEY_VARIABLE
    key = os.environ.get(name, "").strip()
    if variable and not key:
        raise InputError(f"the environment variable {variable} is not set", hint="it should hold the API key")
    if key and not all("!" <= c <= "~" for c in key):
        raise InputError(f"{name} holds no key: a key has only ASCII letters, digits and signs, and no spaces")
    return key or None


def is_loopback(host: str) -> bool:
    """Can only this machine reach `host`?"""
    import ipaddress

    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def show_status(*, as_json: bool) -> None:
    """Print the servers that run to stdout. Exit code 1 where none does."""
    from dataclasses import asdict

    from coderv2_local.serving.server_file import running_servers
    from coderv2_local.stream import printable

    servers = running_servers()
    if as_json:
        print(json.dumps([asdict(server) | {"address": server.address} for server in servers]))
    else:
        for server in servers:
            since = time.strftime("%Y-%m-%d %H:%M", time.localtime(server.started))
            model = printable(server.model)
            print(f"{server.address}  {model}  context {server.n_ctx}  process {server.pid}  since {since}")
        if not servers:
            Console(stderr=True, highlight=False).print("no server runs; `coder serve` starts one")
    if not servers:
        raise typer.Exit(1)


def stop_server(port: int | None) -> None:
    """End a server and wait until it has ended.

    Raises:
        InputError: there is none, or there are several and no port says which.
        CoderError: it does not end.
    """
    import signal

    from coderv2_local.serving.server_file import running_servers

    servers = [s for s in running_servers() if port is None or s.port == port]
    if not servers:
        raise InputError("no server runs" + (f" at port {port}" if port is not None else ""))
    if len(servers) > 1:
        ports = ", ".join(str(s.port) for s in servers)
        raise InputError(f"{len(servers)} servers run, at ports {ports}", hint="name one: coder serve --stop --port N")
    server = servers[0]
    try:
        os.kill(server.pid, signal.SIGTERM)
    except OSError as error:
        raise CoderError(f"process {server.pid} cannot be ended: {(error.strerror or str(error)).lower()}") from None
    deadline = time.monotonic() + STOP_SECONDS
    while server.is_alive():
        if time.monotonic() > deadline:
            raise CoderError(f"process {server.pid} has not ended after {STOP_SECONDS} seconds")
        time.sleep(0.05)
    Console(stderr=True, highlight=False).print(f"ended: {server.address}")
