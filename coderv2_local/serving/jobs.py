"""One request's work: what the worker is to do, and how its pieces get back to the connection that waits for them."""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from coderv2_local.fim.hole import Hole
from coderv2_local.sampling.logprobs import TokenLogprobs
from coderv2_local.sampling.options import SamplingOptions

PACE_SECONDS = 0.008
"""Between two looks at what has come: where tokens come faster, several go out at a time. No first text waits."""
Lane = Literal["answer", "infill"]
Ending = Literal["end", "length", "stop", "time"]


@dataclass(frozen=True)
class Task:
    """What is to be generated.

    Attributes:
        lane: "infill" is what someone waits for at the cursor; it may interrupt an "answer".
        prompt: ids.
        options: of sampling; `banned` is complete and a schema has become a grammar.
        limit: most tokens; 0 evaluates the prompt alone.
        drop_space: the text's first space belongs to the prompt's layout.
        seconds: for everything, from the request's arrival on; None for no limit.
        line_seconds: of generating, after which it ends once there is a line break.
        hole: where the rules of `coder fim` are to end and trim the text; None for the text as it comes.
        is_streamed: does anyone read pieces before the end?
        is_cut: text that the request holds is left out of the prompt.
    """

    lane: Lane
    prompt: Sequence[int]
    options: SamplingOptions
    limit: int
    drop_space: bool = False
    seconds: float | None = None
    line_seconds: float | None = None
    hole: Hole | None = None
    is_streamed: bool = False
    is_cut: bool = False


@dataclass
class Figures:
    """Counts and times, in seconds. `prompt_seconds` and `seconds` leave out what others' interruptions took.

    Attributes:
        reused: tokens of the prompt that needed no evaluation.
        prompt: how far the prompt is evaluated, with those; less than all of it where it was given up.
        tokens: generated ones.
    """

    reused: int = 0
    prompt: int = 0
    tokens: int = 0
    prompt_seconds: float = 0.0
    seconds: float = 0.0
    waited: float = 0.0

    def evaluated(self, end: int, done: int, todo: int) -> None:
        """Of the last `todo` tokens of the prompt's first `end`, `done` are computed; those before were there.

        A prompt that is interrupted is evaluated in several goes: reused is only what none of them computed.
        """
        self.reused = min(self.reused, end - todo)
        self.prompt = max(self.prompt, end - todo + done)


@dataclass(frozen=True)
class Piece:
    """Text as it comes, with the log-probabilities of its tokens where they are wanted; or the prompt's progress.

    Attributes:
        tokens: generated so far, also those whose text is held back; 0 before there are any.
        progress: tokens of the prompt that are done.
    """

    text: str = ""
    logprobs: Sequence[TokenLogprobs] = ()
    tokens: int = 0
    progress: int | None = None


class Job:
    """A task on its way through the queue and the worker.

    Made on the event loop, which reads :meth:`pieces`; everything that begins with ``worker_`` is called on the
    worker's thread.

    Args:
        on_stop: called when it is to end early.
        arrived: when its request did, by `time.monotonic`; its time runs from then on. Now, if not given.

    Attributes:
        text, ids: of the whole answer, once it is done.
        ending: why it ended; None until then.
        is_gone: nobody waits for it any more.
        is_late: its time is over.
    """

    def __init__(self, task: Task, on_stop: Callable[["Job"], None], arrived: float | None = None) -> None:
        self.task = task
        self.figures = Figures()
        self.text = ""
        self.ids: list[int] = []
        self.logprobs: list[TokenLogprobs] = []
        self.ending: Ending | None = None
        self.error: BaseException | None = None
        self.is_gone = self.is_late = False
        self.born = time.monotonic()
        self._on_stop = on_stop
        self._loop = asyncio.get_running_loop()
        self._arrived = asyncio.Event()
        self._waiting: deque[Piece] = deque()
        self._done = False
        self._is_called = self._begun = False
        self._timer: asyncio.TimerHandle | None = None
        if task.seconds is not None:
            spent = self.born - arrived if arrived is not None else 0.0
            self._timer = self._loop.call_later(max(task.seconds - spent, 0), self._expire)

    def cancel(self) -> None:
        """Nobody waits any more: end it as soon as can be. Safe to call twice, and after the end."""
        if not self._done and not self.is_gone:
            self.is_gone = True
            self._on_stop(self)
        if self._timer:
            self._timer.cancel()

    def _expire(self) -> None:
        if not self._done:
            self.is_late = True
            self._on_stop(self)

    async def pieces(self) -> AsyncIterator[Piece]:
        """What comes, until the end. Raises what the worker met."""
        while True:
            done = self._done  # read before what waits: the worker sends its last piece first
            while self._waiting:
                piece = self._waiting.popleft()
                self._begun = self._begun or piece.progress is None
                yield piece
            if done:
                break
            if self._begun:
                await asyncio.sleep(PACE_SECONDS)
            await self._arrived.wait()
            self._arrived.clear()
            self._is_called = False
        if self._timer:
            self._timer.cancel()
        if self.error is not None:
            raise self.error

    @property
    def is_ahead(self) -> bool:
        """Is there more to read at once?"""
        return bool(self._waiting)

    async def finish(self) -> None:
        """Wait for the end. Raises as :meth:`pieces`."""
        async for _ in self.pieces():
            pass

    def worker_sends(self, piece: Piece) -> None:
        """Pass on a piece."""
        if self.task.is_streamed:
            self._waiting.append(piece)
            self._call()

    def worker_ends(self, error: BaseException | None = None) -> None:
        """It is over. Safe to call twice: the first time counts."""
        if not self._done:
            self.error = error
            self._done = True
            self._is_called = False
            self._call()

    def _call(self) -> None:
        """Wake the reader; once, until it has read: at hundreds of tokens a second each call costs."""
        if not self._is_called:
            self._is_called = True
            try:
                self._loop.call_soon_threadsafe(self._arrived.set)
            except RuntimeError:  # the loop has ended, and with it whoever waited
                self.is_gone = True
