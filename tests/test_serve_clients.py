"""What editors send, word for word as their sources (August 2026) and a run of Continue do, and what they read of it.

The editors themselves cannot run here: this is their side of the conversation, over real HTTP.
"""

import json
from collections.abc import Iterator

import pytest
from conftest import ROOT
from serve_process import HELLO, Served, serving

AXIOS = {"Accept": "application/json, text/plain, */*", "User-Agent": "axios/1.16.0", "Accept-Encoding": "gzip, br"}
NODE_OPENAI = {
    "Accept": "application/json",
    "Accept-Encoding": "gzip, deflate, br",
    "User-Agent": "ls/JS 5.23.2",
    "X-Stainless-Lang": "js",
    "X-Stainless-Retry-Count": "0",
    "Authorization": "Bearer none",
}
ZED = {"User-Agent": "Zed/0.215.0 (linux; x86_64)"}
BEFORE = 'def is_even(n):\n    """Return True if n is even."""\n'
AFTER = "\n\ndef add(a, b):\n    return a + b\n"
LAYOUT = f"<｜fim▁begin｜>{BEFORE}    <｜fim▁hole｜>{AFTER}<｜fim▁end｜>"
CHUNK = {"text": "def is_odd(n):\n    return n % 2 == 1\n", "time": 1787126400000, "filename": "/home/me/odd.py"}
TOOLS = [{"type": "function", "function": {"name": "Read", "description": "…", "parameters": {"type": "object"}}}]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("home")) as served:
        yield served


def llama_vscode(**more: object) -> dict[str, object]:
    """Its request for a suggestion, with its default settings."""
    return {
        "id_slot": 0,
        "input_prefix": BEFORE,
        "input_suffix": AFTER,
        "input_extra": [CHUNK],
        "prompt": "    ",
        "n_predict": 128,
        "n_cmpl": 3,
        "top_k": 40,
        "top_p": 0.99,
        "stream": False,
        "samplers": ["top_k", "top_p", "infill"],
        "cache_prompt": True,
        "n_indent": 4,
        "t_max_prompt_ms": 500,
        "t_max_predict_ms": 2500,
    } | more


def test_llama_vscode_suggests(server: Served):
    assert server.get("/health", **AXIOS)[1]["status"] == "ok"
    ahead = llama_vscode(input_prefix="", input_suffix="", prompt="", n_predict=0, samplers=[], t_max_predict_ms=1)
    assert server.post("/infill", ahead, **AXIOS)[0] == 200
    before = server.metric("reused_tokens_total")
    status, answer = server.post("/infill", llama_vscode(), **AXIOS)
    assert status == 200
    assert answer["content"].strip()
    assert not answer["content"].startswith("    "), "the indentation is in the prompt"
    assert server.metric("reused_tokens_total") > before, "what was sent ahead is not evaluated again"
    assert {"prompt_n", "prompt_ms", "prompt_per_second", "predicted_n", "predicted_ms", "predicted_per_second"} <= set(
        answer["timings"]
    )
    assert isinstance(answer["tokens_cached"], int)


def test_llama_vscode_talks_and_counts(server: Served):
    turns = [{"role": "system", "content": "You are an expert coder."}, *HELLO]
    body = {"messages": turns, "stream": False, "cache_prompt": True, "temperature": 0.8, "top_p": 0.95, "model": "x"}
    status, answer = server.post("/v1/chat/completions", body, **AXIOS)
    assert status == 200
    assert answer["choices"][0]["message"]["content"]
    prompt = server.post("/apply-template", {"messages": turns, "model": "x"}, **AXIOS)[1]["prompt"]
    counted = server.post("/tokenize", {"content": prompt, "add_special": False, "parse_special": True}, **AXIOS)
    assert len(counted[1]["tokens"]) + 1 == answer["usage"]["prompt_tokens"], "BOS is the server's"
    status, refusal = server.post("/v1/chat/completions", body | {"tools": TOOLS, "tool_choice": "auto"}, **AXIOS)
    assert (status, refusal["error"]["code"]) == (400, "unsupported_parameter")


def test_continue_suggests(server: Served):
    stops = ["<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>", "//", "<｜end▁of▁sentence｜>", "/src/", "```"]
    body = {"prompt": LAYOUT, "n_predict": 4096, "stop": stops, "temperature": 0.01}
    events = list(server.events("/completion", body))
    text = "".join(e["content"] for e in events)
    assert text.strip()
    assert "<｜" not in text
    assert events[-1]["stop"] is True
    filled = server.post("/infill", {"input_prefix": BEFORE + "    ", "input_suffix": AFTER, "n_predict": 1})[1]
    assert events[-1]["tokens_evaluated"] == filled["tokens_evaluated"], "it was not taken for an infill prompt"


def test_continue_hangs_up_when_it_has_a_line(server: Served):
    cancelled = server.metric("cancelled_total")
    body = {"prompt": LAYOUT, "n_predict": 1000, "logit_bias": [[4088, False]], "temperature": 0.01}
    events = server.events("/completion", body)
    next(events)
    events.close()
    server.wait_for("cancelled_total", cancelled + 1)


def test_continue_talks_without_tools_and_says_why_it_cannot_with_them(server: Served):
    body = {"model": "lite", "messages": HELLO, "max_tokens": 20, "stream_options": {"include_usage": True}}
    *_, last = server.events("/v1/chat/completions", body | {"tools": []})
    assert last["usage"]["completion_tokens"] == 20
    status, refusal = server.post("/v1/chat/completions", body | {"stream": True, "tools": TOOLS}, **NODE_OPENAI)
    assert status == 400
    assert "tools" in refusal["error"]["message"]


def test_zed_predicts_edits(server: Served):
    body = {
        "model": "lite-base",
        "prompt": LAYOUT,
        "max_tokens": 64,
        "stop": ["<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"],
    }
    status, answer = server.post("/v1/completions", body, **ZED)
    assert status == 200
    kinds = {"id": str, "object": str, "created": int, "model": str, "choices": list, "usage": dict}
    assert all(isinstance(answer[name], kind) for name, kind in kinds.items())
    assert all(isinstance(answer["usage"][f"{n}_tokens"], int) for n in ("prompt", "completion", "total"))
    assert answer["choices"][0]["text"].strip()
    assert answer["choices"][0]["finish_reason"] in ("stop", "length")


def test_zed_talks(server: Served):
    body = {
        "model": "lite",
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": [{"type": "text", "text": HELLO[0]["content"]}]},
        ],
        "stream_options": {"include_usage": True},
        "stop": [],
        "temperature": 1.0,
        "max_completion_tokens": 20,
    }
    events = list(server.events("/v1/chat/completions", body))
    assert "".join(c["delta"].get("content") or "" for e in events for c in e["choices"])
    assert all(isinstance(e["choices"], list) for e in events)
    assert events[-1]["usage"]["total_tokens"] > 20


def test_the_page_s_configurations_are_json():
    page = (ROOT / "docs" / "editors.md").read_text()
    blocks = page.split("```json\n")[1:]
    assert len(blocks) >= 2
    for block in blocks:
        assert "8012" in json.dumps(json.loads(block.split("```")[0]))
