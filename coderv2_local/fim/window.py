"""What of a hole's surroundings the model is shown: near text first, within budgets in tokens.

The prefix window begins at a place that moves in steps: a call near the last one then begins with the same tokens,
whose evaluated state is used again. The steps are places in the file, at the first line start after every so many
characters, so they do not depend on the cursor.
"""

from collections.abc import Callable
from dataclasses import dataclass

from coderv2_local.backend import Backend
from coderv2_local.fim.hole import Hole

PREFIX_TOKENS = 1536
SUFFIX_TOKENS = 256  # comes after the prefix, so it is evaluated again at every call
CONTEXT_TOKENS = 1024  # of other files
JOINS = 8  # BOS, the FIM ids, and places where encoding in parts costs a token more
UNKNOWN_CONTEXT = 4096  # tokens to count on where a server does not say
LEAST_FOR_CONTEXT = 2048  # tokens a context must have before other files are shown unasked
CHARACTERS_PER_TOKEN = 3  # a cautious guess where tokens cannot be counted
DENSITY_CHARACTERS = 2000  # of a file, to judge how many of them make a token

Count = Callable[[str], int]


@dataclass(frozen=True)
class Budgets:
    """Tokens for each part of the prompt."""

    prefix: int = PREFIX_TOKENS
    suffix: int = SUFFIX_TOKENS
    context: int = CONTEXT_TOKENS


USUAL = Budgets()


def counter(backend: Backend) -> Count:
    """Tokens of a text by the backend's own tokenizer, or an estimate where it has none."""

    def count(text: str) -> int:
        n = backend.count(text)
        return n if n is not None else len(text.encode("utf-8", "replace")) // CHARACTERS_PER_TOKEN + 1

    return count


def budgets_for(
    backend: Backend, max_tokens: int, wanted: Budgets, *, has_context: bool = False, asked: bool = False
) -> Budgets:
    """`wanted`, cut to what the backend's context holds.

    A quarter of the context at most is held free for the middle, so a large `max_tokens` does not blind the model.
    Small contexts have no room for other files, unless the user named them (`asked`).
    """
    size = backend.n_ctx or UNKNOWN_CONTEXT
    room = max(size - min(max_tokens, size // 4) - JOINS, 16)
    context = min(wanted.context, room // 4) if has_context and (asked or size >= LEAST_FOR_CONTEXT) else 0
    suffix = min(wanted.suffix, room // 4)
    return Budgets(min(wanted.prefix, room - suffix - context), suffix, context)


def window(hole: Hole, count: Count, budgets: Budgets) -> Hole:
    """The part of the hole's surroundings that fits the budgets."""
    return Hole(
        hole.prefix[prefix_start(hole.prefix, count, budgets.prefix) :],
        hole.suffix[: suffix_end(hole.suffix, count, budgets.suffix)],
    )


def prefix_start(prefix: str, count: Count, budget: int) -> int:
    """Where the prefix window begins: at the furthest step from which the text up to the hole fits the budget.

    A step is one to two thirds of what the budget holds, judged by the beginning of the file, which seldom changes;
    shorter where the text near the hole is so dense that three quarters of the budget would stay unused.
    """
    sample = prefix[:DENSITY_CHARACTERS]
    characters = budget * len(sample) // max(count(sample), 1)  # that the budget holds
    step = 1 << max(2 * characters // 3, 16).bit_length() - 1
    while step >= 16:
        start, used = _furthest_step(prefix, count, budget, step)
        if start == 0 or 4 * used >= budget:
            return start
        step //= 2
    return len(prefix) - len(_shorten(prefix[-budget * 4 :] if budget else "", count, budget, keep_end=True))


def _furthest_step(prefix: str, count: Count, budget: int, step: int) -> tuple[int, int]:
    """The furthest step whose text fits, and the tokens of that text; the end of the prefix where none does."""
    start, used = len(prefix), 0
    for n in range((len(prefix) - 1) // step, -1, -1):
        at = _line_start(prefix, n * step, step)
        if at >= start:
            continue
        more = count(prefix[at:start])
        if used + more > budget:
            break
        start, used = at, used + more
    return start, used


def _line_start(text: str, at: int, within: int) -> int:
    """The first line start at or after `at`, if there is one near; else `at` itself: a line without end."""
    if at == 0:
        return 0
    found = text.find("\n", at - 1, at - 1 + within)
    return found + 1 if found >= 0 else at


def suffix_end(suffix: str, count: Count, budget: int) -> int:
    """Where the suffix window ends: after the last line that fits the budget whole, or within the first."""
    end = used = 0
    while end < len(suffix):
        newline = suffix.find("\n", end)
        stop = newline + 1 if newline >= 0 else len(suffix)
        line = suffix[end:stop]
        used += count(line) if len(line) <= budget * 64 else budget + 1
        if used > budget:
            return end or len(_shorten(line[: budget * 8], count, budget, keep_end=False))
        end = stop
    return end


def _shorten(text: str, count: Count, budget: int, *, keep_end: bool) -> str:
    """The end or the beginning of `text` that fits the budget, found by halving."""
    while text and count(text) > budget:
        half = len(text) // 2
        text = text[len(text) - half :] if keep_end else text[:half]
    return text
