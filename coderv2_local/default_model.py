"""Which of the installed models answers where the user names none."""

from collections.abc import Sequence

from coderv2_local.installed import Installed
from coderv2_local.registry import CHAT_ORDER, known_models

FIM_ORDER = ("yes", "incidental", "reported")
"""Published models by what is known of their training for infill; the small ones answer while one types."""


def default_model(role: str, among: Sequence[Installed]) -> Installed | None:
    """The best of the installed models for a role, or None where none suits it.

    Published models come first, in the order in which one would choose them; then the user's own, the newest first.

    Args:
        role: "chat", "fim", or "serve", which chats first of all.
        among: what is installed; what has no file any more is passed over.
    """
    if role == "serve":
        return default_model("chat", among) or default_model("fim", among)
    suited = [(rank, e) for e in among if not e.missing and (rank := _rank(role, e)) is not None]
    return min(suited, key=lambda pair: (pair[0], -pair[1].added))[1] if suited else None


def _rank(role: str, entry: Installed) -> int | None:
    known = known_models().get(entry.name)
    if role == "fim":
        if "fim" in entry.roles:
            return 0 if known else 1
        return 2 + FIM_ORDER.index(known.fim) if known and known.fim in FIM_ORDER else None
    if role not in entry.roles:
        return None
    return CHAT_ORDER.index(entry.name) if entry.name in CHAT_ORDER else len(CHAT_ORDER)
