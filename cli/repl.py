"""The conversation in the terminal: one loop that reads a line, obeys a command or streams an answer."""

from collections.abc import Generator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from prompt_toolkit.formatted_text import StyleAndTextTuples
from rich.console import Console
from rich.markup import escape

from cli import chat_edits
from cli.answer import Reading, show_text, stream_answer
from cli.chat_backend import replace_ended, who_answers
from cli.chat_commands import COMMANDS, obey, words_after
from cli.chat_wishes import Wishes
from cli.errors import show_error
from cli.keyboard import CommandCompleter, Keyboard, history
from cli.saved_state import SavedState
from cli.status_line import NEARLY_FULL, status
from coderv2_local.backend import Backend, Generation
from coderv2_local.engine_errors import ContextFull
from coderv2_local.home import home, home_folder
from coderv2_local.models import Model, known_models
from coderv2_local.sessions.conversation import Asked, Conversation, Event
from coderv2_local.sessions.store import Session, Sessions
from coderv2_local.stream import printable
from quant.errors import CoderError

if TYPE_CHECKING:
    from collections.abc import Callable

    from coderv2_local.edits import Proposal

SHOWN_PROGRESS_AFTER = 1.0  # seconds of reading a prompt after which progress is shown

WITHOUT_MODEL = ("/exit", "/quit", "/model")  # commands for which no model is opened anew


class Repl:
    """A conversation with its session, screen and keyboard.

    Attributes:
        last: the last generation, for speed and statistics.
        proposals: edits found in the last answer.
        set_by_hand: sampling options that /set changed: they stay whichever model answers.
        begin_with, editor: what the next prompt starts with, and whether in the editor.
        done: leave the loop.
    """

    def __init__(
        self,
        conversation: Conversation,
        model: Model,
        session: Session,
        sessions: Sessions,
        *,
        wishes: Wishes,
        screen: Console,
        answers: Console,
    ) -> None:
        self.conversation = conversation
        self.model = model
        self.session = session
        self.sessions = sessions
        self.screen = screen
        self.answers = answers
        self.wishes = wishes
        self.last: Generation | None = None
        self.generated = 0
        self.proposals: list[Proposal] = []
        self.set_by_hand: dict[str, object] = {}
        self.begin_with = ""
        self.editor = False
        self.done = False
        self._used: int | None = None
        self._told_nearly_full = False
        self._state = SavedState()
        conversation.journal = self._record

    @property
    def title(self) -> str:
        """The model's name, to show; of a server, the one that it has there."""
        return self.model.name if self.model.path else self.conversation.backend.name

    def run(self) -> None:
        """Read and answer until /exit or Ctrl-D. The session and the state are saved when this returns."""
        completer = CommandCompleter({f"/{c.name}": c.meaning for c in COMMANDS.values()}, words_after(self))
        keyboard = Keyboard(history(_history_file()), completer, self._status)
        self.count()
        try:
            while not self.done:
                begin, editor, self.begin_with, self.editor = self.begin_with, self.editor, "", False
                try:
                    line = keyboard.ask(editor=editor, text=begin)
                except KeyboardInterrupt:
                    continue
                except EOFError:
                    return
                try:
                    self._take(line)
                except KeyboardInterrupt:  # between an answer and the next prompt, or in a command
                    self.note("stopped")
        finally:
            self.close()

    def _take(self, line: str) -> None:
        """Do what a line says: a command, or a question; two slashes begin a question with one."""
        self._settle()
        if line.partition(" ")[0] not in ("", *WITHOUT_MODEL):
            replace_ended(self)
        if line.startswith("/") and not line.startswith("//"):
            obey(self, line)
        elif line:
            question = line.removeprefix("/") if line.startswith("//") else line
            self.take_turn(lambda progress: self.conversation.ask(question, progress))

    def take_turn(self, begin: "Callable[[Callable[[int, int], None]], Asked]") -> None:
        """Stream an answer to the screen and keep it, also when Ctrl-C cuts it."""
        text, cut, failed = "", False, None
        while True:
            reading = Reading(self.screen, SHOWN_PROGRESS_AFTER)
            try:
                asked = begin(reading.progress)
            except CoderError as error:
                if replace_ended(self):
                    continue
                self.show_error(error)
                return
            self._say_what_changed(asked)
            try:
                with reading:
                    text, cut, failed = stream_answer(asked.generation, self.answers, reading)
            finally:
                close(asked.generation)
                self._count_generated(asked.generation)
                if text:
                    self.conversation.keep(asked.generation, text, cut=cut)
            if isinstance(failed, ContextFull) and not text and (shrinking := self.conversation.shrink()):
                self.note(str(shrinking), "yellow")  # a server told it only now: ask again with less
            elif not failed or text or not replace_ended(self):
                break
            begin = self.conversation.resume
        unanswered = bool(self.conversation.turns) and self.conversation.turns[-1].answer is None
        if not text and unanswered:
            self.conversation.take_back()
        if failed:
            self.show_error(failed)
            if text and replace_ended(self):
                self.note("/continue goes on with the answer")
        elif cut:
            self.note("stopped; /continue goes on" if text else "stopped")
        elif asked.generation.reason == "length":
            self.note("the answer reached its longest length; /continue goes on")
        elif not text:
            self.note("the model says nothing" if unanswered else "the answer was complete: the model adds nothing")
        self._find_edits(text)
        self.count()
        self._save_state()

    def _count_generated(self, generation: Generation) -> None:
        self.last = generation
        self.generated += generation.tokens

    def note(self, text: str, style: str = "dim") -> None:
        """A remark to the user, beside the conversation."""
        self.screen.print(f"[{style}]{escape(text)}[/]")

    def show_error(self, error: CoderError) -> None:
        show_error(error)

    def count(self) -> None:
        """Measure anew how full the context is, and tell once when little is left."""
        try:
            self._used = self.conversation.used()
        except CoderError:  # a server that cannot be reached just now: the next question says so
            self._used = None
        size = self.conversation.backend.n_ctx
        nearly = bool(self._used is not None and size and self._used / size >= NEARLY_FULL)
        if nearly and not self._told_nearly_full:
            self.note(
                f"{self._used} of {size} tokens are used: soon the oldest turns will be left out. "
                "/clear starts anew, /drop frees files.",
                "yellow",
            )
        self._told_nearly_full = nearly

    def set_sampling(self, **changes: object) -> None:
        """Change sampling options. Raises InputError for impossible values."""
        self.conversation.options = replace(self.conversation.options, **changes)  # type: ignore[arg-type]

    def use_session(self, session: Session, events: "list[Event]") -> None:
        """Go on with another session."""
        self._save_state(always=True)
        self._settle()
        self.session.close()
        self.session = session
        self.take_up(events)

    def take_up(self, events: "list[Event]") -> None:
        """Be where a session's events lead."""
        old = self.conversation
        self.conversation = Conversation(old.backend, old.options, old.max_tokens, root=old.root)
        self.conversation.replay(events)
        self.conversation.journal = self._record
        self.last, self.proposals = None, []
        self.restore_state()
        self.count()

    def use_model(self, name: str) -> None:
        """Go on with another model. Raises CoderError; the old one stays then."""
        model = self.wishes.find(name)
        backend = self.wishes.load(model)
        self.conversation.backend.close()
        self.model = model
        self.conversation.options = replace(self.wishes.sampling(model, backend), **self.set_by_hand)  # type: ignore[arg-type]
        if model.path is None and (unused := self.wishes.loading()):
            self.note(f"{', '.join(unused)}: {model.name} is on a server, which decides that itself", "yellow")
        self.use_backend(backend)

    def use_backend(self, backend: Backend) -> None:
        """Go on with another backend of the same model. The old one is the caller's to close."""
        self.conversation.backend = backend
        self.last = None
        self.tell_notices()
        self.count()

    def tell_notices(self) -> None:
        """What the user should know of what answers."""
        backend = self.conversation.backend
        if who := who_answers(backend):
            self.note(who)
        for text in backend.notices:
            self.note(text, "yellow")

    def model_names(self) -> list[str]:
        """Names that /model takes, for completion."""
        return known_models()

    def restore_state(self) -> None:
        """Bring back what was evaluated for this session, so that the next answer starts at once."""
        if notice := self._state.restore(self.conversation.backend, self.session.name):
            self.note(notice)

    def show_where_it_stopped(self) -> None:
        """The last turn of a session that goes on."""
        turns = self.conversation.turns
        self.note(f"session {self.session.name}: {len(turns)} turn{'s' * (len(turns) != 1)} in context")
        if not turns:
            return
        self.screen.print(f"[bold green]>[/] {escape(printable(turns[-1].question))}")
        if turns[-1].answer is None:
            self.note("this question has no answer yet: /continue answers it", "yellow")
            return
        show_text(turns[-1].answer, self.answers)
        if turns[-1].cut:
            self.note("this answer was cut: /continue goes on")

    def close(self) -> None:
        """Save what is not saved yet."""
        self._save_state(always=True)
        self._settle()
        self.session.close()
        self.conversation.close()

    def _record(self, event: Event) -> None:
        try:
            self.session.write(event)
        except CoderError as error:
            self.show_error(error)

    def _settle(self) -> None:
        if trouble := self._state.settle():
            self.show_error(trouble)

    def _save_state(self, *, always: bool = False) -> None:
        self._state.save(self.conversation.backend, self.session.name, self.last, always=always)

    def _say_what_changed(self, asked: Asked) -> None:
        for name in asked.reread:
            self.note(f"{name} has changed and is shown anew")
        for name in asked.lost:
            self.note(f"{name} can no longer be read: the model sees it as it was", "yellow")
        if asked.shrinking:
            self.note(str(asked.shrinking), "yellow")

    def _find_edits(self, text: str) -> None:
        chat_edits.find_edits(self, text)

    def _status(self) -> StyleAndTextTuples:
        return status(self.title, self._used, self.conversation.backend.n_ctx, self.last)


def close(generation: Generation) -> None:
    """End what is still being generated, now rather than when it is collected: a server goes on until then."""
    if isinstance(generation.chunks, Generator):
        generation.chunks.close()


def _history_file() -> Path | None:
    try:
        home_folder("")
    except CoderError:
        return None
    return home() / "history"
