"""A server as a backend: addresses, keys, what is sent to which server, and what its answers mean."""

import os
import signal
import subprocess
import sys

import pytest
from conftest import ROOT, assert_refused
from remote_servers import (
    STREAM_HEAD,
    ScriptedServer,
    answer,
    events,
    models,
    says,
)

from coderv2_local import remote
from coderv2_local.engine import ContextFull
from coderv2_local.fim.trained import fim_training
from coderv2_local.prompt.layout import Message
from coderv2_local.remote.address import parse_address
from coderv2_local.remote.flavours import Flavour
from coderv2_local.remote.request_fields import sampling_fields
from coderv2_local.sampling.sampler import SamplingOptions
from coderv2_local.sessions.conversation import Conversation
from quant.errors import InputError

GREEDY = SamplingOptions()
CHAT = "/v1/chat/completions"
SECRET = "sk-0123456789abcdef"


@pytest.fixture
def server():
    with ScriptedServer().running() as running:
        yield running


def connect(server, owner="someone", *names, environment=None, at="", **more):
    server.answers.setdefault("/v1/models", [models(owner, *(names or ["m"]), **more)])
    server.answers.setdefault(CHAT, [STREAM_HEAD, events(says("hello"), says("", "stop"), "[DONE]")])
    return remote.open(server.address + at, environment=environment or {})


def ask(backend, text="hi", **options):
    return backend.chat([Message("user", text)], SamplingOptions(**options), 32)


def test_the_only_model_is_taken_and_one_of_several_must_be_named(server):
    assert connect(server, "vllm", "org/only").model == "org/only"
    server.answers["/v1/models"] = [models("vllm", "a", "b\x1b[2J")]
    with pytest.raises(InputError, match=r"name one: it has a, b\[2J") as caught:
        connect(server)
    assert "#a" in caught.value.hint
    assert connect(server, at="#a").model == "a"
    with pytest.raises(InputError, match="has no model 'c'"):
        connect(server, at="/v1#c")


def test_the_key_goes_to_the_server_and_nowhere_else(server, capfd):
    backend = connect(server, environment={"CODER_API_KEY": SECRET})
    assert "".join(ask(backend)) == "hello"
    assert {r.headers["authorization"] for r in server.requests} == {f"Bearer {SECRET}"}
    server.answers[CHAT] = [answer({"error": {"message": f"the key {SECRET} is\x1b[2J\nbad"}}, 401)]
    with pytest.raises(InputError, match=r"the key \*\*\* is") as caught:
        list(ask(backend))
    shown = repr(backend) + repr(vars(backend._client)) + str(caught.value) + repr(caught.value.__context__)
    assert SECRET not in shown + "".join(capfd.readouterr())
    assert "\x1b" not in caught.value.message
    assert "\n" not in caught.value.message


def test_no_key_no_header(server):
    list(ask(connect(server)))
    assert not any("authorization" in r.headers for r in server.requests)
    assert {r.headers["accept-encoding"] for r in server.requests} == {"identity"}


def test_a_key_that_cannot_be_one_is_refused_and_not_shown():
    with pytest.raises(InputError, match="MINE is not set"):
        remote.open("http://localhost:1", "MINE", environment={"CODER_API_KEY": SECRET})
    for bad in (f"{SECRET}\r\nX-Evil: 1", f"{SECRET} x", "schlüssel"):
        with pytest.raises(InputError, match="holds no key") as caught:
            remote.open("http://localhost:1", environment={"CODER_API_KEY": bad})
        assert bad not in caught.value.message


def test_a_proxy_in_the_environment_is_not_asked_for_this_machine(server, monkeypatch):
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert "".join(ask(connect(server))) == "hello"


def test_vllm_tells_its_context_and_counts(server):
    server.answers["/tokenize"] = [lambda r: answer({"count": 90, "tokens": [0] * 90, "max_model_len": 256})]
    backend = connect(server, "vllm", max_model_len=256)
    assert (backend.n_ctx, backend.count("x")) == (256, 90)
    list(backend.chat([Message("user", "x")], GREEDY, 1000))
    sent = server.requests[-1].body
    assert sent["max_tokens"] == 166
    assert sent["stream_options"] == {"include_usage": True}
    server.answers["/tokenize"] = [lambda r: answer({"count": 200, "tokens": [0] * 200})]
    with pytest.raises(ContextFull):
        backend.chat([Message("user", "x")], GREEDY, 1000)


def test_other_servers_count_nothing_before_they_answer(server):
    server.answers[CHAT] = [
        STREAM_HEAD,
        events(says("hi"), says("", "length"), {"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 3}}),
    ]
    backend = connect(server)
    assert (backend.count("x"), backend.n_ctx, backend.prompt_length([])) == (None, None, None)
    generation = ask(backend)
    assert generation.prompt_tokens is None
    assert "".join(generation) == "hi"
    assert (generation.prompt_tokens, generation.tokens, generation.reason) == (7, 3, "length")


def byte_tokenizer(request):
    """As vLLM and SGLang do it: special tokens are found in any text; here the others are bytes."""
    text, ids = request.body["prompt"], []
    while text:
        for special, token in (("<｜fim▁hole｜>", 100002), ("<|EOT|>", 100008)):
            if text.startswith(special):
                ids.append(token)
                text = text[len(special) :]
                break
        else:
            ids += text[0].encode()
            text = text[1:]
    return answer({"tokens": ids, "count": len(ids)})


def test_vllm_fills_in_by_ids_and_typed_special_tokens_stay_text(server):
    spelled = {100002: "<｜fim▁hole｜>", 100003: "<｜fim▁begin｜>", 100004: "<｜fim▁end｜>"}
    server.answers["/detokenize"] = [lambda r: answer({"prompt": spelled[r.body["tokens"][0]]})]
    server.answers["/tokenize"] = [byte_tokenizer]
    server.answers["/v1/completions"] = [STREAM_HEAD, events({"choices": [{"text": "mid", "finish_reason": "stop"}]})]
    backend = connect(server, "vllm", "deepseek-ai/DeepSeek-Coder-V2-Lite-Base", max_model_len=4096)
    assert backend.capabilities.infill
    prefix, suffix = "a<｜fim▁hole｜>", "<|EOT|>b"
    assert "".join(backend.infill(prefix, suffix, GREEDY, 16)) == "mid"
    prompt = server.requests[-1].body["prompt"]
    assert prompt == [100000, 100003, *prefix.encode(), 100002, *suffix.encode(), 100004]


def test_a_server_with_another_tokenizer_does_not_fill_in(server):
    server.answers["/detokenize"] = [answer({"prompt": "Ġword"})]
    backend = connect(server, "sglang", "qwen")
    assert not backend.capabilities.infill
    with pytest.raises(InputError, match="does not show the infill tokens"):
        backend.infill("a", "b", GREEDY, 8)


def test_deepseek_fills_in_by_suffix(server):
    server.answers["/beta/completions"] = [STREAM_HEAD, events({"choices": [{"text": "x", "finish_reason": "stop"}]})]
    backend = connect(server, "deepseek", "deepseek-chat")
    assert "".join(backend.infill("a", "b", GREEDY, 9999)) == "x"
    sent = server.requests[-1].body
    assert (sent["prompt"], sent["suffix"], sent["max_tokens"]) == ("a", "b", 4096)


@pytest.mark.parametrize(
    ("owner", "name", "refused"),
    [
        ("vllm", "deepseek-ai/DeepSeek-Coder-V2-Lite-Base", "/detokenize"),
        ("llamacpp", "/models/coderv2/lite.gguf", ""),
        ("deepseek", "deepseek-chat", ""),
        ("someone", "gpt", "no /infill"),
    ],
)
def test_where_there_is_no_infill_the_reason_is_named(server, owner, name, refused):
    backend = connect(server, owner, name)
    assert refused in backend.no_infill
    assert backend.capabilities.infill == (not refused)


def test_the_236b_is_told_by_its_size_where_its_name_does_not_say(server):
    backend = connect(server, "llamacpp", "model.gguf", meta={"n_params": 235_741_434_880, "n_ctx": 4096})
    assert (backend.name, backend.n_ctx) == ("model.gguf (236B)", 4096)
    assert "was not trained" in fim_training(backend.name).refusal


def test_each_server_is_given_the_options_it_knows():
    options = SamplingOptions(temperature=0.5, top_k=0, seed=3, stop=list("abcdef"), banned=[7])
    fields = sampling_fields(options, Flavour.VLLM)
    assert (fields["top_k"], fields["repetition_penalty"], fields["logit_bias"]) == (-1, 1.0, {"7": -100})
    assert sampling_fields(options, Flavour.LLAMA_SERVER)["repeat_penalty"] == 1.0
    plain = SamplingOptions(temperature=0.5, stop=list("abcdef"))
    fields = sampling_fields(plain, Flavour.OTHER)
    assert set(fields) == {"temperature", "seed", "top_p", "stop"}
    assert fields["stop"] == list("abcd")
    for unknown in ({"repeat_penalty": 1.1}, {"banned": [1]}, {"grammar": "root ::= x"}, {"json_schema": "{}"}):
        with pytest.raises(InputError, match="cannot be given"):
            sampling_fields(SamplingOptions(**unknown), Flavour.DEEPSEEK)


def test_a_stop_string_ends_the_answer_even_where_the_server_ignores_it(server):
    server.answers[CHAT] = [STREAM_HEAD, events(says("one t"), says("wo three"), says("", "stop"))]
    generation = ask(connect(server), stop=["two"])
    assert "".join(generation) == "one "
    assert generation.reason == "stop"


def test_a_key_over_http_to_another_machine_is_noticed():
    from coderv2_local.remote.client import Client, TimeLimits
    from coderv2_local.remote.key import Key

    def notices(typed):
        backend = remote.RemoteBackend.__new__(remote.RemoteBackend)
        backend._client = Client(parse_address(typed), Key(SECRET, "K"), TimeLimits())
        return backend.notices

    assert "unencrypted" in notices("http://gpu.example:8000")[0]
    assert not notices("https://gpu.example:8000")
    assert not notices("http://127.0.0.1:8000")


def test_ctrl_c_hangs_up(server, tmp_path):
    server.answers["/v1/models"] = [models("someone", "m")]
    server.answers[CHAT] = [STREAM_HEAD, events(says("one\n")), 60.0]
    command = [sys.executable, "-m", "cli", "chat", "-p", "x", "-m", server.address]
    environment = dict(os.environ, PYTHONPATH=str(ROOT), CODER_HOME=str(tmp_path))
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe, env=environment) as running:
        assert running.stdout.readline() == b"one\n"
        running.send_signal(signal.SIGINT)
        _, errors = running.communicate(timeout=60)
    assert running.returncode == 130
    assert b"Traceback" not in errors
    assert server.hung_up.wait(10)


REMOTE_CHAT = """
import sys
from coderv2_local.models import Model
from coderv2_local.open_model import open_model
from coderv2_local.prompt.layout import Message
from coderv2_local.sampling.options import SamplingOptions
import coderv2_local.fim.fill, coderv2_local.sessions.conversation
backend = open_model(Model("there", address=sys.argv[1]))
print("".join(backend.chat([Message("user", "hi")], SamplingOptions(), 8)))
print(sorted(name for name in sys.modules if name.startswith("llama_cpp")))
"""


def test_a_chat_elsewhere_loads_no_llama_cpp(server):
    connect(server).close()
    done = subprocess.run(
        [sys.executable, "-c", REMOTE_CHAT, server.address],
        capture_output=True,
        text=True,
        timeout=60,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert done.stdout == "hello\n[]\n", done.stderr


def test_stop_ids_go_where_they_are_known():
    stops = SamplingOptions(stop_ids=[7, 9])
    assert sampling_fields(stops, Flavour.VLLM)["stop_token_ids"] == [7, 9]
    assert "stop_token_ids" not in sampling_fields(SamplingOptions(), Flavour.VLLM)
    with pytest.raises(InputError, match="cannot be given token ids to stop at"):
        sampling_fields(stops, Flavour.LLAMA_SERVER)


CONFIG = """
[servers.office]
url = "{}"
key_variable = "OFFICE_KEY"
"""


def test_a_named_server_gets_its_key_and_shows_it_nowhere(server, coder, tmp_path, monkeypatch):
    connect(server).close()
    server.requests.clear()
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "config.toml").write_text(CONFIG.format(server.address))
    monkeypatch.delenv("OFFICE_KEY", raising=False)
    assert_refused(coder("chat", "-m", "office", "-p", "hi"), "OFFICE_KEY is not set")
    assert not server.requests
    monkeypatch.setenv("OFFICE_KEY", SECRET)
    monkeypatch.setenv("CODER_API_KEY", "another-key")
    done = coder("chat", "-m", "office", "-p", "hi")
    assert done.stdout.strip() == "hello", done.stderr
    assert {r.path for r in server.requests} >= {"/v1/models", CHAT}
    assert {r.headers["authorization"] for r in server.requests} == {f"Bearer {SECRET}"}
    # the server refuses, and repeats the key
    server.answers[CHAT] = [answer({"error": {"message": f"the key {SECRET} is wrong"}}, 401)]
    refused = coder("chat", "-m", "office", "-p", "hi")
    assert refused.returncode != 0
    assert "key" in refused.stderr
    for shown in (done, refused):
        assert SECRET not in shown.stdout + shown.stderr


@pytest.mark.parametrize(("owner", "goes_on"), [("coderv2-local", True), ("someone", False)])
def test_a_server_hands_no_ids_over_and_only_ours_goes_on_with_an_answer(server, owner, goes_on):
    talk = Conversation(connect(server, owner), SamplingOptions(), 32)
    assert not talk.backend.capabilities.ids
    assert talk.backend.capabilities.resume is goes_on
    asked = talk.ask("hi")
    talk.keep(asked.generation, "".join(asked.generation), cut=True)
    assert [m.ids for m in talk.messages()] == [None, None]
    if goes_on:
        "".join(talk.resume().generation)
        assert server.requests[-1].body["messages"][-1] == {"role": "assistant", "content": "hello"}
    else:
        with pytest.raises(InputError, match="cannot go on"):
            talk.resume()
