"""Text → ids, with lines remembered: an editor sends the same file again and again, and only a line or two are new.

The tokenizer of this family takes every line break for a word of its own before anything else, so that a text's ids are
those of its lines one after the other. Encoding costs about a millisecond for each thousand characters: for a long
file, more than evaluating what the user has typed since takes with a small model.
"""

from array import array
from collections.abc import Mapping
from typing import Any

from coderv2_local.vocabulary import Vocabulary

LINE_BY_LINE = frozenset({"deepseek-llm", "deepseek-coder"})
"""Values of ``tokenizer.ggml.pre`` whose first rule is ``[\\r\\n]``: a line break is never part of a longer word."""
MOST_LINES = 16_384
LONGEST_LINE = 256
"""Characters of a line that is remembered. Lines of code take some 5 MB together, the longest there can be 40."""


class LineIds:
    """Encodes texts as :meth:`Vocabulary.encode` does, faster where it has met their lines before. Any thread may.

    Args:
        metadata: of the model file; a tokenizer that may join words across lines is given every text whole.
    """

    def __init__(self, vocabulary: Vocabulary, metadata: Mapping[str, Any]) -> None:
        self._encode = vocabulary.encode
        self._line_break = vocabulary.encode("\n")
        self._by_lines = metadata.get("tokenizer.ggml.pre") in LINE_BY_LINE and len(self._line_break) == 1
        self._known: dict[str, array[int]] = {}

    def __len__(self) -> int:
        return len(self._known)

    def encode(self, text: str) -> list[int]:
        """Ids of `text` as plain text."""
        if not self._by_lines:
            return self._encode(text)
        *lines, last = text.split("\n")
        found = [self._known.get(line) for line in lines]
        new = [line for line, ids in zip(lines, found, strict=True) if ids is None]
        *fresh, rest = self._encode_lines([*new, last])  # the line that is being typed is new each time
        encoded = iter(fresh)
        ids: list[int] = []
        for known in found:
            ids.extend(next(encoded) if known is None else known)
        ids.extend(rest)
        return ids

    def count(self, text: str) -> int:
        """How many ids :meth:`encode` gives."""
        return len(self.encode(text))

    def _encode_lines(self, lines: list[str]) -> list["array[int]"]:
        """The ids of each line, with its line break but for the last. All at once: each call of the tokenizer costs."""
        if lines == [""]:
            return [array("i")]
        ids = array("i", self._encode("\n".join(lines)))
        parts, start = [], 0
        for line in lines[:-1]:
            end = ids.index(self._line_break[0], start) + 1
            parts.append(ids[start:end])
            start = end
            if len(line) <= LONGEST_LINE:
                self._remember(line, parts[-1])
        return [*parts, ids[start:]]

    def _remember(self, line: str, ids: "array[int]") -> None:
        if len(self._known) >= MOST_LINES:
            self._known.clear()  # the files that are open are known again after the next request
        self._known[line] = ids
