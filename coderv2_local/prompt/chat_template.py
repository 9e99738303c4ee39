"""A file's own chat template, rendered without letting any text act as a special token.

The template sees only short stand-ins for the messages' texts. What it writes around them is encoded with special
tokens, the texts themselves as plain text; so its output depends on the roles alone, and is kept for them.
"""

import json
import re
import subprocess
import sys
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from coderv2_local.prompt import render_template
from quant.errors import InputError

if TYPE_CHECKING:
    from coderv2_local.prompt.layout import Message
    from coderv2_local.vocabulary import Vocabulary

SECONDS = 20  # of waiting: the process has its own limit of computing
MAX_LENGTH = 1_000_000  # characters that a template may write around the texts
STAND_IN = re.compile("\ue000(\\d+)\ue001")  # private use: no template writes these
HINT = "`coder convert` from the original checkpoint writes the right one"


def template_prompt(messages: "Sequence[Message]", template: str, vocabulary: "Vocabulary") -> list[int]:
    """Ids of a conversation as `template` lays it out, ready for the assistant's turn.

    An assistant's last turn, which was cut, is gone on with: nothing follows it.

    Raises:
        InputError: the template cannot be rendered, or leaves a message out.
    """
    cut = messages[-1] if messages and messages[-1].role == "assistant" else None
    shown = messages[:-1] if cut else messages
    bos, eos = vocabulary.text(vocabulary.bos), vocabulary.text(vocabulary.eos)
    parts = STAND_IN.split(layout(template, tuple(m.role for m in shown), bos, eos))
    missing = set(range(len(shown))) - {int(n) for n in parts[1::2]}
    if missing or any(int(n) >= len(shown) for n in parts[1::2]):
        role = shown[min(missing)].role if missing else "unknown"
        raise InputError(f"the model file's chat template has no place for a {role} message", hint=HINT)
    ids: list[int] = []
    for i, part in enumerate(parts):
        ids += own_ids(shown[int(part)], vocabulary) if i % 2 else vocabulary.encode_with_special(part)
    if not ids or ids[0] != vocabulary.bos:
        ids.insert(0, vocabulary.bos)
    return ids + (own_ids(cut, vocabulary) if cut else [])


def own_ids(message: "Message", vocabulary: "Vocabulary") -> list[int]:
    """A message's text as ids: as they were generated, where that is known."""
    return vocabulary.encode(message.content) if message.ids is None else list(message.ids)


@lru_cache(maxsize=256)
def layout(template: str, roles: tuple[str, ...], bos: str, eos: str) -> str:
    """What a template writes around messages of these roles, with stand-ins for their texts.

    Raises:
        InputError: it fails, takes too long, or writes too much.
    """
    asked = {
        "template": template,
        "messages": [{"role": role, "content": f"\ue000{i}\ue001"} for i, role in enumerate(roles)],
        "add_generation_prompt": True,
        "bos_token": bos,
        "eos_token": eos,
    }
    program = Path(render_template.__file__)
    try:
        done = subprocess.run(
            [sys.executable, "-I", str(program)],
            input=json.dumps(asked),
            capture_output=True,
            text=True,
            encoding="utf-8",
            timeout=SECONDS,
            check=False,
        )
        answer = json.loads(done.stdout) if done.returncode == 0 else {"error": "it takes too much time or memory"}
    except subprocess.TimeoutExpired:
        answer = {"error": "it takes too long"}
    if "error" in answer:
        raise InputError(f"the model file's chat template cannot be used: {answer['error']}", hint=HINT)
    text = str(answer["text"])
    if len(text) > MAX_LENGTH:
        raise InputError("the model file's chat template cannot be used: it writes far too much", hint=HINT)
    return text
