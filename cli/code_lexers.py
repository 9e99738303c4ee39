"""Pygments lexers that go on where they stopped: the state at the end of one line is the beginning of the next."""

import copy
import re
from collections.abc import Iterable
from importlib import import_module
from inspect import Parameter, signature
from typing import Any, TypeAlias

from pygments.lexer import DelegatingLexer, ExtendedRegexLexer, Lexer, LexerContext, RegexLexer
from pygments.lexers import get_lexer_by_name
from pygments.token import Name, Text, _TokenType
from pygments.util import ClassNotFound

from coderv2_local.languages import find_language

TokenSequence: TypeAlias = list[tuple[int, Any, str]]
State: TypeAlias = LexerContext | None


class CodeLexer:
    """One lexer, and how its state is carried.

    Most lexers are state machines over regular expressions. Pygments runs them in two ways: over a text, or over a
    context that keeps the stack of states. The second is used for all of them here.
    """

    def __init__(self, lexer: Lexer) -> None:
        self._lexer = lexer
        self.keeps_state = isinstance(lexer, RegexLexer)
        self.embeds = "html" in lexer.aliases  # <script> and <style>
        own = type(lexer).get_tokens_unprocessed
        has_own = self.keeps_state and not isinstance(lexer, ExtendedRegexLexer)
        # Some colour known names in a second pass over the tokens, which must be asked for.
        self._names_words = has_own and own is not RegexLexer.get_tokens_unprocessed
        self._takes_stack = "stack" in signature(own).parameters
        if has_own:
            self._take_contexts()

    def first_state(self, line: str) -> State:
        """The state before the first line."""
        if not self.keeps_state:
            return None
        module = import_module(type(self._lexer).__module__)
        kind = getattr(module, type(self._lexer).__name__ + "Context", LexerContext)  # YAML's holds more than a stack
        state: LexerContext = type("StoppingContext", (StopsAtEnd, kind), {})("", 0)
        if "php" in self._lexer.aliases and "<?" not in line:
            state.stack.append("php")  # answers often show PHP without its opening tag
        return state

    def lex(self, text: str, state: State) -> tuple[TokenSequence, State]:
        """Tokens of `text`, and the state after it. Where the lexer fails, the text is one plain token."""
        after = _copy(state)
        tokens: TokenSequence = []
        try:
            if state is None or after is None:
                return list(self._lexer.get_tokens_unprocessed(text)), None
            after.text, after.pos, after.end = text, 0, len(text)
            run = (
                type(self._lexer).get_tokens_unprocessed
                if isinstance(self._lexer, ExtendedRegexLexer)
                else ExtendedRegexLexer.get_tokens_unprocessed
            )
            try:
                for token in run(self._lexer, context=after):
                    tokens.append(token)
            except EndOfText:
                pass
            return self._with_known_names(text, tokens, state) if self._names_words else tokens, after
        except Exception:  # some hundred lexers, any text: a missing colour must not cost the answer
            return [(0, Text, text)], state

    def _with_known_names(self, text: str, tokens: TokenSequence, state: LexerContext) -> TokenSequence:
        if self._takes_stack:
            return list(self._lexer.get_tokens_unprocessed(text, stack=tuple(state.stack)))
        named = list(self._lexer.get_tokens_unprocessed(text))  # from the first state: right for names if for the rest
        if [value for _, _, value in named] != [value for _, _, value in tokens]:
            return tokens
        return [new if old[1] in Name else old for old, new in zip(tokens, named, strict=True)]

    def _take_contexts(self) -> None:
        """Let every rule of this lexer's own table be called with a context."""
        lexer: Any = self._lexer
        lexer._tokens = {
            state: [(match, _taking_context(action), new) for match, action, new in rules]
            for state, rules in lexer._tokens.items()
        }


class EndOfText(Exception):
    """The lexer has come to the end of the text it was given."""


class StopsAtEnd:
    """A lexer's context that stops it at the end, before rules that match nothing change the state there."""

    pos: int
    text: str

    @property
    def end(self) -> int:
        if self.pos >= len(self.text):
            raise EndOfText
        return self._end

    @end.setter
    def end(self, value: int) -> None:
        self._end = value


def lexer_for(info: str) -> CodeLexer | None:
    """The lexer of an info string; None where there is none that can go on from line to line."""
    language = find_language(info)
    words = info.split()
    name = language.lexer if language else words[0].lower() if words else None
    if not name:
        return None
    try:
        lexer = get_lexer_by_name(name)
    except ClassNotFound:
        return None
    return None if isinstance(lexer, DelegatingLexer) else CodeLexer(lexer)


def _taking_context(action: Any) -> Any:
    """A rule's action that takes the lexer's context; some take only the lexer and the match."""
    if action is None or isinstance(action, _TokenType):
        return action
    kinds = [p.kind for p in signature(action).parameters.values()]
    if sum(kind in (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD) for kind in kinds) != 2:
        return action

    def with_context(lexer: Lexer, match: re.Match[str], context: LexerContext) -> Iterable[Any]:
        yield from action(lexer, match)
        context.pos = match.end()

    return with_context


def _copy(state: State) -> State:
    other = copy.copy(state)
    for name, value in vars(other).items() if other else ():
        if isinstance(value, list):
            setattr(other, name, list(value))
    return other
