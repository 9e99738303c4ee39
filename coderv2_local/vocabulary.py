"""Text ↔ token ids, by the tokenizer that the model file carries.

Text from a user, a file or a model is never searched for special tokens: ``<｜fim▁hole｜>`` typed by hand is text.
Special tokens enter a prompt as ids, and only here are they looked up.
"""

import ctypes
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from coderv2_local.llama_library import llama
from quant.errors import InputError

NORMAL = 1  # llama_token_type
RUN = re.compile(r"\w+|\s+|[^\w\s]+")
LONGEST_RUN = 4096
"""Characters of one kind in a row that are encoded at once: llama.cpp splits text by regular expressions that recurse
for each character, and some ten thousand overflow the stack, which ends the process. Longer runs are no text."""
ROLES = ("bos", "eos", "eot", "sep", "nl", "pad", "fim_pre", "fim_suf", "fim_mid", "fim_pad", "fim_rep", "fim_sep")


@dataclass(frozen=True)
class FimIds:
    """The three ids of an infill prompt, in the order prefix, suffix, middle (``fim_begin``, ``fim_hole``,
    ``fim_end``).
    """

    begin: int
    hole: int
    end: int


class Vocabulary:
    """The tokenizer of a loaded model.

    Args:
        model: a ``llama_model`` pointer that outlives this object.
        types: ``tokenizer.ggml.token_type`` of the file's header, where it has been read: llama.cpp is then asked about
            the ids that are not ordinary there, not about all 102 400 (which takes 36 ms).

    Attributes:
        size: number of ids.
        bos, eos: ids of the tokens that begin a text and end it.
        handle: the ``llama_vocab`` pointer.
    """

    def __init__(self, model: Any, types: Sequence[int] | None = None) -> None:
        self._model = model  # keeps the owner of the pointer alive
        self.handle = self._vocab = llama.llama_model_get_vocab(model)
        self.size: int = llama.llama_vocab_n_tokens(self._vocab)
        self.bos: int = llama.llama_vocab_bos(self._vocab)
        self.eos: int = llama.llama_vocab_eos(self._vocab)
        self._pieces: dict[int, bytes] = {}
        self._special = {i for i in self._candidates(types) if llama.llama_vocab_is_control(self._vocab, i)}

    def _candidates(self, types: Sequence[int] | None) -> Iterable[int]:
        """The ids that can be special: without types, all. llama.cpp makes those special, too, that have a role."""
        if types is None or len(types) != self.size:
            return range(self.size)
        roles = (getattr(llama, f"llama_vocab_{role}")(self._vocab) for role in ROLES)
        return {i for i, kind in enumerate(types) if kind != NORMAL}.union(i for i in roles if i >= 0)

    def encode(self, text: str) -> list[int]:
        """Ids of `text` as plain text: nothing is added, nothing in it is taken for a special token."""
        return self._encode(text, with_special=False)

    def encode_with_special(self, text: str) -> list[int]:
        """Ids of a template's own text, in which the names of special tokens stand for them. Never for a user's."""
        return self._encode(text, with_special=True)

    def text(self, token: int) -> str:
        """The name of a token as the file has it, for a template; "" for none."""
        return llama.llama_vocab_get_text(self._vocab, token).decode("utf-8", "replace") if token >= 0 else ""

    def _encode(self, text: str, *, with_special: bool) -> list[int]:
        return [i for part in _without_long_runs(text) for i in self._encode_part(part, with_special)]

    def _encode_part(self, text: str, with_special: bool) -> list[int]:
        data = text.encode("utf-8", "replace")
        room = len(data) + 1
        while True:
            ids = (llama.llama_token * room)()
            n = llama.llama_tokenize(self._vocab, data, len(data), ids, room, False, with_special)
            if n >= 0:
                return list(ids[:n])
            room = -n

    def piece(self, token: int) -> bytes:
        """The bytes of one id: possibly a part of a character; b"" for special tokens."""
        known = self._pieces.get(token)
        if known is None:
            known = b"" if token in self._special else self._read_piece(token)
            self._pieces[token] = known
        return known

    def _read_piece(self, token: int) -> bytes:
        room = 64
        while True:
            buffer = ctypes.create_string_buffer(room)
            n = llama.llama_token_to_piece(self._vocab, token, buffer, room, 0, False)
            if n >= 0:
                return buffer.raw[:n]
            room = -n

    def decode(self, ids: list[int]) -> str:
        """Text of `ids`; bytes that are no UTF-8 become U+FFFD, special tokens nothing."""
        return b"".join(map(self.piece, ids)).decode("utf-8", "replace")

    def is_end(self, token: int) -> bool:
        """Does this id end a generation (EOS, EOT)?"""
        return bool(llama.llama_vocab_is_eog(self._vocab, token))

    def special_ids(self) -> list[int]:
        """The ids of all special tokens, in order."""
        return sorted(self._special)

    def special(self, name: str) -> int:
        """The id of a special token by its exact text.

        Raises:
            InputError: the file has no such token.
        """
        for token in self._special:
            text: bytes = llama.llama_vocab_get_text(self._vocab, token)
            if text == name.encode():
                return token
        raise InputError(f"the model file has no token {name}", hint="convert it again with `coder convert`")

    def fim(self) -> FimIds:
        """The ids for infilling.

        Raises:
            InputError: the file names none (``tokenizer.ggml.fim_*_token_id``).
        """
        ids = self._fim_ids()
        if min(ids) < 0:
            raise InputError(
                "this model file has no fill-in-the-middle token ids",
                hint="convert it again with `coder convert`, or use `-m tiny`",
            )
        return FimIds(*ids)

    @property
    def has_fim(self) -> bool:
        """Are there ids for infilling? llama.cpp finds some by the text of their tokens where no key names them, and
        drops those that a key names outside the vocabulary.
        """
        return min(self._fim_ids()) >= 0

    def _fim_ids(self) -> tuple[int, int, int]:
        """As in :class:`FimIds`; -1 where there is none."""
        return (
            llama.llama_vocab_fim_pre(self._vocab),
            llama.llama_vocab_fim_suf(self._vocab),
            llama.llama_vocab_fim_mid(self._vocab),
        )


def _without_long_runs(text: str) -> list[str]:
    """`text` in parts, cut only inside runs that are too long to be encoded at once."""
    if len(text) <= LONGEST_RUN:
        return [text]
    cuts = [at for run in RUN.finditer(text) for at in range(run.start() + LONGEST_RUN, run.end(), LONGEST_RUN)]
    return [text[start:end] for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]
