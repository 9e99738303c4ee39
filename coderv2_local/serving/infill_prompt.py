"""A hole, and pieces of other files → the ids of an infill prompt, cut to budgets as `coder fim` cuts them."""

from collections.abc import Sequence

from coderv2_local.fim.context import Snippet, preamble
from coderv2_local.fim.hole import Hole
from coderv2_local.fim.window import USUAL, Budgets, budgets_for, counter, window
from coderv2_local.prompt import infill_prompt
from coderv2_local.serving.errors import bad
from coderv2_local.serving.state import Serving

LONGEST_MIDDLE = 128  # where a request does not say
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
    """The ids of an infill prompt.

    Other files may take a quarter of the context. What a client sends beyond the budgets is left out, the text nearest
    the hole last.

    Args:
        as_it_is: leave nothing out, unless it does not fit the context.

    Raises:
        ApiError: this model has no infill.
    """
    backend = serving.backend
    if not backend.capabilities.infill:
        raise bad(f"{serving.name} cannot fill in: its file has no fill-in-the-middle tokens", code="no_infill")
    wanted = LONGEST_MIDDLE if limit is None or limit < 0 else limit
    encode = backend.vocabulary.encode
    if as_it_is and not snippets:
        ids = infill_prompt(encode(prefix), encode(suffix), backend.vocabulary)
        if len(ids) + wanted <= backend.n_ctx:
            return ids
    asked = Budgets(USUAL.prefix, USUAL.suffix, backend.n_ctx // 4)
    budgets = budgets_for(backend, wanted, asked, has_context=bool(snippets), asked=True)
    count = counter(backend)
    seen = window(Hole(prefix, suffix), count, budgets)
    before = preamble(snippets, OWN_LABEL, count, budgets.context) + seen.prefix.replace("\r\n", "\n")
    return infill_prompt(encode(before), encode(seen.suffix.replace("\r\n", "\n")), backend.vocabulary)
