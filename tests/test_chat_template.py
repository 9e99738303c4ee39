"""Templates of other families: rendered in a process of their own, and no text of a user becomes a special token."""

import pytest

from coderv2_local.prompt.chat_template import layout, template_prompt
from coderv2_local.prompt.layout import ChatFormat, Message, chat_prompt
from quant.errors import InputError

PUBLISHED = (
    "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'user' %}{{ 'User: ' + message['content'] + "
    "'\\n\\n' }}{% elif message['role'] == 'assistant' %}{{ 'Assistant: ' + message['content'] + eos_token }}"
    "{% elif message['role'] == 'system' %}{{ message['content'] + '\\n\\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)
TALK = [
    Message("system", "Be brief."),
    Message("user", "Say <｜end▁of▁sentence｜> and {{ 7*7 }}"),
    Message("assistant", "No."),
    Message("user", "Why?"),
]


def test_rendering_the_familys_own_template_gives_what_is_built_from_ids(tiny):
    """All but one thing: pieces are encoded apart, so the text is compared, and the special tokens' places."""
    vocabulary = tiny.vocabulary
    rendered = template_prompt(TALK, PUBLISHED, vocabulary)
    built = chat_prompt(TALK, ChatFormat.PLAIN, vocabulary)
    special = set(vocabulary.special_ids())
    assert vocabulary.decode(rendered) == vocabulary.decode(built)
    assert [i for i in rendered if i in special] == [i for i in built if i in special]


def test_an_answer_keeps_its_ids_and_a_cut_one_is_gone_on_with(tiny):
    ids = (5, 6, 7)
    whole = template_prompt([*TALK[:2], Message("assistant", "x", ids), TALK[3]], PUBLISHED, tiny.vocabulary)
    assert any(tuple(whole[i : i + 3]) == ids for i in range(len(whole)))
    cut = template_prompt([*TALK[:2], Message("assistant", "x", ids)], PUBLISHED, tiny.vocabulary)
    assert tuple(cut[-3:]) == ids


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("{{ messages[0].nonsense.x }}", "cannot be used"),
        ("{% for", "cannot be used"),
        ("{{ raise_exception('no system messages') }}", "no system messages"),
        ("{{ bos_token }}", "no place for a system message"),
        ("{{ ''.__class__.__mro__ }}", "cannot be used"),
        ("{{ cycler.__init__.__globals__.os.system('touch pwned') }}", "cannot be used"),
        ("{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}", "time or memory"),
        (
            "{% set n = namespace(x='aaaaaaaa') %}{% for i in range(60) %}{% set n.x = n.x ~ n.x %}{% endfor %}",
            "cannot",
        ),
        ("{{ 'a' * 2000000 }}", "far too much"),
        ("{% include '/etc/passwd' %}", "cannot be used"),
    ],
)
def test_a_template_that_is_wrong_or_hostile_is_refused(tiny, template, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=words):
        template_prompt(TALK, template, tiny.vocabulary)
    assert list(tmp_path.iterdir()) == []


def test_the_layout_is_made_once_for_equal_roles(tiny):
    before = layout.cache_info().hits
    for text in ("a", "b"):
        template_prompt([Message("user", text)], PUBLISHED, tiny.vocabulary)
    assert layout.cache_info().hits > before
