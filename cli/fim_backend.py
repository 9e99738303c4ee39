"""The backend that a command fills in with: what is known of the model's training is said or refused first."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from cli.options import refuse_on_server
from quant.errors import InputError

if TYPE_CHECKING:
    from coderv2_local.backend import Backend
    from coderv2_local.placement.load_wishes import LoadWishes


@contextmanager
def infill_backend(
    model: str | None,
    load: "LoadWishes",
    notify: Callable[[str], None],
    given: Sequence[str] = (),
    *,
    exact_routing: bool = True,
    force: bool = False,
    server: bool = True,
    server_seconds: float | None = None,
) -> Iterator["Backend"]:
    """A backend for infill: a server where `model` is an address, else the file that it means: behind a `coder serve`
    that runs it already, unless `server` is False, or in this process.

    Args:
        load: what the command line and the settings say of loading.
        given: the options about loading that the user gave: a server that is named cannot follow them. What the
            settings say besides, a `coder serve` was told, too; of its context, there must be enough.
        server_seconds: that the first answers of a `coder serve` may take; None for the usual limits.

    Raises:
        InputError: no such model, one that was not trained to fill in, without `force`, or options that cannot hold.
    """
    from coderv2_local.models import find_model
    from coderv2_local.open_model import open_model
    from coderv2_local.placement.load_wishes import LoadWishes
    from coderv2_local.serving.find_server import open_running
    from converters.gguf_header import read_header

    load = replace(load, infill=True)
    chosen = find_model(model, role="fim")
    refuse_on_server(chosen, given)
    header = read_header(chosen.path) if chosen.path else None
    if header:  # before a large file is loaded
        judge(chosen.name, header.metadata, notify, force=force)
    running = None
    if server:
        typed = LoadWishes(
            n_ctx=load.n_ctx if "--ctx" in given else None, n_threads=load.n_threads if "--threads" in given else None
        )
        running = open_running(
            chosen,
            typed,
            least_ctx=load.n_ctx or 0,
            exact_routing=exact_routing,
            header=header,
            seconds=server_seconds,
        )
    backend = running or open_model(chosen, load, exact_routing=exact_routing)
    try:
        if not chosen.path:
            judge(backend.name, None, notify, force=force)
        for said in backend.notices:
            notify(said)
        yield backend
    finally:
        backend.close()


def judge(
    name: str,
    metadata: Mapping[str, object] | None,
    notify: Callable[[str], None],
    *,
    force: bool,
    hint: str | None = None,
) -> None:
    """Tell what is known of a model's training to fill in, where there is something to tell.

    Args:
        name: of the file, or what a server calls its model.
        metadata: of the file's header; None for a server.
        force: tell also what else is refused.
        hint: what to do instead, and how to force it.

    Raises:
        InputError: it was not trained to fill in.
    """
    from coderv2_local.fim.trained import USE_INSTEAD, fim_training

    training = fim_training(name, metadata)
    if training.refusal and not force:
        raise InputError(training.refusal, hint=hint or USE_INSTEAD)
    if said := training.refusal or training.notice:
        notify(said)
