"""Edits of files that a model proposes: found in its answer, shown as a diff, applied whole or not at all, undone.

The flow, a module each::

    answer → blocks → answers (file_names, unified_diff, search_replace) → proposals (workspace, hunks) → apply → undo
                                                                                     journal ────────────────┘

`propose` reads an answer and the files that it names, and writes nothing. What cannot be done is part of a proposal,
as `refusals`, so that the user sees it. `apply_edits` records the bytes before in a `Journal`, then writes each file in
one step; `undo` puts them back, also after the process was killed in between. `propose_range` is the edit of one place
that `coder fim --apply` makes. All that a model wrote is data: a path is resolved inside the `Workspace` or refused.
"""

from coderv2_local.edits.apply import apply_edits
from coderv2_local.edits.journal import Change, ChangedFile, Journal
from coderv2_local.edits.proposal import Proposal
from coderv2_local.edits.proposals import propose
from coderv2_local.edits.ranges import propose_range
from coderv2_local.edits.refusal import Busy, EditRefused, NothingToUndo
from coderv2_local.edits.text_files import FileText, decode, read_text
from coderv2_local.edits.undo import interrupted, undo
from coderv2_local.edits.workspace import Workspace

__all__ = [
    "Busy",
    "Change",
    "ChangedFile",
    "EditRefused",
    "FileText",
    "Journal",
    "NothingToUndo",
    "Proposal",
    "Workspace",
    "apply_edits",
    "decode",
    "interrupted",
    "propose",
    "propose_range",
    "read_text",
    "undo",
]
