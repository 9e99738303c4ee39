"""How like an answer is to what stood there."""

import ast
import warnings


def exact_match(answer: str, truth: str) -> bool:
    """Are they the same, but for blanks at both ends?"""
    return answer.strip() == truth.strip()


def edit_similarity(answer: str, truth: str) -> float:
    """2 · (longest common subsequence) / (both lengths), without blanks at both ends: 1 for equal texts, 0 for texts
    with nothing in common. It is one minus the normalized insertion and deletion distance.
    """
    a, b = answer.strip(), truth.strip()
    if not a and not b:
        return 1.0
    return 2 * common_subsequence(a, b) / (len(a) + len(b))


def common_subsequence(a: str, b: str) -> int:
    """Length of the longest common subsequence, by bits of long integers: Hyyrö, "Bit-parallel LCS-length computation
    revisited" (2004).
    """
    places: dict[str, int] = {}
    for i, c in enumerate(a):
        places[c] = places.get(c, 0) | 1 << i
    full = (1 << len(a)) - 1
    row = full  # a 0 stands where the length grows
    for c in b:
        matches = row & places.get(c, 0)
        row = ((row + matches) | (row - matches)) & full
    return len(a) - row.bit_count()


def parses(text: str) -> bool:
    """Is it Python that parses?"""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            ast.parse(text)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            return False
    return True
