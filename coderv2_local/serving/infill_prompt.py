"""A hole, and pieces of other files → the ids of an infill prompt, cut to budgets as `coder fim` cuts them."""

from collections.abc import Sequence

from coderv2_local.fim.context import Snippet, preamble
from coderv2_local.fim.hole import Hole
from coderv2_local.fim.window import JOINS, USUAL, Budgets, Count, budgets_for, window
from coderv2_local.prompt.layout import infill_prompt
from coderv2_local.serving.errors import bad
from coderv2_local.serving.state import Serving

LONGEST_MIDDLE = 128  # where a request does not say
LONGEST_TOKEN = 16  # characters that a token of code has at most on the average: more need not be counted
OWN_LABEL = "this file"


def infill_ids(
    serving: Serving,
    prefix: str,
    suffix: str,
    limit: int | None,
    snippets: Sequence[Snippet] = (),
    *,
    as_it_is: bool = False,
) -> list[int]:
    """The ids of an infill prompt, as :func:`infill_layout` makes them."""
    return infill_layout(serving, prefix, suffix, limit, snippets, as_it_is=as_it_is)[0]


def infill_layout(
    serving: Serving,
    prefix: str,
    suffix: str,
    limit: int | None,
    snippets: Sequence[Snippet] = (),
    *,
    as_it_is: bool = False,
) -> tuple[list[int], bool]:
    """The ids of an infill prompt, and whether some of the text around the hole is left out of it.

    Other files may take a quarter of the context. What a client sends beyond the budgets, or the context, is left out,
    the text nearest the hole last.

    Args:
        as_it_is: only the context is a limit; a quarter of it at most is held free for a long middle.

    Raises:
        ApiError: this model has no infill.
    """
    backend = serving.backend
    if not backend.capabilities.infill:
        raise bad(f"{serving.name} cannot fill in: its file has no fill-in-the-middle tokens", code="no_infill")
    wanted = LONGEST_MIDDLE if limit is None or limit < 0 else limit
    encode, count, n_ctx = serving.lines.encode, serving.lines.count, backend.n_ctx

    def as_sent(text: str) -> str:
        return text if as_it_is else text.replace("\r\n", "\n")

    room = n_ctx - min(wanted, n_ctx // 4) if as_it_is else min(n_ctx - wanted, USUAL.prefix + USUAL.suffix)
    if not snippets and len(prefix) + len(suffix) <= room * LONGEST_TOKEN:
        ids = infill_prompt(encode(as_sent(prefix)), encode(as_sent(suffix)), backend.vocabulary)
        if len(ids) <= room:
            return ids, False
    if as_it_is:
        budgets = _all_of(max(room - JOINS, 16), prefix, suffix, count, has_context=bool(snippets))
    else:
        asked = Budgets(USUAL.prefix, USUAL.suffix, n_ctx // 4)
        budgets = budgets_for(backend, wanted, asked, has_context=bool(snippets), asked=True)
    seen = window(Hole(prefix, suffix), count, budgets)
    before = preamble(snippets, OWN_LABEL, count, budgets.context) + as_sent(seen.prefix)
    ids = infill_prompt(encode(before), encode(as_sent(seen.suffix)), backend.vocabulary)
    return ids, len(seen.prefix) + len(seen.suffix) < len(prefix) + len(suffix)


def _all_of(room: int, prefix: str, suffix: str, count: Count, *, has_context: bool) -> Budgets:
    """`room` tokens, shared: a quarter for other files, a quarter of the rest for the suffix; and what the text on one
    side of the hole leaves free is the other's.
    """
    context = room // 4 if has_context else 0
    room -= context
    most = room * LONGEST_TOKEN
    after = min(count(suffix[:most]), max(room // 4, room - count(prefix[-most:])))
    return Budgets(room - after, after, context)


def template_parts(serving: Serving, prompt: str) -> tuple[str, str] | None:
    """Prefix and suffix of a prompt that a client laid out for infill by itself; None for any other text.

    Some editors write the names of this model's special tokens into the prompt. Special tokens in a text are text here;
    only a prompt that is this layout as a whole, each name at its place and nowhere else, is taken for what it means.
    """
    if not serving.backend.capabilities.infill:
        return None
    vocabulary = serving.backend.vocabulary
    fim = vocabulary.fim()
    begin, hole, end = (vocabulary.text(i) for i in (fim.begin, fim.hole, fim.end))
    prompt = prompt.removeprefix(vocabulary.text(vocabulary.bos))
    if (
        not prompt.startswith(begin)
        or not prompt.endswith(end)
        or any(prompt.count(t) != 1 for t in (begin, hole, end))
    ):
        return None
    prefix, _, suffix = prompt[len(begin) : -len(end)].partition(hole)
    return prefix, suffix
