"""The edits that an answer's Markdown proposes, in order, before any file is looked at."""

from coderv2_local.edits.blocks import SEARCH, Block, find_blocks, starts_diff
from coderv2_local.edits.file_edits import FileEdit, WholeFile
from coderv2_local.edits.file_names import can_be, name_in_comment, name_in_info, name_in_label
from coderv2_local.edits.search_replace import parse_search_replace
from coderv2_local.edits.unified_diff import parse_diff

DIFF = {"diff", "patch", "udiff"}


def find_edits(answer: str) -> list[FileEdit]:
    """The edits of files that an answer proposes. Code blocks that name no file propose none."""
    edits: list[FileEdit] = []
    last_searched = ""
    for block in find_blocks(answer):
        if any(SEARCH.fullmatch(line) for line in block.lines):
            named = name_in_info(block.info or "") or name_in_label(block.label) or last_searched
            found = parse_search_replace(block.lines, named, name_in_label)
            last_searched = found[-1].path
            edits += found
        elif _is_diff(block):
            found = parse_diff(block.lines, name_in_info(block.info or "") or name_in_label(block.label) or "")
            if not block.closed:
                found = [FileEdit(edit.path, "the answer ends in the middle of the diff", RETRY) for edit in found]
            edits += found
        elif edit := _whole_file(block):
            edits.append(edit)
    return edits


RETRY = "ask the model to continue, or to write it again"


def _is_diff(block: Block) -> bool:
    if block.language in DIFF or block.info is None:
        return True
    first = next((i for i, line in enumerate(block.lines) if line.strip()), None)
    return first is not None and starts_diff(block.lines, first)


def _whole_file(block: Block) -> FileEdit | None:
    """The block as a file's whole text; None where it names no file."""
    lines, comment = block.lines, ""
    name = name_in_info(block.info or "")
    if name is None:
        name = name_in_label(block.label)
        if name is None and lines and (name := name_in_comment(lines[0])):
            comment, lines = lines[0], lines[1:]
        if name is None or not can_be(name, block.language):
            return None
    if not block.closed:
        return FileEdit(name, "its code block is not closed: the answer was cut", RETRY)
    return WholeFile(name, lines=lines, comment=comment)
