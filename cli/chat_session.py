"""Which session a conversation goes on with, or begins."""

from collections.abc import Iterator
from contextlib import closing, contextmanager

from cli.chat_wishes import Wishes
from coderv2_local.home import home_folder
from coderv2_local.models import Model
from coderv2_local.sessions.conversation import Conversation, Event
from coderv2_local.sessions.store import Session, Sessions, check_name
from quant.errors import InputError


@contextmanager
def for_one_question(
    wishes: Wishes, model: str | None, *, resume: bool, name: str | None
) -> Iterator[tuple[Conversation, str]]:
    """The conversation that a single question belongs to, and a notice or "".

    Without a session it is a new one that is kept nowhere.

    Raises:
        InputError: there is no such session, or it is in use or damaged; an unknown model.
        CoderError: the model cannot be loaded. Later, from the conversation: the session cannot be written.
    """
    if not resume and name is None:
        with closing(wishes.conversation(wishes.find(model))) as conversation:
            set_system(conversation, wishes, goes_on=False)
            yield conversation, ""
        return
    session, events, notice = pick(Sessions(home_folder("sessions")), resume=resume, name=name)
    with closing(session):
        chosen = model_for(session, wishes, model, goes_on=bool(events))
        session.model = session.model or chosen.reference
        with closing(wishes.conversation(chosen)) as conversation:
            conversation.replay(events)
            conversation.journal = session.write
            set_system(conversation, wishes, goes_on=bool(events))
            yield conversation, notice


def pick(sessions: Sessions, *, resume: bool, name: str | None) -> tuple[Session, list[Event], str]:
    """The session to go on with, or a new one; its events, and a notice.

    Raises:
        InputError: nothing to resume, or the session cannot be opened.
    """
    if resume and name is None:
        name = sessions.latest()
        if name is None:
            raise InputError("there is no session to resume yet", hint="`coder chat` begins one")
    if name is None:
        return sessions.new(), [], ""
    if resume or name in sessions.names():
        return sessions.open(name)
    check_name(name)
    begun = sessions.new()
    begun.rename(name)
    return begun, [], ""


def model_for(session: Session, wishes: Wishes, name: str | None, *, goes_on: bool) -> Model:
    """The model that is named, or else that with which a session that goes on was begun.

    Where that is no longer there, it is the one that is used without a name.

    Raises:
        InputError: an unknown model.
    """
    if name is not None or not goes_on:
        return wishes.find(name)
    try:
        return wishes.find(session.model)
    except InputError:
        return wishes.find(None)


def set_system(conversation: Conversation, wishes: Wishes, *, goes_on: bool) -> None:
    """The system prompt that is asked for; one that goes on keeps its own, unless another was typed."""
    system = wishes.system if goes_on else wishes.system_prompt()
    if system is not None and system != conversation.system:
        conversation.set_system(system)
