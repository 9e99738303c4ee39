"""Which of the generated tokens make up the answer's text: a stop string or a rule can end it within a token."""

import codecs
from collections import deque
from collections.abc import Sequence

from coderv2_local.sampling.logprobs import TokenLogprobs
from coderv2_local.serving.jobs import Job, Piece
from coderv2_local.stream import whole_pieces
from coderv2_local.vocabulary import Vocabulary


def tokens_of(job: Job, vocabulary: Vocabulary) -> tuple[int, list[int]]:
    """The ids whose text is the answer's, and how many of them were generated: of one that is cut in two, the part
    that is left is encoded again. A first space that belongs to the prompt's layout is in the ids all the same.
    """
    text = vocabulary.decode(job.ids)
    layout = 1 if job.task.drop_space and text.startswith(" ") else 0
    if text[layout:] == job.text:
        return len(job.ids), list(job.ids)
    whole, rest = 0, job.text
    if text[layout:].startswith(job.text):
        whole, rest = whole_pieces(map(vocabulary.piece, job.ids), layout + len(job.text))
    return whole, [*job.ids[:whole], *vocabulary.encode(rest)]


def logprobs_of(job: Job, vocabulary: Vocabulary) -> Sequence[TokenLogprobs]:
    """Those of the generated tokens that make up the answer's text, once it is done; none where none are wanted."""
    return job.logprobs and job.logprobs[: tokens_of(job, vocabulary)[0]]


class StreamedLogprobs:
    """Hands on a streamed answer's log-probabilities with the pieces of text that complete their tokens.

    A piece comes with those of all tokens since the last one, also of tokens whose text is held back, and may then
    turn out to be of a stop string.
    """

    def __init__(self, job: Job, vocabulary: Vocabulary) -> None:
        self._job, self._vocabulary = job, vocabulary
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._waiting: deque[tuple[int | None, TokenLogprobs]] = deque()  # where the token ends, if not in a character
        self._read = self._shown = self._given = 0

    def of(self, piece: Piece) -> list[TokenLogprobs]:
        """Those of the tokens that end within the text so far, this piece included, and were not given before."""
        self._shown += len(piece.text)
        for one in piece.logprobs:
            text = self._decoder.decode(self._vocabulary.piece(one.token))
            if not self._read and self._job.task.drop_space and text.startswith(" "):
                self._shown += 1  # it is not shown, but belongs to the prompt's layout
            self._read += len(text)
            self._waiting.append((None if self._decoder.getstate()[0] else self._read, one))
        complete = max((n for n, (end, _) in enumerate(self._waiting, 1) if end and end <= self._shown), default=0)
        self._given += complete
        return [self._waiting.popleft()[1] for _ in range(complete)]

    def rest(self) -> Sequence[TokenLogprobs]:
        """Those of the answer's tokens that came with no piece, once it is done."""
        return logprobs_of(self._job, self._vocabulary)[self._given :]
