"""Which options and arguments of `coder fim` go together: what does not is said before anything is read."""

from collections.abc import Collection, Sequence

from coderv2_local.fim.target import TARGET
from quant.errors import InputError

ONE_ANSWER = ("--apply", "--json", "--stdin")
"""Options about one place and its answer: by hand, there are many."""


def check_usage(places: Sequence[str], given: Collection[str]) -> None:
    """Refuse what does not go together.

    Args:
        places: the arguments, FILE:LINE or the like.
        given: the options that were given, by their long names, such as ``--apply``.

    Raises:
        InputError: naming what is too much, or what is missing.
    """
    if "--undo" in given:
        others = [*places, *sorted(set(given) - {"--undo"})]
        if others:
            raise InputError(
                f"--undo takes back what was written last and goes with nothing else: there is {', '.join(others)}",
                hint="coder fim --undo",
            )
        return
    if "--context" in given and "--no-context" in given:
        raise InputError("--context shows a file and --no-context shows none", hint="leave one out")
    if "--context" in given and (files := [place for place in places if not TARGET.fullmatch(place)]):
        meant_for_context = len(files) < len(places)
        raise InputError(
            f"{files[0]!r} names no line",
            hint=f"--context takes one file: --context {files[0]} for another"
            if meant_for_context
            else f"say where to fill in: {files[0]}:LINE",
        )
    if len(places) > 1:
        raise InputError(
            f"{places[1]!r} is too much: one place is filled at a time",
            hint="--context FILE shows the model another file",
        )
    if not places:
        if too_much := [name for name in ONE_ANSWER if name in given]:
            raise InputError(
                f"{too_much[0]} needs a place to fill: without one, `coder fim` is interactive",
                hint=f"coder fim FILE:LINE {too_much[0]}",
            )
    elif "--stdin" in given and "--apply" in given:
        raise InputError("--stdin is a text that is not saved: --apply has no file to write", hint="leave one out")
