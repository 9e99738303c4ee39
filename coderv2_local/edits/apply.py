"""Make proposed edits: all of them or none, recorded in the undo journal before the first file is touched."""

import os
import secrets
import stat
from collections.abc import Sequence

from coderv2_local.edits.journal import Change, ChangedFile, Journal
from coderv2_local.edits.proposal import Proposal
from coderv2_local.edits.put import changed_meanwhile, put
from coderv2_local.edits.refusal import EditRefused
from coderv2_local.edits.restore import settle, take_back
from coderv2_local.edits.text_files import digest_of
from coderv2_local.edits.workspace import Workspace


def apply_edits(proposals: Sequence[Proposal], workspace: Workspace, journal: Journal, *, made_by: str) -> Change:
    """Write the proposals to disk.

    If one fails, or the user interrupts, those already written are put back.

    Args:
        workspace: the one that the proposals were made in.
        made_by: the command, for the journal: "chat" or "fim".

    Raises:
        EditRefused: a proposal is refused, a file changed since the proposal was made or is write-protected, the disk
            is full. No file is changed then.
    """
    for proposal in proposals:
        if proposal.refusals:
            raise proposal.refusals[0]
    if not proposals:
        raise EditRefused("there is no edit to apply")
    with journal.locked():
        settle(journal)
        change = _record(proposals, workspace, journal, made_by)
        try:
            for file, proposal in zip(change.files, proposals, strict=True):
                put(workspace, file.path, proposal.after, file.before, file.temporary)
        except BaseException as error:  # Ctrl-C, too
            _take_back(change, journal, error)
            raise
        journal.finish(change)
    return change


def _record(proposals: Sequence[Proposal], workspace: Workspace, journal: Journal, made_by: str) -> Change:
    """Put the change into the journal, with the files as they are: they must be as the proposals knew them."""
    token = secrets.token_hex(4)
    files, before = [], []
    for i, proposal in enumerate(proposals):
        now = _as_proposed(proposal, workspace)
        before.append(now[0] if now else None)
        files.append(
            ChangedFile(
                path=proposal.path,
                before=proposal.before,
                after=None if proposal.after is None else digest_of(proposal.after),
                mode=stat.S_IMODE(now[1].st_mode) if now else None,
                temporary=f".coder-{token}-{i}.tmp",
            )
        )
    folders = list(dict.fromkeys(f for p in proposals for f in workspace.missing_folders(p.path)))
    return journal.record(workspace.root, made_by, files, before, folders)


def _as_proposed(proposal: Proposal, workspace: Workspace) -> tuple[bytes, os.stat_result] | None:
    """The file as it is, which must be as it was when the proposal was made.

    Raises:
        EditRefused: it is not, or it is write-protected, or a link has come into its way.
    """
    now = workspace.read(proposal.path)
    if (digest_of(now[0]) if now else None) != proposal.before:
        raise changed_meanwhile(proposal.path)
    if now and not now[1].st_mode & 0o222:  # to replace it would need no permission to write it
        raise EditRefused(
            f"{proposal.path} is write-protected", path=proposal.path, hint=f"chmod u+w {proposal.path} if you mean it"
        )
    return now


def _take_back(change: Change, journal: Journal, error: BaseException) -> None:
    """After a failure. If this fails, too, the record stays, and says so."""
    try:
        take_back(change, journal)
        journal.forget(change)
    except (EditRefused, OSError) as second:
        raise EditRefused(
            f"applying failed ({error}), and so did putting back what was written ({second})",
            hint="undo takes it back when the reason is gone",
        ) from error
