"""What `coder plan` shows: the machine, one sentence, one command, the table, the reasons."""

import textwrap
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from coderv2_local.stream import printable

if TYPE_CHECKING:
    from coderv2_local.placement.family_plan import Row
    from coderv2_local.placement.machine import Machine
    from coderv2_local.placement.speed import Rates

NOTE = "GB are 10⁹ bytes. prompt, answer: tokens a second to expect in a short context."
SHOWN_FEATURES = ("avx2", "avx512", "amx_int8", "neon", "matmul_int8", "sve")


def show(
    machine: "Machine",
    rates: "Rates | None",
    remarks: list[str],
    rows: "list[Row]",
    chosen: "Row | None",
    command: str | None,
    *,
    of_all: bool,
) -> None:
    """Print the plan to stdout."""
    from coderv2_local.placement.family_plan import sentence

    out = Console(highlight=False, markup=False)
    out.print(machine_line(machine, rates), soft_wrap=not out.is_terminal)
    out.print()
    if chosen and chosen.placement:
        out.print(printable(sentence(chosen, of_all=of_all)), soft_wrap=not out.is_terminal)
    else:
        out.print(chosen.refusal if chosen else "No model of the family but tiny fits this machine.")
    if command:
        out.print(f"    {printable(command)}", style="bold")
    out.print()
    out.print(table(rows))
    out.print(NOTE, style="dim")
    if chosen and chosen.placement:
        out.print()
        out.print(printable(f"Why, for {chosen.model} {chosen.recipe}".strip() + f" with {tokens(chosen.n_ctx)}:"))
        speed = [f"speed: {'; '.join(chosen.speed.reasons)}"] if chosen.speed else []
        for reason in (*chosen.placement.reasons, *speed):
            out.print(item(reason, out), soft_wrap=True)
    for remark in remarks:
        out.print(item(f"note: {remark}", out), soft_wrap=True, style="dim")


def item(text: str, out: Console) -> str:
    """A line with a dot before it; in a terminal wrapped under its beginning, in a pipe left whole."""
    line = f"· {printable(text)}"
    return textwrap.fill(line, out.width - 1, subsequent_indent="  ") if out.is_terminal else line


def machine_line(machine: "Machine", rates: "Rates | None") -> str:
    """The machine in a line."""
    from coderv2_local.placement.reasons import gb

    cores = f"{machine.cores} core{'s' if machine.cores != 1 else ''}"
    features = ", ".join(f for f in SHOWN_FEATURES if f in machine.features)
    parts = [f"{cores}{f' ({features})' if features else ''}"]
    parts.append(f"{gb(machine.memory)} of memory, {gb(machine.available)} free")
    parts += [f"{printable(g.description or g.name)}, {gb(g.free)} free of {gb(g.total)}" for g in machine.gpus]
    if not machine.gpus:
        parts.append("no GPU that this build can use")
    if rates and rates.disk:
        parts.append(f"disk {gb(rates.disk)}/s")
    return "This machine: " + " · ".join(parts)


def table(rows: "list[Row]") -> Table:
    """The plans, one a line, within 80 columns."""
    from coderv2_local.placement.family_plan import pace_of

    with_model = len({r.model for r in rows}) > 1
    with_recipe = any(r.recipe for r in rows)
    out = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    names = (["model"] if with_model else []) + (["recipe"] if with_recipe else [])
    for name in names:
        out.add_column(name, no_wrap=True)
    for name in ("context", "dense", "experts", "KV", "buffers"):
        out.add_column(name, justify="right", no_wrap=True)
    out.add_column("runs", no_wrap=True)
    for name in ("prompt", "answer"):
        out.add_column(name, justify="right", no_wrap=True)
    for r in rows:
        first = ([printable(r.model)] if with_model else []) + ([r.recipe] if with_recipe else [])
        b = r.classes
        sizes = (b["dense"] + b["embedding"] + b["output"], b["experts"], b["kv"], b["compute"] + b["runtime"])
        speeds = (r.speed.prompt, r.speed.decode) if r.speed else (None, None)
        out.add_row(
            *first,
            tokens(r.n_ctx),
            *(number(n / 1e9) for n in sizes),
            r.where,
            *(pace_of(s) if s else "?" if r.placement else "–" for s in speeds),
            style="dim" if r.placement is None else None,
        )
    return out


def tokens(n: int) -> str:
    """A context for people: 16K."""
    return f"{n // 1024}K" if n >= 1024 and n % 1024 == 0 else str(n)


def number(value: float) -> str:
    """A size in at most five characters."""
    return f"{value:.0f}" if value >= 99.5 else f"{value:.1f}" if value >= 0.95 else f"{value:.2f}"
