"""Tokens of a text, as the server's own tokenizer counts them."""

import re
from collections.abc import Sequence
from typing import Any

from coderv2_local.prompt.layout import ChatFormat, Message, chat_format
from coderv2_local.remote.client import Client
from coderv2_local.remote.failures import RemoteError
from coderv2_local.remote.flavours import Flavour, Served
from quant.errors import InputError

BOS, FIM_HOLE, FIM_BEGIN, FIM_END = 100000, 100002, 100003, 100004
"""Ids of the published tokenizer of DeepSeek-Coder-V2, from its tokenizer.json."""
FIRST_SPECIAL = BOS
SPELLINGS = {FIM_HOLE: "<｜fim▁hole｜>", FIM_BEGIN: "<｜fim▁begin｜>", FIM_END: "<｜fim▁end｜>"}
INSIDE_SPECIAL = re.compile("(?<=<)(?=[|｜])")
"""Where a special token that someone typed is cut apart: all of this family begin with ``<｜`` or ``<|``."""


class Tokenizer:
    """The tokenizer behind a server.

    Attributes:
        can_count: does this kind of server count at all?
    """

    def __init__(self, client: Client, served: Served) -> None:
        self._client, self._served = client, served
        self.can_count = served.flavour in (
            Flavour.LLAMA_SERVER,
            Flavour.VLLM,
            Flavour.SGLANG,
            Flavour.LLAMA_CPP_PYTHON,
        )
        self._always_added: int | None = None

    def count(self, text: str) -> int | None:
        """Tokens of a text; None where the server cannot say."""
        if not self.can_count:
            return None
        if self._served.flavour is Flavour.LLAMA_CPP_PYTHON:
            if self._always_added is None:  # it adds BOS where the model has one
                self._always_added = self._extras_count("")
            return self._extras_count(text) - self._always_added
        return len(self._tokenize(self._plain(text)))

    def prompt_length(self, messages: Sequence[Message]) -> int | None:
        """Tokens of a conversation, laid out by the server's template; None where the server cannot say."""
        if not messages and self._served.flavour in (Flavour.LLAMA_SERVER, Flavour.VLLM):
            return 0  # they refuse to lay out nothing
        turns = [{"role": m.role, "content": m.content} for m in messages]
        if self._served.flavour is Flavour.LLAMA_SERVER:
            laid_out = self._post("apply-template", {"messages": turns}, "prompt", str)
            length = len(self._tokenize({"content": laid_out, "add_special": True, "parse_special": True}))
            return length + (self._typed_special(messages) if self._served.is_own else 0)
        if self._served.flavour is Flavour.VLLM:
            body = {"model": self._served.model, "messages": turns, "add_generation_prompt": True}
            return int(self._post("tokenize", body, "count", int))
        return None

    def _typed_special(self, messages: Sequence[Message]) -> int:
        """How many tokens more the special tokens take that somebody typed, where they stay text, as with us."""
        is_plain = chat_format(self._served.template or None) is ChatFormat.PLAIN
        more = 0
        for message in messages:
            if INSIDE_SPECIAL.search(message.content):
                # with the layout's own signs around it, that can become one token with the first and the last
                before = " " * (is_plain and message.role != "system")
                text = before + message.content + "\n\n" * (is_plain and message.role != "assistant")
                plain, parsed = (self._tokenize(self._plain(text) | {"parse_special": p}) for p in (False, True))
                more += len(plain) - len(parsed)
        return more

    def plain_ids(self, text: str) -> list[int]:
        """Ids of `text` as plain text, from a server with the published tokenizer of DeepSeek-Coder-V2.

        These servers read special tokens in any text, so one that somebody typed is cut apart first.

        Raises:
            RemoteError: a special token came back all the same.
        """
        ids: list[int] = []
        for part in INSIDE_SPECIAL.split(text):
            if part:
                ids += self._tokenize(self._plain(part))
        if any(i >= FIRST_SPECIAL for i in ids):
            raise RemoteError(f"{self._client.address} turned plain text into special tokens")
        return ids

    def has_fim_ids(self) -> bool:
        """Are the infill ids those of DeepSeek-Coder-V2? Asked by decoding them."""
        for token, spelling in SPELLINGS.items():
            body = {"model": self._served.model, "tokens": [token], "skip_special_tokens": False}
            try:
                answer = self._client.post(f"{self._client.address.root}/detokenize", body)
            except (RemoteError, InputError):
                return False
            if not isinstance(answer, dict) or spelling not in (answer.get("prompt"), answer.get("text")):
                return False
        return True

    def _plain(self, text: str) -> dict[str, Any]:
        if self._served.flavour is Flavour.LLAMA_SERVER:
            return {"content": text, "add_special": False, "parse_special": False}
        return {"model": self._served.model, "prompt": text, "add_special_tokens": False}

    def _tokenize(self, body: dict[str, Any]) -> list[int]:
        ids = self._post("tokenize", body, "tokens", list)
        if not all(isinstance(i, int) for i in ids):
            raise RemoteError(f"{self._client.address}: /tokenize gives something else than ids")
        return list(ids)

    def _extras_count(self, text: str) -> int:
        return int(self._post("extras/tokenize/count", {"input": text}, "count", int))

    def _post(self, path: str, body: dict[str, Any], name: str, kind: type) -> Any:
        answer = self._client.post(f"{self._client.address.root}/{path}", body)
        value = answer.get(name) if isinstance(answer, dict) else None
        if not isinstance(value, kind):
            raise RemoteError(f"{self._client.address}: /{path} gives no {name!r}")
        return value
