"""The jobs that wait: two lanes, each bounded, so that no number of answers keeps whoever waits at a cursor out."""

import threading
import time
from collections import deque

from coderv2_local.serving.errors import ApiError, shutting_down
from coderv2_local.serving.jobs import Job

MOST = 64
PATIENCE = 5.0
"""Seconds after which an answer begins, though infills wait: it lets them in between its tokens from then on."""


class JobQueue:
    """Filled by the event loop, emptied by the worker.

    Args:
        most: jobs that may wait in each lane.
    """

    def __init__(self, most: int = MOST) -> None:
        self.most = most
        self._answers: deque[Job] = deque()
        self._infills: deque[Job] = deque()
        self._changed = threading.Condition()
        self._closed = False

    def __len__(self) -> int:
        return len(self._answers) + len(self._infills)

    def put(self, job: Job) -> None:
        """Let a job wait.

        Raises:
            ApiError: too many of its lane wait already, or the server is ending (503).
        """
        with self._changed:
            if self._closed:
                raise shutting_down()
            lane = self._infills if job.task.lane == "infill" else self._answers
            if len(lane) >= self.most:
                raise ApiError(503, f"{len(lane)} requests wait already: try again later", code="queue_full")
            lane.append(job)
            self._changed.notify()

    def remove(self, job: Job) -> bool:
        """Take a job out again. Returns whether it was still waiting."""
        with self._changed:
            for lane in (self._answers, self._infills):
                if job in lane:
                    lane.remove(job)
                    return True
        return False

    def take(self) -> Job | None:
        """The next job; waits for one. None once the queue is closed."""
        with self._changed:
            while not (self._answers or self._infills or self._closed):
                self._changed.wait()
            if self._closed:
                return None
            waits_long = self._answers and time.monotonic() - self._answers[0].born > PATIENCE
            return (self._infills if self._infills and not waits_long else self._answers).popleft()

    def take_infill(self) -> Job | None:
        """The next infill, if one waits."""
        with self._changed:
            return self._infills.popleft() if self._infills else None

    @property
    def infills(self) -> int:
        """How many infills wait."""
        return len(self._infills)

    def close(self) -> list[Job]:
        """Take no more; returns the jobs that waited."""
        with self._changed:
            left = [*self._infills, *self._answers]
            self._infills.clear()
            self._answers.clear()
            self._closed = True
            self._changed.notify_all()
        return left
