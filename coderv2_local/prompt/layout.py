"""Chat and infill prompts as token ids.

Two chat formats exist in this family, told apart by the file's own template and built from ids: that of DeepSeek-V2
and Coder-V2, plain text around EOS (``User: …\\n\\nAssistant:``, with no space after the last colon: with one, Lite
garbles its answer), and that of V2.5 with ``<｜User｜>`` and ``<｜Assistant｜>`` tokens. What a user typed is
encoded as plain text, never as special tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from coderv2_local.vocabulary import Vocabulary

Role = Literal["system", "user", "assistant"]
USER_TOKEN = "<｜User｜>"
ASSISTANT_TOKEN = "<｜Assistant｜>"


@dataclass(frozen=True)
class Message:
    """One turn of a conversation.

    Attributes:
        ids: of an assistant's turn, the ids as they were generated. Encoding the text again can give other ids, which
            would lose the evaluated prefix; None encodes `content`.
    """

    role: Role
    content: str
    ids: tuple[int, ...] | None = None


class ChatFormat(Enum):
    """How turns are laid out."""

    PLAIN = "plain"
    TOKENS = "tokens"
    TEMPLATE = "template"


def chat_format(template: str | None) -> ChatFormat:
    """The format of a file's chat template; files without one (Base models) get the plain format, and a template that
    is none of this family's is rendered (:mod:`coderv2_local.prompt.chat_template`).
    """
    if template is None:
        return ChatFormat.PLAIN
    if USER_TOKEN in template and ASSISTANT_TOKEN in template:
        return ChatFormat.TOKENS
    if "User: " in template and "Assistant:" in template:
        return ChatFormat.PLAIN
    return ChatFormat.TEMPLATE


def chat_prompt(
    messages: Sequence[Message], form: ChatFormat, vocabulary: "Vocabulary", template: str | None = None
) -> list[int]:
    """Ids of a conversation that the assistant is to continue; also its own last turn, where that was cut.

    Layout (plain): ``BOS {system}\\n\\nUser: {u1}\\n\\nAssistant: {a1}EOS User: {u2}\\n\\nAssistant:``, where EOS
    stands for the token and no space follows it.

    Args:
        template: the file's own; needed where `form` is TEMPLATE.

    Raises:
        InputError: a template that cannot be rendered.
    """
    if form is ChatFormat.TEMPLATE:
        from coderv2_local.prompt.chat_template import template_prompt

        return template_prompt(messages, template or "", vocabulary)
    ids = [vocabulary.bos]
    text = ""  # plain text that has not been encoded yet: neighbouring pieces are encoded as one
    for n, message in enumerate(messages, 1):
        if message.role == "assistant":
            text += "Assistant:" if form is ChatFormat.PLAIN else ""
            ids += [*vocabulary.encode(text), *_marker(form, "assistant", vocabulary)]
            ids += answer_ids(message, form, vocabulary)
            if n == len(messages):
                return ids
            ids.append(vocabulary.eos)
            text = ""
        elif form is ChatFormat.PLAIN:
            text += f"User: {message.content}\n\n" if message.role == "user" else f"{message.content}\n\n"
        elif message.role == "user":
            ids += [*vocabulary.encode(text), *_marker(form, "user", vocabulary)]
            text = message.content
        else:
            text += message.content
    text += "Assistant:" if form is ChatFormat.PLAIN else ""
    return ids + vocabulary.encode(text) + _marker(form, "assistant", vocabulary)


def answer_ids(message: Message, form: ChatFormat, vocabulary: "Vocabulary") -> list[int]:
    """Ids of an assistant's turn; in the plain format its text is preceded by the space that belongs to it."""
    if message.ids is not None:
        return list(message.ids)
    return vocabulary.encode(" " + message.content if form is ChatFormat.PLAIN else message.content)


def _marker(form: ChatFormat, role: Literal["user", "assistant"], vocabulary: "Vocabulary") -> list[int]:
    if form is ChatFormat.PLAIN:
        return []
    return [vocabulary.special(USER_TOKEN if role == "user" else ASSISTANT_TOKEN)]


def infill_prompt(prefix: Sequence[int], suffix: Sequence[int], vocabulary: "Vocabulary") -> list[int]:
    """Ids of an infill prompt in PSM order: ``BOS fim_begin prefix fim_hole suffix fim_end``; the middle and EOS
    follow.

    Raises:
        InputError: the file names no FIM ids.
    """
    fim = vocabulary.fim()
    return [vocabulary.bos, fim.begin, *prefix, fim.hole, *suffix, fim.end]
