"""`coder inspect`: what a GGUF file is, and how it stands."""

import json
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from cli.model_file import model_file
from coderv2_local.stream import printable

if TYPE_CHECKING:
    from coderv2_local.inspection import Inspection

MARKS = {"ok": "✓", "note": "·", "bad": "✗"}
LONGEST = 100
UNITS = ("B", "kB", "MB", "GB", "TB")


def inspect(
    model: Annotated[str, typer.Argument(metavar="MODEL.gguf", help="The file; `tiny` is the embedded model.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
) -> None:
    """Show a model file's shapes, types, sizes and metadata, and check its health. Only the header is read.

    Example: coder inspect lite.gguf
    """
    from coderv2_local.inspection import inspect as look

    found = look(model_file(model))
    if as_json:
        typer.echo(json.dumps(found.to_json(), indent=2, ensure_ascii=False))
    else:
        show(found)


def show(found: "Inspection") -> None:
    """The report, on stdout. What the file says of itself is stripped of control characters."""
    out = Console(highlight=False, soft_wrap=True, markup=False)
    c = found.config
    size = f"{number(found.parameters)} parameters, {readable(found.file_size)}, {found.bits:.2f} bits a weight"
    out.print(f"{printable(found.name)}: {size}")
    queries = f"queries by way of {c.q_lora_rank}" if c.q_lora_rank else "queries not compressed"
    out.print(f"{c.n_layers} layers ({c.n_dense_layers} dense), width {c.hidden_size}, {c.n_heads} heads, {queries}")
    heads = f"{c.qk_nope_head_dim} + {c.qk_rope_head_dim} (rotary), values {c.v_head_dim}"
    out.print(f"latent of {c.kv_lora_rank}; head dims {heads}; context {c.max_context}; vocabulary {c.vocab_size}")
    experts = f"{c.n_experts_per_token} of {c.n_routed_experts} experts of {c.expert_ffn_size}"
    out.print(f"{experts}, {c.n_shared_experts} shared; weights × {c.routed_scaling_factor:g}")
    out.print()
    table = Table(box=None, pad_edge=False)
    for column in ("class", "tensors", "parameters", "size", "share", "types"):
        table.add_column(column, justify="left" if column in ("class", "types") else "right")
    total = max(sum(k.nbytes for k in found.classes), 1)
    for k in found.classes:
        types = ", ".join(f"{name} × {n}" for name, n in k.types.items())
        share = f"{k.nbytes / total:.1%}"
        table.add_row(k.name, str(k.tensors), number(k.parameters), readable(k.nbytes), share, types)
    out.print(table)
    out.print()
    for key, value in found.metadata.items():
        shown = f"{value:.6g}" if isinstance(value, float) else value
        text = printable(f"{key} = {shown}").replace("\n", "⏎")
        out.print(text if len(text) <= LONGEST else text[: LONGEST - 1] + "…")
    out.print()
    for check in found.checks:
        out.print(f"{MARKS[check.state]} {printable(check.text)}")
    out.print()
    out.print(summary([check.state for check in found.checks]))


def summary(states: list[str]) -> str:
    """The checks in one line.

    Doctest:
        >>> summary(["ok", "note", "bad", "bad"])
        'health: 2 things are wrong (✗), 1 to know about (·)'
    """
    wrong, notes = states.count("bad"), states.count("note")
    said = []
    if wrong:
        said.append(f"{wrong} {'thing is' if wrong == 1 else 'things are'} wrong ({MARKS['bad']})")
    if notes:
        said.append(f"{notes} to know about ({MARKS['note']})")
    return "health: " + (", ".join(said) or "good")


def readable(size: float) -> str:
    """Bytes as a person reads them: powers of 1000.

    Doctest:
        >>> readable(11728320)
        '11.7 MB'
    """
    unit = next((i for i in range(len(UNITS)) if size < 999.5 * 1000**i), len(UNITS) - 1)
    return f"{size / 1000**unit:.3g} {UNITS[unit]}"


def number(count: int) -> str:
    """A count of parameters as a person reads it.

    Doctest:
        >>> number(15706484224)
        '15.7 billion'
    """
    for size, word in ((1e9, " billion"), (1e6, " million")):
        if count >= size:
            return f"{count / size:.3g}{word}"
    return str(count)
