"""`coder inspect`: what a GGUF file is, and how it stands."""

import json
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from coderv2_local.stream import printable

if TYPE_CHECKING:
    from coderv2_local.inspection import Inspection

MARKS = {"ok": "✓", "note": "·", "bad": "✗"}
LONGEST = 100


def inspect(
    model: Annotated[str, typer.Argument(metavar="MODEL.gguf", help="The file; `tiny` is the embedded model.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
) -> None:
    """Show a model file's shapes, types, sizes and metadata, and check its health. Only the header is read.

    Example: coder inspect lite.gguf
    """
    from coderv2_local.inspection import inspect as look
    from coderv2_local.models import find_model

    found = look(find_model(model).path)
    if as_json:
        typer.echo(json.dumps(found.to_json(), indent=2, ensure_ascii=False))
    else:
        show(found)


def show(found: "Inspection") -> None:
    """The report, on stdout. What the file says of itself is stripped of control characters."""
    out = Console(highlight=False, soft_wrap=True, markup=False)
    c = found.config
    out.print(
        f"{printable(found.name)}: {found.parameters / 1e9:.3g} billion parameters, {found.bits:.2f} bits a weight"
    )
    queries = f"queries by way of {c.q_lora_rank}" if c.q_lora_rank else "queries not compressed"
    out.print(f"{c.n_layers} layers ({c.n_dense_layers} dense), width {c.hidden_size}, {c.n_heads} heads, {queries}")
    heads = f"{c.qk_nope_head_dim} + {c.qk_rope_head_dim} (rotary), values {c.v_head_dim}"
    out.print(f"latent of {c.kv_lora_rank}; head dims {heads}; context {c.max_context}; vocabulary {c.vocab_size}")
    experts = f"{c.n_experts_per_token} of {c.n_routed_experts} experts of {c.expert_ffn_size}"
    out.print(f"{experts}, {c.n_shared_experts} shared; weights × {c.routed_scaling_factor:g}")
    out.print()
    table = Table(box=None, pad_edge=False)
    for column in ("class", "tensors", "parameters", "bytes", "types"):
        table.add_column(column, justify="left" if column in ("class", "types") else "right")
    for k in found.classes:
        types = ", ".join(f"{name} × {n}" for name, n in k.types.items())
        table.add_row(k.name, str(k.tensors), str(k.parameters), str(k.nbytes), types)
    out.print(table)
    out.print()
    for key, value in found.metadata.items():
        text = printable(f"{key} = {value}").replace("\n", "⏎")
        out.print(text if len(text) <= LONGEST else text[: LONGEST - 1] + "…")
    out.print()
    for check in found.checks:
        out.print(f"{MARKS[check.state]} {printable(check.text)}")
