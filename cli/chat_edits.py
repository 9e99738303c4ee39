"""Edits that an answer proposes: shown as a diff, written on demand, taken back."""

from typing import TYPE_CHECKING

from cli.edit_screen import show_diff, undo_journal
from coderv2_local.edits import Workspace, apply_edits, interrupted, propose, undo
from quant.errors import InputError

if TYPE_CHECKING:
    from cli.repl import Repl


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
            show_diff(proposal.diff(), repl.screen)
        for refusal in proposal.refusals:
            repl.note(f"refused: {refusal.message}", "yellow")


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
    change = apply_edits(chosen, Workspace(repl.conversation.root), undo_journal(), made_by="chat")
    for file in change.files:
        repl.note(f"{'deleted' if file.after is None else 'written'}: {file.path} · /undo takes it back", "green")
    repl.proposals = [p for p in repl.proposals if p not in chosen]


def take_back(repl: "Repl") -> None:
    """Take back the last change in this folder."""
    change = undo(undo_journal(), root=Workspace(repl.conversation.root).root)
    for file in change.files:
        repl.note(f"{'removed' if file.before is None else 'restored'}: {file.path}", "green")


def tell_interrupted(repl: "Repl") -> None:
    """Say at the start that an earlier program was ended while it wrote edits."""
    for change in interrupted(undo_journal(), root=Workspace(repl.conversation.root).root):
        names = ", ".join(file.path for file in change.files)
        repl.note(f"an edit was interrupted half-way ({names}): /undo takes it back", "yellow")
