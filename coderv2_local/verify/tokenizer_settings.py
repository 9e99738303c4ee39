"""The tokenizer in a GGUF's metadata against its source's: text that is split otherwise is another text."""

from collections.abc import Iterator, Mapping
from typing import Any

from converters.tokenizer import CONTROL, FIM_TOKENS, NORMAL, UNUSED, USER_DEFINED

_PREFIX = "tokenizer.ggml."
_SPECIAL = (CONTROL, USER_DEFINED)
_PLAIN = {
    "model": "the kind of tokenizer",
    "pre": "the pre-tokenizer",
    "add_bos_token": "whether a text begins with BOS",
    "add_eos_token": "whether a text ends with EOS",
} | {f"{name}_token_id": f"{name}_token_id" for name in FIM_TOKENS}
"""Keys whose values must be equal where both have one. The ids of BOS and EOS are among the constants."""
TEMPLATE = "tokenizer.chat_template"


def tokenizer_against(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """What differs, in words: what makes the file wrong, and what a user should only know.

    Another converter may leave keys out, mark control tokens as user-defined ones and give padding another type, and a
    chat template may be mended on purpose: none of that makes the file wrong.

    Args:
        ours: the file's metadata.
        theirs: those that a file of the source should have.
    """
    wrong: list[str] = []
    notes: list[str] = []
    for name, words in _PLAIN.items():
        a, b = ours.get(_PREFIX + name), theirs.get(_PREFIX + name)
        if b is None or a == b:
            continue
        if a is None:
            notes.append(f"the file does not say {_PREFIX}{name}, its source does: {b!s:.60}")
        else:
            wrong.append(f"{words} is {a!s:.60} in the file, {b!s:.60} in its source")
    wrong += _merges(ours.get(_PREFIX + "merges"), theirs.get(_PREFIX + "merges"))
    for fault, words in _token_types(ours.get(_PREFIX + "token_type"), theirs.get(_PREFIX + "token_type")):
        (wrong if fault else notes).append(words)
    a, b = ours.get(TEMPLATE), theirs.get(TEMPLATE)
    if a != b and (a or b):
        notes.append("the chat template is another than in the source" if a and b else _one_sided(bool(a)))
    return wrong, notes


def _one_sided(in_file: bool) -> str:
    return f"the {'file' if in_file else 'source'} has a chat template, the {'source' if in_file else 'file'} has none"


def _merges(ours: Any, theirs: Any) -> list[str]:
    if not isinstance(theirs, list) or ours == theirs:
        return []
    if not isinstance(ours, list):
        return [f"the merges are missing in the file, its source has {len(theirs)}"]
    if len(ours) != len(theirs):
        return [f"there are {len(ours)} merges in the file, {len(theirs)} in its source"]
    at = next(i for i, (a, b) in enumerate(zip(ours, theirs, strict=True)) if a != b)
    return [f"the merges differ: number {at} is {ours[at]!r:.60} in the file, {theirs[at]!r:.60} in its source"]


def _token_types(ours: Any, theirs: Any) -> Iterator[tuple[bool, str]]:
    """(is it a fault?, words) for token types that differ."""
    if not isinstance(ours, list) or not isinstance(theirs, list):
        if isinstance(theirs, list):
            yield True, "the token types are missing in the file"
        return
    differ = [(i, a, b) for i, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b]
    grave = [d for d in differ if not _means_the_same(d[1], d[2])]
    mild = [d for d in differ if _means_the_same(d[1], d[2])]
    for fault, found in ((True, grave), (False, mild)):
        if found:
            i, a, b = found[0]
            yield fault, f"{len(found)} tokens have another type than in the source: {i} has {a!s:.20}, not {b}"


def _means_the_same(ours: Any, theirs: Any) -> bool:
    if theirs == UNUSED:
        return ours in (NORMAL, USER_DEFINED)
    return ours in _SPECIAL and theirs in _SPECIAL
