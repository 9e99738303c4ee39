"""The one thread that uses the engine: takes jobs from the queue, and lets infills into long answers.

An infill that comes while an answer is generated runs between two of its tokens, nested: the answer's evaluated state
is copied out, the infill runs to its end, the state is put back, and the answer's generator, whose sampler has waited,
goes on as if nothing had been. While the answer's prompt is evaluated, the batch that is being computed is given up
for the infill and computed again in small steps, so that a prompt gets on even where infills come all the time. (Steps
of other sizes round differently, as they do after any reused prefix; an answer that has begun is not touched by that.)
"""

import logging
import threading
import time
from collections.abc import Generator
from contextlib import closing, suppress
from functools import partial

from coderv2_local.backend import without_first_space
from coderv2_local.engine_errors import Cancelled
from coderv2_local.fim.fill import by_the_rules
from coderv2_local.fim.stops import Watch
from coderv2_local.local_backend import LocalBackend
from coderv2_local.serving.errors import ApiError, shutting_down
from coderv2_local.serving.jobs import Job, Piece
from coderv2_local.serving.kept import ServedStates
from coderv2_local.serving.metrics import Metrics
from coderv2_local.serving.queue import JobQueue
from coderv2_local.states.state_file import State
from coderv2_local.stream import decode_utf8, until
from coderv2_local.token_engine import TokenEngine, shared_prefix

SMALL_STEP = 32
"""Tokens of an interrupted prompt's batch that are computed before the next interruption."""
LONGEST_TURN = 0.25
"""Seconds that an interrupted answer may go on before the next infill; less after a shorter interruption."""
log = logging.getLogger("coder.serve")


class _Gone(Exception):
    """Nobody waits for this any more."""


class _Late(Exception):
    """Its time is over."""


class Worker:
    """Runs jobs, one at a time but for interruptions.

    Args:
        backend: its engine is this worker's alone from now on.
        kept: evaluated states of other conversations and files.
    """

    def __init__(self, backend: LocalBackend, kept: ServedStates, queue: JobQueue, metrics: Metrics) -> None:
        self._backend, self._kept, self._queue, self._metrics = backend, kept, queue, metrics
        self._engine: TokenEngine = backend.engine
        self._vocabulary = backend.vocabulary
        self._lock = threading.Lock()
        self._running: list[_Run] = []  # the interrupted one first, the one that runs last
        self._is_cut = False
        self._thread = threading.Thread(target=self._work, name="worker")

    def start(self) -> None:
        self._thread.start()

    def submit(self, job: Job) -> None:
        """Put a job into the queue; an infill gives the prompt that is being evaluated notice.

        Raises:
            ApiError: the queue is full.
        """
        self._queue.put(job)
        if job.task.lane == "infill":
            with self._lock:
                if self._running and self._running[-1].can_be_stopped():
                    self._engine.cancel()

    def stop(self, job: Job) -> None:
        """End a job that is cancelled or late, wherever it is."""
        if self._queue.remove(job):
            job.worker_ends(ApiError(408, "its time was over while it waited for the model", code="timeout"))
            return
        with self._lock:
            if self._running and self._running[-1].job is job:
                self._engine.cancel()

    @property
    def is_busy(self) -> bool:
        return bool(self._running)

    def refuse(self) -> None:
        """Begin nothing any more: what waits is ended, what runs goes on."""
        for job in self._queue.close():
            job.worker_ends(shutting_down())

    def cut(self) -> None:
        """End what runs, too; within a batch."""
        self.refuse()
        with self._lock:
            self._is_cut = True
            for run in self._running:
                run.job.is_gone = True
            if self._running:
                self._engine.cancel()

    def close(self) -> None:
        """End all, and the thread. The engine is the caller's again afterwards."""
        self.cut()
        if self._thread.is_alive():
            self._thread.join()
        self._engine.resume()

    def _work(self) -> None:
        while (job := self._queue.take()) is not None:
            self._run(job)

    def _run(self, job: Job) -> None:
        run = _Run(job)
        with self._lock:
            self._engine.resume()  # it may have been told to stop for a job that ended meanwhile
            self._running.append(run)
            job.is_gone = job.is_gone or self._is_cut
        job.figures.waited = time.monotonic() - job.born
        error: BaseException | None = None
        try:
            self._generate(run)
        except _Gone:
            self._metrics.add("cancelled_total")
            error = shutting_down()  # else nobody reads it
        except _Late:
            error = ApiError(408, "its time was over before there was an answer", code="timeout")
        except Exception as met:
            error = met
        finally:
            with self._lock:
                self._running.pop()
            self._count(job)
            job.worker_ends(error)

    def _count(self, job: Job) -> None:
        figures = job.figures
        for name, amount in (
            ("prompt_tokens_total", figures.prompt),
            ("reused_tokens_total", min(figures.reused, figures.prompt)),
            ("generated_tokens_total", figures.tokens),
            ("prompt_seconds_total", figures.prompt_seconds),
            ("generation_seconds_total", figures.seconds),
            ("waited_seconds_total", figures.waited),
        ):
            self._metrics.add(name, amount)

    # From text down to tokens.

    def _generate(self, run: "_Run") -> None:
        job, task = run.job, run.job.task
        self._kept.switch(self._engine, task.prompt)
        job.figures.reused = min(shared_prefix(self._engine.tokens, task.prompt), len(task.prompt) - 1)
        watch = Watch(task.hole.near()) if task.hole else None
        sent = 0
        with closing(self._bytes(run)) as pieces:
            decoded = decode_utf8(pieces)
            text = until(without_first_space(decoded) if task.drop_space else decoded, task.options.stop)
            ended = False
            while True:
                try:
                    chunk = next(text)
                except StopIteration as end:
                    ended = bool(end.value)
                    break
                job.text += chunk
                job.worker_sends(Piece(chunk, job.logprobs[sent:], job.figures.tokens))
                sent = len(job.logprobs)
                if watch and watch.feed(chunk):
                    ended = True
                    break
        if ended:
            job.ending = "stop"
        if task.hole:
            job.text, rule = by_the_rules(job.text, task.hole)
            job.ending = "stop" if rule else job.ending

    def _bytes(self, run: "_Run") -> Generator[bytes, None, None]:
        """The bytes of each token; times and limits on the way."""
        job, task, figures = run.job, run.job.task, run.job.figures
        began, first, has_line = time.monotonic(), 0.0, False
        with closing(self._tokens(run)) as tokens:
            try:
                for token in tokens:
                    now = time.monotonic()
                    if not first:
                        first = now
                        figures.prompt_seconds = first - began - run.paused
                        run.paused = 0.0
                    figures.tokens += 1
                    figures.seconds = now - first - run.paused
                    job.ids.append(token)
                    piece = self._vocabulary.piece(token)
                    yield piece
                    has_line = has_line or b"\n" in piece
                    if task.line_seconds is not None and has_line and figures.seconds > task.line_seconds:
                        job.ending = "time"
                        return
            except _Late:
                if not job.ids:
                    raise
                job.ending = "time"  # what there is goes through stops and rules as at any other end
                return
        if not first:
            figures.prompt_seconds = time.monotonic() - began - run.paused
        job.ending = "length" if figures.tokens >= task.limit else "end"

    def _tokens(self, run: "_Run") -> Generator[int, None, None]:
        """The generated ids. What the engine does can be given up and begun again until the first of them is there."""
        job, task = run.job, run.job.task

        def between_batches(done: int, todo: int) -> None:
            job.figures.evaluated(len(task.prompt), done, todo)
            if done < todo:
                job.worker_sends(Piece(progress=job.figures.prompt))
                self._pause_point(run)

        while True:
            self._check(job)
            generated = self._engine.generate(task.prompt, task.options, task.limit, between_batches, job.logprobs)
            try:
                with closing(generated):
                    for token in generated:
                        with self._lock:
                            run.in_prompt = False
                        yield token
                        self._pause_point(run)
                return
            except Cancelled:
                self._check(job)
                if not run.in_prompt:
                    raise
                if self._let_infills_in(run):
                    self._small_steps(run)

    def _small_steps(self, run: "_Run") -> None:
        """Evaluate the batch that was given up in steps that are short enough to wait for."""
        prompt, done = run.job.task.prompt, shared_prefix(self._engine.tokens, run.job.task.prompt)
        end = min(done + self._engine.n_batch, len(prompt) - 1)
        while done < end:
            done = min(done + SMALL_STEP, end)
            with suppress(Cancelled):  # whoever wanted that is asked about at the next point
                self._engine.evaluate(prompt[:done], on_progress=partial(run.job.figures.evaluated, done))
            self._pause_point(run)

    # Interruptions.

    def _check(self, job: Job) -> None:
        if job.is_gone:
            raise _Gone
        if job.is_late:
            raise _Late

    def _pause_point(self, run: "_Run") -> None:
        """Between tokens, or between batches of a prompt: here an answer can be ended or interrupted."""
        self._check(run.job)
        if run.gives_way(self._queue):
            self._let_infills_in(run)
        if not run.in_prompt:  # a prompt's evaluation begins again by itself, a generator between two tokens cannot
            self._engine.resume()
        self._check(run.job)

    def _let_infills_in(self, run: "_Run") -> bool:
        """Run the infills that wait now; the engine is as it was afterwards. Returns whether there were any."""
        began, engine = time.monotonic(), self._engine
        count = self._queue.infills
        state = State(list(engine.tokens), engine.state()) if engine.tokens and count else None
        if state:
            engine.truncate(0)
        some = False
        for _ in range(count):
            infill = self._queue.take_infill()
            if infill:
                some = True
                self._run(infill)
        if state:
            self._kept.keep_if_worth(engine)
            engine.set_state(state.tokens, state.data)
        if some:
            self._metrics.add("interruptions_total")
        run.resume(began, time.monotonic())
        return some


class _Run:
    """A job that runs.

    Attributes:
        in_prompt: its prompt is being evaluated.
        paused: seconds that interruptions took since the prompt began, or since the first token.
    """

    def __init__(self, job: Job) -> None:
        self.job = job
        self.in_prompt, self.paused = True, 0.0
        self._goes_on_until = 0.0

    def can_be_stopped(self) -> bool:
        """May the batch of its prompt that is being computed be given up for an infill?"""
        return self.job.task.lane == "answer" and self.in_prompt and time.monotonic() >= self._goes_on_until

    def gives_way(self, queue: JobQueue) -> bool:
        """Is it time to let infills in?"""
        return self.job.task.lane == "answer" and bool(queue.infills) and time.monotonic() >= self._goes_on_until

    def resume(self, began: float, now: float) -> None:
        """It goes on after an interruption."""
        self.paused += now - began
        self._goes_on_until = now + min(now - began, LONGEST_TURN)
