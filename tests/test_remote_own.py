"""A server of ours that the user named answers as the same model does here; what it says is checked."""

from contextlib import closing

import pytest
from remote_servers import ScriptedServer, answer, models

from cli.chat_wishes import Wishes
from coderv2_local.models import Model
from coderv2_local.preferences import Preferences


@pytest.fixture
def server():
    with ScriptedServer().running() as running:
        yield running


def conversation(server, params, owner="coderv2-local", **wishes):
    server.answers["/v1/models"] = [models(owner, "tiny")]
    server.answers["/props"] = [answer({"default_generation_settings": {"n_ctx": 512, "params": params}})]
    settings = Preferences(wishes.pop("settings", {}))
    return Wishes(settings, **wishes).conversation(Model("there", address=server.address))


def sampling(server, params, **wishes):
    talk = conversation(server, params, **wishes)
    talk.close()
    return talk.options.temperature, talk.options.repeat_penalty


TINY = {"temperature": 0.0, "repeat_penalty": 1.2}


def test_it_knows_what_its_model_needs(server):
    assert sampling(server, TINY) == (0.0, 1.2)
    assert sampling(server, TINY, temperature=0.5) == (0.5, 1.2)
    assert sampling(server, TINY, settings={"chat.repeat_penalty": 1.1}) == (0.0, 1.1)
    assert sampling(server, TINY, owner="llamacpp") == (0.3, 1.0), "others say there what nobody chose"


@pytest.mark.parametrize("odd", [None, "x", [], {}, {"temperature": "0", "repeat_penalty": True}])
def test_what_is_no_number_is_passed_over(server, odd):
    assert sampling(server, odd) == (0.3, 1.0)


@pytest.mark.parametrize("odd", [float("nan"), float("inf"), -1, 1e300, 10**400])
def test_a_number_that_sampling_does_not_take_is_passed_over(server, odd):
    assert sampling(server, {"temperature": odd, "repeat_penalty": odd}) == (0.3, 1.0)


@pytest.mark.parametrize("owner", ["coderv2-local", "llamacpp", "vllm"])
def test_nothing_said_yet_is_no_tokens_and_no_request(server, owner):
    """`/tokens` asks before the first question; these servers refuse to lay out nothing."""
    with closing(conversation(server, TINY, owner=owner)) as talk:
        asked = len(server.requests)
        assert talk.used() == 0
        assert len(server.requests) == asked
