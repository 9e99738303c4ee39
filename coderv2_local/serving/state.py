"""What all routes share: the model, its worker, the limits."""

import time
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from coderv2_local.backend import MINIMUM_ANSWER
from coderv2_local.engine_errors import ContextFull
from coderv2_local.local_backend import LocalBackend
from coderv2_local.serving.jobs import Job, Task
from coderv2_local.serving.kept import ServedStates
from coderv2_local.serving.line_ids import LineIds
from coderv2_local.serving.metrics import Metrics
from coderv2_local.serving.queue import JobQueue
from coderv2_local.serving.threads import Threads
from coderv2_local.serving.worker import Worker

LONGEST_TOKEN = 256  # characters, where the file does not list its tokens


@dataclass(frozen=True)
class Limits:
    """Bounds on what a client may cost.

    Attributes:
        body: bytes of a request.
        bodies: bytes of large requests that are in memory at a time, all together.
        body_seconds: for a whole request to arrive.
        head_seconds: for the head of a connection's first request to arrive.
        stuck_seconds: that a client may read nothing of what it was sent, before its connection is closed.
        connections: open at a time; the one that has been idle longest gives way.
        waiting: requests in each lane of the queue.
        seconds: for a request that names no `deadline_ms`, the queue included.
        max_tokens: of an answer, for a request that names none.
    """

    body: int = 8 << 20
    bodies: int = 128 << 20
    body_seconds: float = 30.0
    head_seconds: float = 20.0
    stuck_seconds: float = 120.0
    connections: int = 512
    waiting: int = 64
    seconds: float = 3600.0
    max_tokens: int = 4096


@dataclass
class Serving:
    """One model, being served.

    Attributes:
        instance: tells this run of the server from any other.
        temperature, repeat_penalty: of answers, where a request does not say.
        log_prompts: write what users send into the log.
        held_bytes: of large requests, that are in memory now.
    """

    backend: LocalBackend
    instance: str
    fingerprint: str
    temperature: float = 0.0
    repeat_penalty: float = 1.0
    key: str | None = None
    hosts: frozenset[str] | None = None
    limits: Limits = field(default_factory=Limits)
    log_prompts: bool = False
    kept: ServedStates = field(default_factory=ServedStates)
    metrics: Metrics = field(default_factory=Metrics)
    created: int = field(default_factory=lambda: int(time.time()))
    held_bytes: int = 0

    def __post_init__(self) -> None:
        self.lines = LineIds(self.backend.vocabulary, self.backend.engine.header.metadata)
        self.queue = JobQueue(self.limits.waiting)
        self.worker = Worker(self.backend, self.kept, self.queue, self.metrics)
        self.threads = Threads(self.limits.waiting)

    @property
    def name(self) -> str:
        return self.backend.name

    @property
    def template(self) -> str | None:
        """The file's chat template."""
        found = self.backend.engine.header.metadata.get("tokenizer.chat_template")
        return found if isinstance(found, str) else None

    def room(self, prompt_tokens: int, wanted: int | None) -> int:
        """How many tokens may be generated after a prompt, where `wanted` are asked for.

        Raises:
            ContextFull: too few.
        """
        n_ctx = self.backend.n_ctx
        room = n_ctx - prompt_tokens
        wanted = self.limits.max_tokens if wanted is None else wanted
        if room < max(min(wanted, MINIMUM_ANSWER), 0):
            raise ContextFull(
                f"the prompt has {prompt_tokens} tokens and the context of this server {n_ctx}: no room for an answer"
            )
        return min(wanted, room)

    @cached_property
    def longest_text(self) -> int:
        """Characters that the context can hold at most: so many as if each token were the longest."""
        tokens = self.backend.engine.header.metadata.get("tokenizer.ggml.tokens")
        longest = max(map(len, tokens), default=0) if isinstance(tokens, list) else 0
        return self.backend.n_ctx * (longest or LONGEST_TOKEN)

    def submit(self, task: Task, arrived: float | None = None) -> Job:
        """Put a task into the queue. Its time runs from `arrived` on. Raises ApiError where the queue is full."""
        job = Job(task, self.worker.stop, arrived)
        try:
            self.worker.submit(job)
        except BaseException:
            job.cancel()
            raise
        return job

    def close(self) -> None:
        """End what runs. The backend, which all of it uses, is the caller's again afterwards. Safe to call twice."""
        self.worker.cut()
        self.threads.close()
        self.worker.close()

    def health(self) -> dict[str, Any]:
        """What anyone may know."""
        return {"status": "ok", "instance": self.instance}
