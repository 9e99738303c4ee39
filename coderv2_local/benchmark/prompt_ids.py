"""What the prompts are made of: this program's own source code, as a model's tokenizer splits it."""

from itertools import cycle, islice
from pathlib import Path

from coderv2_local.vocabulary import Vocabulary

SOURCE = Path(__file__).resolve().parents[1]
CHARACTERS_A_TOKEN = 8
"""More than code has, so that no more is tokenized than is needed."""


def code_prompts(vocabulary: Vocabulary, length: int, count: int) -> list[list[int]]:
    """`count` prompts of `length` ids, one after the other from the source; begun anew where it ends.

    The same at each call with the same vocabulary.
    """
    bos = [vocabulary.bos] if vocabulary.bos >= 0 else []
    text = "\n\n".join(path.read_text("utf-8") for path in sorted(SOURCE.glob("*.py")))
    ids = vocabulary.encode(text[: CHARACTERS_A_TOKEN * length * count])
    endless = cycle(ids or [i for i in range(vocabulary.size) if vocabulary.piece(i)])
    return [[*bos, *islice(endless, length - len(bos))] for _ in range(count)]
