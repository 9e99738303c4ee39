"""Threads that make the pieces of a plan, and the loop that syncs and notes what they have finished."""

import contextlib
import queue
import threading
import time
from collections.abc import Callable

from converters.journal import Journal
from converters.output_files import OutputFiles
from converters.plan import Plan
from converters.produce import NonFiniteError, Producer

SYNC_SECONDS = 4.0
"""How often finished pieces are synced and noted: about what an interrupted run has to do again."""

Report = Callable[[int], None]
"""Called with the bytes of output finished since the last call."""


class Workers:
    """Threads that take pieces, and the loop that notes what they finished."""

    def __init__(self, plan: Plan, producer: Producer, outputs: OutputFiles, journal: Journal, report: Report) -> None:
        self.plan, self.producer, self.outputs, self.journal, self.report = plan, producer, outputs, journal, report
        self._numbers = [i for i in range(len(plan.pieces)) if i not in journal.done]
        self._todo = iter(self._numbers)
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._finished: queue.SimpleQueue[tuple[int, int] | BaseException | None] = queue.SimpleQueue()
        self._refused: list[int] = []

    def stored_in_order(self) -> list[str]:
        """The stored tensors that will be read, one entry a piece."""
        return [self._stored(n) for n in self._numbers]

    def work(self, threads: int) -> None:
        """Make all pieces that are not done, and note them.

        Raises:
            NonFiniteError: a weight is NaN or infinite; what came from the same file is forgotten, unless
                that is all.
            OSError: the output cannot be written; what is done and on disk has been noted.
            CoderError: the source cannot be read any more.
        """
        workers = [threading.Thread(target=self._worker, name=f"quantize-{n}", daemon=True) for n in range(threads)]
        for w in workers:
            w.start()
        try:
            try:
                self._collect(len(workers))
            finally:
                self._stop.set()
                self.producer.store.stop()  # else Ctrl-C would wait for a whole shard to arrive
                for w in workers:
                    w.join()
        except NonFiniteError:
            self._doubt_source()
            raise

    def _worker(self) -> None:
        try:
            while not self._stop.is_set():
                with self._lock:
                    number = next(self._todo, None)
                if number is None:
                    break
                piece = self.plan.pieces[number]
                try:
                    data = self.producer.make(piece)
                except NonFiniteError:
                    self._refused.append(number)
                    raise
                file, position = self.producer.position(piece)
                self.outputs.write(file, position, data.data.cast("B"))
                self._finished.put((number, data.nbytes))
        except BaseException as e:  # handed to the main thread, which raises it
            self._finished.put(e)
        finally:
            self._finished.put(None)

    def _collect(self, running: int) -> None:
        pending: list[int] = []
        synced = time.monotonic()
        try:
            while running:
                item: tuple[int, int] | BaseException | None = (-1, 0)
                with contextlib.suppress(queue.Empty):
                    item = self._finished.get(timeout=0.25)
                if item is None:
                    running -= 1
                elif isinstance(item, BaseException):
                    raise item
                elif item[0] >= 0:
                    pending.append(item[0])
                    self.report(item[1])
                if pending and time.monotonic() - synced > SYNC_SECONDS:
                    self._note(pending)
                    synced = time.monotonic()
            self._note(pending)
        except NonFiniteError:
            raise
        except BaseException:
            self._note(pending)  # Ctrl-C, a full disk: keep what is done. After a failed sync this raises again
            raise

    def _note(self, pending: list[int]) -> None:
        self.outputs.sync()
        self.journal.add(pending)
        pending.clear()

    def _doubt_source(self) -> None:
        """Forget what came from a file with such a weight, unless that is all: a better one can then be gone on with.

        Without this the work would be as sound, but of no use then: `source_files` refuses a file that was changed
        after some of it was used.
        """
        bad = {self._source(n) for n in self._refused}
        kept = [n for n in self.journal.done if self._source(n) not in bad]
        if kept:
            self.journal.start(kept)

    def _stored(self, number: int) -> str:
        piece = self.plan.pieces[number]
        return self.plan.tensors[piece.tensor].wanted.parts[piece.part].stored

    def _source(self, number: int) -> str:
        return self.producer.store.location(self._stored(number))[0]
