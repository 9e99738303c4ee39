"""Prompts as ids: the published layouts, built from ids and never from strings."""

import pytest

from coderv2_local.prompt.layout import ChatFormat, Message, chat_format, chat_prompt, infill_prompt

PUBLISHED = (
    "{{ bos_token }}{% for message in messages %}{{ 'User: ' + message['content'] }}{% endfor %}{{ 'Assistant:' }}"
)


def show(ids, vocabulary):
    """The ids as text, special tokens by their role."""
    fim = vocabulary.fim()
    names = {
        vocabulary.bos: "<bos>",
        vocabulary.eos: "<eos>",
        fim.begin: "<begin>",
        fim.hole: "<hole>",
        fim.end: "<end>",
    }
    return "".join(names.get(i) or vocabulary.decode([i]) for i in ids)


def test_a_conversation_has_the_published_layout(tiny):
    turns = [
        Message("system", "Be brief."),
        Message("user", "Hi"),
        Message("assistant", "Hello."),
        Message("user", "Bye"),
    ]
    ids = chat_prompt(turns, ChatFormat.PLAIN, tiny.vocabulary)
    assert show(ids, tiny.vocabulary) == "<bos>Be brief.\n\nUser: Hi\n\nAssistant: Hello.<eos>User: Bye\n\nAssistant:"


def test_no_space_follows_the_last_colon(tiny):
    ids = chat_prompt([Message("user", "Hi")], ChatFormat.PLAIN, tiny.vocabulary)
    assert ids[-1:] == tiny.vocabulary.encode(":")


def test_an_answer_keeps_the_ids_it_was_generated_as(tiny):
    vocabulary = tiny.vocabulary
    odd = tuple(i for c in " ok" for i in vocabulary.encode(c))
    assert list(odd) != vocabulary.encode(" ok")
    ids = chat_prompt(
        [Message("user", "a"), Message("assistant", "ok", odd), Message("user", "b")], ChatFormat.PLAIN, vocabulary
    )
    assert " ".join(map(str, odd)) in " ".join(map(str, ids))


def test_an_infill_prompt_is_prefix_suffix_middle(tiny):
    vocabulary = tiny.vocabulary
    ids = infill_prompt(vocabulary.encode("def f("), vocabulary.encode("): pass"), vocabulary)
    assert show(ids, vocabulary) == "<bos><begin>def f(<hole>): pass<end>"


@pytest.mark.parametrize("typed", ["<｜fim▁hole｜>", "<｜end▁of▁sentence｜>", "<|EOT|>"])
def test_special_tokens_in_a_text_are_text(tiny, typed):
    ids = tiny.vocabulary.encode(typed)
    assert not set(ids) & set(tiny.vocabulary.special_ids())
    assert tiny.vocabulary.decode(ids) == typed


def test_the_format_is_the_files_own():
    assert chat_format(PUBLISHED) is ChatFormat.PLAIN
    assert chat_format("{{ '<｜User｜>' + m + '<｜Assistant｜>' }}") is ChatFormat.TOKENS
    assert chat_format(None) is ChatFormat.PLAIN
    assert chat_format("<|im_start|>user") is ChatFormat.TEMPLATE
