"""A conversation: its turns and files, what of them the model is shown, and the rule by which that shrinks.

Every change is an event, a small dictionary that goes to a journal and can be replayed from it. What the model no
longer sees stays in the journal: nothing is lost, and nothing is left out silently.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from coderv2_local.backend import Backend, Generation, Progress
from coderv2_local.engine_errors import ContextFull
from coderv2_local.prompt.layout import Message
from coderv2_local.sampling.options import SamplingOptions
from coderv2_local.sessions.attachments import Attachment, changed
from quant.errors import InputError

Event = dict[str, Any]


@dataclass(frozen=True)
class Turn:
    """A question, the files that came with it, and its answer.

    Attributes:
        versions: (file, is it a new version of one shown before) in the order they are shown.
        ids: the answer as it was generated; None where its backend has no ids.
        vocabulary: of the model that generated `ids`: ids mean nothing to another.
        cut: the answer was stopped before its end.
    """

    question: str
    versions: tuple[tuple[Attachment, bool], ...] = ()
    answer: str | None = None
    ids: tuple[int, ...] | None = None
    vocabulary: str = ""
    cut: bool = False

    def user_text(self) -> str:
        """What the model is shown as the user's turn: the files, then the question."""
        return "\n\n".join([*(file.block(is_new) for file, is_new in self.versions), self.question])


@dataclass(frozen=True)
class Shrinking:
    """What the model no longer sees, after the context was full."""

    outdated: int = 0
    turns: int = 0
    files: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.outdated or self.turns or self.files)

    def __str__(self) -> str:
        parts = []
        if self.outdated:
            parts.append(f"{self.outdated} outdated file version{'s' * (self.outdated > 1)}")
        if self.turns:
            parts.append(f"the oldest turn{f's ({self.turns})' if self.turns > 1 else ''}")
        parts += self.files
        return f"The context was full. No longer seen by the model: {', '.join(parts)}."


@dataclass
class Asked:
    """A question on its way.

    Attributes:
        shrinking: what was left out to make room.
        reread: files that had changed and are shown anew.
        lost: files that can no longer be read: the model sees them as they were.
    """

    generation: Generation
    shrinking: Shrinking = field(default_factory=Shrinking)
    reread: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)


class Conversation:
    """Turns with one backend.

    Args:
        root: the folder that file names are relative to.
        journal: called with each event after it took effect.

    Attributes:
        backend: may be replaced by another one between turns.
        turns: what the model is shown, oldest first.
        pending: files that go with the next question.
    """

    def __init__(
        self,
        backend: Backend,
        options: SamplingOptions,
        max_tokens: int,
        *,
        root: Path | None = None,
        journal: Callable[[Event], None] = lambda event: None,
    ) -> None:
        self.backend = backend
        self.options = options
        self.max_tokens = max_tokens
        self.root = root or Path.cwd()
        self.journal = journal
        self.system = ""
        self.turns: list[Turn] = []
        self.pending: list[Attachment] = []

    # what the model is shown

    @property
    def files(self) -> list[Attachment]:
        """The files in context, each in its newest version, the one added last at the end."""
        newest: dict[str, Attachment] = {}
        for file in [*(f for turn in self.turns for f, _ in turn.versions), *self.pending]:
            newest.pop(file.name, None)
            newest[file.name] = file
        return list(newest.values())

    def messages(self) -> list[Message]:
        """The conversation as the model is shown it."""
        found = [Message("system", self.system)] if self.system else []
        for turn in self.turns:
            found.append(Message("user", turn.user_text()))
            if turn.answer is not None:
                ids = turn.ids if turn.vocabulary == self.backend.vocabulary_id else None
                found.append(Message("assistant", turn.answer, ids))
        return found

    @property
    def reserve(self) -> int:
        """Tokens held free for an answer: `max_tokens`, at most a quarter of the context."""
        return min(self.max_tokens, (self.backend.n_ctx or 4 * self.max_tokens) // 4)

    def used(self) -> int | None:
        """Tokens of the conversation so far, laid out; None where the backend cannot tell."""
        return self.backend.prompt_length(self.messages())

    # changes

    def set_system(self, text: str) -> None:
        """Replace the system prompt. Everything after it will be evaluated again."""
        self._do({"do": "system", "text": text})

    def attach(self, file: Attachment) -> int | None:
        """Show `file` with the next question. Returns its length in tokens, where that can be known.

        Raises:
            InputError: with the other files it would leave no room for an answer.
        """
        others = [f for f in self.files if f.name != file.name]
        length = self.backend.count(file.block())
        if length is not None and self.backend.n_ctx:
            used = sum(self.backend.count(f.block()) or 0 for f in others)
            free = self.backend.n_ctx - self.reserve - used - (self.backend.count(self.system) or 0)
            if length > free:
                raise InputError(
                    f"{file.name} has {length} tokens, and {max(free, 0)} are free for files",
                    hint="/drop other files, or start with a larger --ctx where the model has one",
                )
        self._do({"do": "attach", **_file_event(file)})
        return length

    def detach(self, name: str) -> None:
        """Show a file no longer.

        Raises:
            InputError: it is not in the context.
        """
        if name not in {f.name for f in self.files}:
            raise InputError(f"{name} is not in the context", hint="/files lists what is")
        self._do({"do": "detach", "name": name})

    def clear(self) -> None:
        """Forget all turns. Files and the system prompt stay."""
        self._do({"do": "clear"})

    def ask(self, text: str, on_progress: Progress | None = None) -> Asked:
        """Begin the answer to `text`: files that changed are read again, and room is made where there is none.

        Raises:
            ContextFull: `text` and the files alone are too long. The conversation is as it was.
            CoderError: what the backend raises; the question is taken back then.
        """
        new, lost = changed(self.files, self.root)
        before = (list(self.turns), list(self.pending))
        question: Event = {"do": "ask", "text": text, "changed": [_file_event(f) for f in new]}
        self._apply(question)
        try:
            shrinking = self._make_room()
            generation = self.backend.chat(self.messages(), self.options, self.max_tokens, on_progress)
        except BaseException:
            self.turns, self.pending = before
            raise
        self.journal(question)
        if shrinking:
            self.journal(self._shrink_event(shrinking))
        return Asked(generation, shrinking, [f.name for f in new], lost)

    def resume(self, on_progress: Progress | None = None) -> Asked:
        """Go on with the last answer where it was cut, or answer a question that has none.

        Raises:
            InputError: there is nothing to go on with.
        """
        if not self.turns:
            raise InputError("there is nothing to go on with yet")
        if self.turns[-1].answer is not None and not self.backend.capabilities.resume:
            raise InputError("this server cannot go on with an answer", hint="/retry asks for another one")
        return Asked(self.backend.chat(self.messages(), self.options, self.max_tokens, on_progress))

    def shrink(self) -> Shrinking:
        """Make room where only the server can tell that there is none: outdated versions of files go, then the older
        half of the turns. Empty where nothing is left that could go.
        """
        outdated = self._drop_outdated()
        turns = 0 if outdated else len(self.turns) // 2
        self._drop_turns(turns)
        shrinking = Shrinking(outdated, turns)
        if shrinking:
            self.journal(self._shrink_event(shrinking))
        return shrinking

    def keep(self, generation: Generation, text: str, *, cut: bool = False) -> None:
        """Add the answer, whole or cut short, to the last question; to what is there of it already, if it is."""
        ids = list(generation.ids) if self.backend.capabilities.ids else None
        self._do({"do": "answer", "text": text, "cut": cut, "vocabulary": self.backend.vocabulary_id, "ids": ids})

    def take_back(self) -> str | None:
        """Remove the last answer, or the last question where it has none. Returns the question that now has none."""
        if self.turns:
            self._do({"do": "take_back"})
        return self.turns[-1].question if self.turns and self.turns[-1].answer is None else None

    def replay(self, events: Sequence[Event]) -> None:
        """Apply what a journal holds, without writing it again.

        Raises:
            KeyError, TypeError, ValueError: an event is not one of ours.
        """
        for event in events:
            self._apply(event)

    def close(self) -> None:
        """Let go of the backend."""
        self.backend.close()

    def _do(self, event: Event) -> None:
        self._apply(event)
        self.journal(event)

    def _apply(self, event: Event) -> None:
        kind = event["do"]
        if kind == "system":
            self.system = event["text"]
        elif kind == "attach":
            file = _file(event)
            self.pending = [f for f in self.pending if f.name != file.name] + [file]
        elif kind == "detach":
            self._remove({event["name"]})
        elif kind == "clear":
            self.pending = self.files
            self.turns = []
        elif kind == "ask":
            shown = {f.name for turn in self.turns for f, _ in turn.versions}
            files = {f.name: f for f in [*self.pending, *map(_file, event["changed"])]}
            self.turns.append(Turn(event["text"], tuple((f, f.name in shown) for f in files.values())))
            self.pending = []
        elif kind == "answer":
            self._answer(event)
        elif kind == "take_back":
            last = self.turns.pop()
            if last.answer is not None:
                self.turns.append(replace(last, answer=None, ids=None, cut=False))
            else:
                self.pending = [f for f, _ in last.versions]
        elif kind == "shrink":
            self._drop_outdated()
            self._drop_turns(event["turns"])
            self._remove(set(event["files"]))
        else:
            raise ValueError(f"no event is called {kind!r}")

    def _answer(self, event: Event) -> None:
        last = self.turns.pop()
        text, ids = event["text"], None if event["ids"] is None else tuple(event["ids"])
        if last.answer is not None:  # the rest of an answer that was cut
            same = last.ids is not None and ids is not None and last.vocabulary == event["vocabulary"]
            text, ids = last.answer + text, (last.ids or ()) + (ids or ()) if same else None
        self.turns.append(replace(last, answer=text, ids=ids, vocabulary=event["vocabulary"], cut=event["cut"]))

    # room

    def _make_room(self) -> Shrinking:
        """Leave out what is needed to keep `reserve` free: outdated versions of files first, then the oldest turns
        until half of the context is free, then the files added first.
        """
        size, used = self.backend.n_ctx, self.used()
        if size is None or used is None or used + self.reserve <= size:
            return Shrinking()
        asked_for = {f.name for f, _ in self.turns[-1].versions}
        outdated = self._drop_outdated()
        turns = 0
        while len(self.turns) > 1 and self._longer_than(size // 2):
            self._drop_turns(1)
            turns += 1
        dropped: list[str] = []
        while self._longer_than(size - self.reserve):
            file = next((f for f in self.files if f.name not in asked_for), None)
            if file is None:
                raise ContextFull(
                    f"this question has {self.used()} tokens with its files, and the context {size}",
                    hint="/drop files, shorten it, or start with a larger --ctx where the model has one",
                )
            self._remove({file.name})
            dropped.append(file.name)
        return Shrinking(outdated, turns, tuple(dropped))

    def _longer_than(self, tokens: int) -> bool:
        return (self.used() or 0) > tokens

    @staticmethod
    def _shrink_event(shrinking: Shrinking) -> Event:
        return {"do": "shrink", "turns": shrinking.turns, "files": list(shrinking.files)}

    def _drop_outdated(self) -> int:
        """Leave out all but the newest version of each file. Returns how many went."""
        newest = {f.name: f.digest for f in self.files}
        gone = 0
        for i, turn in enumerate(self.turns):
            kept = tuple((f, False) for f, _ in turn.versions if newest[f.name] == f.digest)
            gone += len(turn.versions) - len(kept)
            self.turns[i] = replace(turn, versions=kept)
        return gone

    def _drop_turns(self, count: int) -> None:
        """Leave out the oldest turns; their files move to the next one."""
        for _ in range(count):
            first = self.turns.pop(0)
            later = {f.name for turn in self.turns for f, _ in turn.versions}
            moved = tuple(v for v in first.versions if v[0].name not in later)
            self.turns[0] = replace(self.turns[0], versions=moved + self.turns[0].versions)

    def _remove(self, names: set[str]) -> None:
        self.pending = [f for f in self.pending if f.name not in names]
        for i, turn in enumerate(self.turns):
            self.turns[i] = replace(turn, versions=tuple(v for v in turn.versions if v[0].name not in names))


def _file_event(file: Attachment) -> Event:
    return {"name": file.name, "text": file.text, "digest": file.digest}


def _file(event: Event) -> Attachment:
    return Attachment(event["name"], event["text"], event["digest"])
