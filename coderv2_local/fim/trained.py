"""Was a model trained to fill in the middle? Decided by which model it is, not by its shape.

By the paper (section 3.1), DeepSeek-Coder-V2-Lite-Base was trained on fill-in-the-middle and the 236B was not. The
0724 update of the 236B and V2.5, which grew out of it, are reported to do it. Lite-Instruct kept the ability by the
way.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

NAME_KEYS = (
    ("general.name", "general.basename", "general.finetune", "general.size_label", "general.version"),
    ("coder.convert.source", "coder.convert.repository"),
    ("general.base_model.0.name", "general.base_model.0.repo_url", "general.source.url", "general.repo_url"),
)
"""Metadata that says which model a file is: the first group that does decides."""
FAMILY = re.compile(r"coder-?v2|v2-5|0724|236b")
FULL_SIZE = re.compile(r"236b|coder-?v2-(?:base|instruct)(?:-|$)")  # the latter: names of its published repositories
USE_INSTEAD = "`coder pull lite-base` gets DeepSeek-Coder-V2-Lite-Base, which was; --force uses this one all the same"


@dataclass(frozen=True)
class FimTraining:
    """What is known of a model's training for infill.

    Attributes:
        refusal: why it is not used; "" where it is.
        notice: what the user should know before an answer is trusted; "" where there is nothing.
    """

    refusal: str = ""
    notice: str = ""


def fim_training(name: str, metadata: Mapping[str, Any] | None = None) -> FimTraining:
    """What is known of the model that a file or a server calls itself.

    Args:
        name: the file's or the server's name for it; the metadata is asked first.
        metadata: of the file's header; None for a server.
    """
    said = [" ".join(str(metadata[key]) for key in keys if key in metadata) for keys in NAME_KEYS] if metadata else []
    texts = [re.sub(r"[\s_/.:]+", "-", text.lower()) for text in (*said, name)]
    for text in texts:
        if known := _known(text, name):
            return known
    if any(map(FAMILY.search, texts)):
        return FimTraining(
            notice=f"{name} names no size: Lite-Base was trained to fill in the middle, the 236B was not"
        )
    return FimTraining(notice=f"{name}: nothing is known of its training for infill")


def _known(text: str, name: str) -> FimTraining | None:
    """The verdict on a name, in lower case with hyphens; None where it does not say which model it is."""

    def has(*words: str) -> bool:
        return any(re.search(rf"(?:^|-){word}(?:-|$)", text) for word in words)

    if has("tiny"):
        return FimTraining()
    is_lite = has("lite", "16b", "15-7b", "64x1-5b")
    if has("lite-base") or (is_lite and has("base")):
        return FimTraining()
    if not FAMILY.search(text) and not (is_lite and "coder" in text):
        return None
    if is_lite:
        if not has("instruct", "chat"):
            return FimTraining(notice=f"{name}: Lite, but it does not say whether Base, which was trained for infill")
        return FimTraining(
            notice=f"{name} is an Instruct model: it fills in by the way only; `-m lite-base` was trained for it"
        )
    if has("0724", "v2-5", "1210"):
        return FimTraining(notice=f"{name} is reported to fill in, but its training for it is not documented")
    if FULL_SIZE.search(text):
        return FimTraining(refusal=f"{name} was not trained to fill in the middle: by the paper, the 236B was not")
    return None
