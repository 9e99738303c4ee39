"""Edits that an answer proposes: shown as a diff, written on demand, taken back."""

from typing import TYPE_CHECKING

from rich.markup import escape

from coderv2_local.edits import Journal, Workspace, apply_edits, interrupted, propose, undo
from coderv2_local.home import home_folder
from coderv2_local.stream import printable
from quant.errors import InputError

if TYPE_CHECKING:
    from cli.repl import Repl
    from coderv2_local.edits import Proposal

STYLES = {"+": "green", "-": "red", "@": "cyan"}


def journal() -> Journal:
    """The undo journal of this user."""
    return Journal(home_folder("undo"))


def find_edits(repl: "Repl", answer: str) -> None:
    """Remember what the answer proposes, and say so in a line."""
    repl.proposals = propose(answer, Workspace(repl.conversation.root))
    good = [p for p in repl.proposals if p.can_apply]
    if good:
        repl.note(f"edits proposed: {', '.join(p.path for p in good)} · /diff shows them, /apply writes them", "cyan")
    for proposal in repl.proposals:
        for refusal in proposal.refusals:
            repl.note(f"an edit is refused: {refusal.message}" + (f" ({refusal.hint})" * bool(refusal.hint)), "yellow")


def show(repl: "Repl") -> None:
    """Print the proposals as coloured diffs."""
    if not repl.proposals:
        raise InputError("the last answer proposes no edit")
    for proposal in repl.proposals:
        if proposal.can_apply:
            repl.note(f"{proposal.kind} {proposal.path}", "bold")
            show_diff(repl, proposal)
        for refusal in proposal.refusals:
            repl.note(f"refused: {refusal.message}", "yellow")


def show_diff(repl: "Repl", proposal: "Proposal") -> None:
    for line in printable(proposal.diff()).split("\n"):
        style = "bold" if line.startswith(("+++", "---")) else STYLES.get(line[:1], "default")
        repl.screen.print(f"[{style}]{escape(line)}[/]", soft_wrap=True)


def apply(repl: "Repl", names: list[str]) -> None:
    """Write the proposals, or those for the named files."""
    chosen = [p for p in repl.proposals if not names or p.path in names]
    unknown = set(names) - {p.path for p in chosen}
    if unknown:
        raise InputError(f"the last answer proposes no edit of {', '.join(sorted(unknown))}")
    if not names:
        chosen = [p for p in chosen if p.can_apply] or chosen
    if not chosen:
        raise InputError("the last answer proposes no edit")
    change = apply_edits(chosen, Workspace(repl.conversation.root), journal(), made_by="chat")
    for file in change.files:
        repl.note(f"{'deleted' if file.after is None else 'written'}: {file.path} · /undo takes it back", "green")
    repl.proposals = [p for p in repl.proposals if p not in chosen]


def take_back(repl: "Repl") -> None:
    """Take back the last change in this folder."""
    change = undo(journal(), root=Workspace(repl.conversation.root).root)
    for file in change.files:
        repl.note(f"{'removed' if file.before is None else 'restored'}: {file.path}", "green")


def tell_interrupted(repl: "Repl") -> None:
    """Say at the start that an earlier program was ended while it wrote edits."""
    for change in interrupted(journal(), root=Workspace(repl.conversation.root).root):
        names = ", ".join(file.path for file in change.files)
        repl.note(f"an edit was interrupted half-way ({names}): /undo takes it back", "yellow")
