"""What `coder bench` shows: how the model was loaded, its start, its speed beside llama.cpp alone, what it takes."""

from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from cli.inspect import readable
from cli.plan_screen import item
from coderv2_local.stream import printable

if TYPE_CHECKING:
    from coderv2_local.benchmark.engine_loop import Start
    from coderv2_local.benchmark.measure import Report
    from coderv2_local.benchmark.runs import Ratio
    from coderv2_local.placement.load_options import LoadOptions


def show(report: "Report") -> None:
    """Print the report to stdout."""
    out = Console(highlight=False, markup=False)
    o, whole = report.options, not out.is_terminal
    out.print(f"{printable(report.path.name)}, {readable(report.file_bytes)} · {settings(o)}", soft_wrap=whole)
    out.print()
    out.print(starts(report))
    out.print()
    out.print(speeds(report))
    out.print("Medians; in brackets the lowest and the highest pair. plan: what coder plan says.", style="dim")
    out.print()
    for line in (*about_memory(report), *about_disk(report)):
        out.print(item(line, out), soft_wrap=True)
    for remark in report.remarks:
        out.print(item(f"note: {remark}", out), soft_wrap=True, style="dim")


def settings(o: "LoadOptions") -> str:
    """How the model was loaded, in a line."""
    parts = [f"{o.n_threads} thread{'s' if o.n_threads != 1 else ''}", f"context {o.n_ctx}", f"batch {o.n_batch}"]
    parts.append(f"KV {o.kv_type.upper()}")
    if o.n_gpu_layers:
        parts.append(f"{o.n_gpu_layers} layers on the GPU")
    if o.stream_experts:
        parts.append("experts from disk")
    return ", ".join(parts)


def starts(report: "Report") -> Table:
    """Loading and the first token, from the disk and from memory."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("start", no_wrap=True)
    for name in ("in memory before", "loaded", "first token", "read"):
        table.add_column(name, justify="right", no_wrap=True)
    for name, start in (("cold", report.cold), ("warm", report.warm)):
        if start:
            table.add_row(name, *start_row(start))
    return table


def start_row(start: "Start") -> tuple[str, ...]:
    """One start."""
    before = "?" if start.in_memory is None else f"{start.in_memory:.0%}"
    read = "?" if start.bytes_read is None else readable(start.bytes_read)
    return before, seconds(start.load_seconds), seconds(start.first_token_seconds), read


def speeds(report: "Report") -> Table:
    """Tokens a second, of everything that was compared."""
    from coderv2_local.benchmark.measure import BARE, CODER, STOCK

    stock = any(STOCK in r.runs for r in report.rounds)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("tokens a second", no_wrap=True)
    for name in ("plan", "coder", "llama.cpp", "coder : llama.cpp"):
        table.add_column(name, justify="right", no_wrap=True)
    if stock:
        table.add_column("exact : stock", justify="right", no_wrap=True)
    for r in report.rounds:
        for what, expected, speed, compare in (
            (f"prompt of {r.prompt}", report.expected.prompt, r.prompt_speed, r.prompt_ratio),
            (f"answer after {r.prompt}", report.expected.decode, r.decode_speed, r.decode_ratio),
        ):
            cells = ["?" if expected is None else pace(expected), pace(speed(CODER)), pace(speed(BARE))]
            cells += [times(compare(CODER, other)) for other in ((BARE, STOCK) if stock else (BARE,))]
            table.add_row(what, *cells)
    return table


def about_memory(report: "Report") -> list[str]:
    """What it takes, and what a token passes."""
    from coderv2_local.benchmark.measure import CODER

    said = []
    if report.memory:
        m, planned = report.memory, report.expected.anonymous
        said.append(
            f"memory: {readable(m.anonymous)} of its own (planned: at most {readable(planned)}), "
            f"{readable(m.mapped)} of mapped files, which others share"
        )
    first = report.rounds[0]
    passed = report.expected.weights_a_token
    rate = passed * first.decode_speed(CODER)
    said.append(f"a token passes {readable(passed)} of weights: {readable(rate)} a second after {first.prompt} tokens")
    if not all(all(r.same_ids(CODER, other) for other in r.runs) for r in report.rounds):
        said.append("the answers differ: the experts were chosen by other rules, or sums were rounded differently")
    return said


def about_disk(report: "Report") -> list[str]:
    """What was read while decoding, and how well that was foreseen."""
    from coderv2_local.benchmark.measure import CODER

    read = [(r.prompt, r.bytes_a_token(CODER)) for r in report.rounds]
    said = []
    if any(n for _, n in read):
        said.append("read from disk for a token: " + ", ".join(f"{readable(n or 0)} after {p}" for p, n in read))
    elif all(n is not None for _, n in read):
        said.append("read from disk for a token: nothing")
    if p := report.prefetched:
        said.append(
            f"experts: {p.in_memory:.0%} of {p.chosen} chosen were in memory, {p.guessed:.0%} had been guessed a layer "
            f"ahead, {readable(p.read_bytes)} asked of the disk; {readable(p.held_bytes)} of memory hold experts, "
            f"{readable(p.locked_bytes)} of what every token reads are locked"
        )
        said += [f"note: {notice}" for notice in p.notices]
    return said


def seconds(value: float) -> str:
    """A time for people."""
    return f"{value * 1e3:.0f} ms" if value < 0.9995 else f"{value:.2f} s" if value < 99.5 else f"{value:.0f} s"


def pace(tokens_a_second: float) -> str:
    """A speed in three digits."""
    digits = 0 if tokens_a_second >= 99.5 else 1 if tokens_a_second >= 9.95 else 2
    return f"{tokens_a_second:.{digits}f}"


def times(ratio: "Ratio") -> str:
    """A ratio with its spread."""
    return f"{ratio.median:.2f} ({ratio.low:.2f}–{ratio.high:.2f})"
