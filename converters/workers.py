"""Threads that make the pieces of a plan, and the loop that syncs and notes what they have finished."""

import contextlib
import os
import queue
import threading
import time
from collections.abc import Callable

from converters.journal import Journal
from converters.plan import Plan
from converters.produce import NonFiniteError, Producer

SYNC_SECONDS = 4.0
"""How often finished pieces are synced and noted: about what an interrupted run has to do again."""

Report = Callable[[int], None]
"""Called with the bytes of output finished since the last call."""


class Workers:
    """Threads that take pieces, and the loop that notes what they finished."""

    def __init__(self, plan: Plan, producer: Producer, files: dict[int, int], journal: Journal, report: Report) -> None:
        self.plan, self.producer, self.files, self.journal, self.report = plan, producer, files, journal, report
        self._numbers = [i for i in range(len(plan.pieces)) if i not in journal.done]
        self._todo = iter(self._numbers)
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._finished: queue.SimpleQueue[tuple[int, int] | BaseException | None] = queue.SimpleQueue()

    def stored_in_order(self) -> list[str]:
        """The stored tensors that will be read, one entry a piece."""
        pieces = [self.plan.pieces[n] for n in self._numbers]
        return [self.plan.tensors[p.tensor].wanted.parts[p.part].stored for p in pieces]

    def work(self, threads: int) -> None:
        """Make all pieces that are not done.

        Raises:
            NonFiniteError: a weight is NaN or infinite.
            OSError: the output cannot be written; what is done has been noted.
            CoderError: the source cannot be read any more.
        """
        workers = [threading.Thread(target=self._worker, name=f"quantize-{n}", daemon=True) for n in range(threads)]
        for w in workers:
            w.start()
        try:
            self._collect(len(workers))
        finally:
            self._stop.set()
            self.producer.store.stop()  # else Ctrl-C would wait for a whole shard to arrive
            for w in workers:
                w.join()

    def _worker(self) -> None:
        try:
            while not self._stop.is_set():
                with self._lock:
                    number = next(self._todo, None)
                if number is None:
                    break
                piece = self.plan.pieces[number]
                data = self.producer.make(piece)
                file, position = self.producer.position(piece)
                write_at(self.files[file], position, data.data.cast("B"))
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
        except NonFiniteError:
            raise
        except BaseException:
            self._note(pending)  # Ctrl-C, a full disk: keep what is done
            raise

    def _note(self, pending: list[int]) -> None:
        for f in self.files.values():
            os.fsync(f)
        self.journal.add(pending)
        pending.clear()


_seek_lock = threading.Lock()


def write_at(fd: int, position: int, data: memoryview) -> None:
    """Write all of `data` at byte `position` of an open file."""
    done = 0
    while done < len(data):
        if hasattr(os, "pwrite"):
            done += os.pwrite(fd, data[done:], position + done)
        else:  # no positioned write on this platform (Windows)
            with _seek_lock:
                os.lseek(fd, position + done, os.SEEK_SET)
                done += os.write(fd, data[done:])
