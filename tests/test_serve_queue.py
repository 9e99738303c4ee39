"""Many clients, one model: who waits for whom, who is interrupted, and that nobody's answer changes by it."""

import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from serve_process import HELLO, LONG, Served, serving, text_of

from coderv2_local.engine import Engine
from coderv2_local.models import find_model
from coderv2_local.placement.load_options import LoadOptions
from coderv2_local.serving.kept import ServedStates
from coderv2_local.states.prefix_states import PrefixStates

HOLE = {"input_prefix": 'def is_odd(n):\n    """Return True if n is odd."""\n', "input_suffix": "\n\n", "n_predict": 12}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("home")) as server:
        yield server


@pytest.mark.parametrize("options", [{"temperature": 0}, {"temperature": 1.5, "seed": 11}, {"logprobs": True}])
def test_an_interrupted_answer_goes_on_as_if_nothing_had_been(served: Served, options):
    body = {**LONG, **options}
    alone = "".join(text_of(served.events("/v1/chat/completions", body)))
    infill_alone = served.post("/infill", HOLE)[1]["content"]
    before = served.metric("interruptions_total")
    events = served.events("/v1/chat/completions", body)
    text, answers = text_of(iter([next(events)])), []
    for n, event in enumerate(events):
        text += text_of(iter([event]))
        if n % 60 == 10:
            answers.append(served.post("/infill", HOLE)[1]["content"])
    assert text == alone
    assert set(answers) == {infill_alone}
    assert served.metric("interruptions_total") >= before + 1


def test_an_infill_does_not_wait_for_a_long_answer(served: Served):
    before = served.metric("interruptions_total")
    events = served.events("/v1/chat/completions", LONG)
    next(events)
    status, answer = served.post("/infill", HOLE)
    assert status == 200
    assert answer["timings"]["predicted_n"] > 0
    assert len(text_of(events)) > 100
    assert served.metric("interruptions_total") == before + 1, "it came after the answer"


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/completions", {"prompt": "def f(", "suffix": "\n", "max_tokens": 440}),
        ("/v1/completions", {"prompt": "<｜fim▁begin｜>def f(<｜fim▁hole｜>\n<｜fim▁end｜>"}),
        ("/infill", {"input_prefix": "def f(", "n_predict": -1}),
        ("/infill", {"input_prefix": "def f(", "n_predict": -1, "t_max_predict_ms": 3_600_000}),
    ],
    ids=["suffix", "layout", "no limit", "an hour"],
)
def test_an_infill_does_not_wait_for_a_long_infill(served: Served, path, body):
    before = served.metric("interruptions_total")
    events = served.events(path, {**body, "logit_bias": LONG["logit_bias"]})
    next(events)
    assert served.post("/infill", HOLE)[0] == 200
    assert sum(1 for _ in events) > 20
    assert served.metric("interruptions_total") == before + 1, "it came after the long one"


def test_a_short_infill_is_not_interrupted_by_another(served: Served):
    before = served.metric("interruptions_total")
    for more in ({"n_predict": 128}, {"n_predict": 300, "t_max_predict_ms": 1000}):
        events = served.events("/infill", {"input_prefix": "def f(", "logit_bias": LONG["logit_bias"], **more})
        next(events)
        assert served.post("/infill", HOLE)[0] == 200
        assert sum(1 for _ in events) > 1
    assert served.metric("interruptions_total") == before


def test_long_texts_that_are_read_hold_no_infill_up(served: Served):
    """As many as there are threads for them, and more."""
    body = {**HOLE, "input_extra": [{"text": "x = 1", "filename": "a.py"}]}
    with ThreadPoolExecutor(8) as pool:
        reading = [pool.submit(served.post, "/tokenize", {"content": " " * 300_000}) for _ in range(8)]
        while not any(answer.done() for answer in reading):  # they have arrived
            time.sleep(0.01)
        assert served.post("/infill", body)[0] == 200
        assert not all(answer.done() for answer in reading), "it came after them"
        assert {answer.result()[0] for answer in reading} == {200}


def test_answers_come_in_the_order_of_their_requests(served: Served):
    done = []

    def ask(n: int) -> None:
        served.post("/v1/chat/completions", {**LONG, "max_tokens": 120})
        done.append(n)

    with ThreadPoolExecutor(4) as pool:
        for n in range(4):
            pool.submit(ask, n)
            served.wait_for("requests_running", 1)
            deadline = time.monotonic() + 5
            while served.metric("requests_waiting") < n and time.monotonic() < deadline:
                time.sleep(0.005)
    assert done == [0, 1, 2, 3]


def test_two_files_in_turn_are_evaluated_once_each(served: Served):
    """The figure that matters in an editor with two windows: each file's state is kept while the other is filled in."""
    files = [
        {
            "input_prefix": "".join(f"def {name}_{i}(value):\n    return value + {i}\n" for i in range(14)),
            "n_predict": 2,
        }
        for name in ("left", "right")
    ]
    for file in files:
        assert served.post("/infill", file)[1]["timings"]["prompt_n"] > 150
    for file in files * 2:
        file["input_prefix"] += "x = "
        timings = served.post("/infill", file)[1]["timings"]
        assert timings["cache_n"] > 150
        assert timings["prompt_n"] < 12


def test_a_conversation_survives_an_infill_in_between(served: Served):
    first = {"messages": [{"role": "user", "content": "Explain sorting. " * 30}], "max_tokens": 4}
    served.post("/v1/chat/completions", first)
    served.post("/infill", {**HOLE, "input_prefix": "value = compute(1)\n" * 30})
    usage = served.post("/v1/chat/completions", first)[1]["usage"]
    assert usage["prompt_tokens_details"]["cached_tokens"] == usage["prompt_tokens"] - 1


def test_one_request_too_many_is_told_to_come_again(tmp_path):
    with serving(tmp_path / "home") as served, ThreadPoolExecutor(80) as pool:
        answers = list(pool.map(lambda _: served.post("/v1/chat/completions", {**LONG, "max_tokens": 20}), range(80)))
    statuses = [status for status, _ in answers]
    assert set(statuses) == {200, 503}
    assert 64 <= statuses.count(200) < 80
    refused = next(answer for status, answer in answers if status == 503)
    assert refused["error"]["code"] == "queue_full"


def test_a_deadline_ends_what_runs_and_what_waits(served: Served):
    events = served.events("/v1/chat/completions", LONG)
    next(events)
    status, late = served.post("/v1/chat/completions", {"messages": HELLO, "deadline_ms": 50})
    assert (status, late["error"]["code"]) == (408, "timeout")
    text_of(events)
    began = time.monotonic()
    assert served.post("/v1/chat/completions", LONG)[0] == 200
    half = (time.monotonic() - began) * 500
    status, cut = served.post("/v1/chat/completions", {**LONG, "deadline_ms": int(half)})
    assert status == 200
    assert cut["choices"][0]["finish_reason"] == "length"
    assert 0 < cut["usage"]["completion_tokens"] < 440


@pytest.mark.parametrize(
    ("path", "body"), [(b"/v1/chat/completions", {"messages": HELLO, "max_tokens": 1}), (b"/infill", HOLE)]
)
def test_a_deadline_counts_from_the_arrival_of_a_request(served: Served, path, body):
    body = json.dumps({**body, "deadline_ms": 100}).encode()
    with served.raw() as slow:
        slow.sendall(b"POST %b HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % (path, len(body)))
        time.sleep(0.5)
        slow.sendall(body)
        assert slow.recv(4000).startswith(b"HTTP/1.1 408 ")


def test_who_hangs_up_while_waiting_is_not_generated_for(served: Served):
    served.wait_until_idle()
    before = served.metric("generated_tokens_total")
    body = b'{"messages":[{"role":"user","content":"x"}],"max_tokens":400}'
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(body)
    with ThreadPoolExecutor(4) as pool:
        ahead = [pool.submit(served.post, "/v1/chat/completions", LONG) for _ in range(4)]
        served.wait_for("requests_waiting", 3)
        waiting = served.raw()
        waiting.sendall(head + body)
        served.wait_for("requests_waiting", 2)
        waiting.close()
        assert {answer.result()[0] for answer in ahead} == {200}
    served.wait_until_idle()
    assert served.metric("generated_tokens_total") - before == 4 * 440


def test_many_clients_at_once_are_all_served_and_none_starves(served: Served):
    """A soak of five seconds: 24 conversations and 8 editors."""
    end = time.monotonic() + 5
    waits: dict[str, list[float]] = {"chat": [], "infill": []}
    failures: list[object] = []
    served_in: dict[int, int] = {}

    def client(n: int) -> None:
        is_infill = n % 4 == 0
        served_in[n] = 0
        while time.monotonic() < end:
            began = time.monotonic()
            if is_infill:
                status, answer = served.post("/infill", {**HOLE, "input_prefix": f"def f{n}(x):\n    return "})
                waits["infill"].append(time.monotonic() - began)
            else:
                chat = {"messages": [{"role": "user", "content": f"Question {n}"}], "max_tokens": 8}
                status, answer = served.post("/v1/chat/completions", chat)
                waits["chat"].append(time.monotonic() - began)
            if status != 200:
                failures.append(answer)
            served_in[n] += 1

    threads = [threading.Thread(target=client, args=(n,)) for n in range(32)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert min(served_in.values()) >= 1
    assert sorted(waits["infill"])[len(waits["infill"]) // 2] < sorted(waits["chat"])[len(waits["chat"]) // 2]


def test_states_are_saved_at_the_end_and_there_again_at_the_start(tmp_path):
    chat = {"messages": [{"role": "user", "content": "Explain sorting. " * 30}], "max_tokens": 4}
    file = {"input_prefix": "value = compute(1)\n" * 30, "n_predict": 2}
    with serving(tmp_path) as served:
        served.post("/v1/chat/completions", chat)
        served.post("/infill", file)
    with serving(tmp_path) as served:
        timings = served.post("/v1/chat/completions", chat)[1]["timings"]
        assert timings["prompt_n"] == 1
        assert served.post("/infill", file)[1]["timings"]["prompt_n"] <= 4


def test_a_state_that_cannot_be_kept_is_said_not_raised(tmp_path):
    with Engine(find_model("tiny").path, LoadOptions(n_threads=1)) as engine:
        engine.evaluate([engine.vocabulary.bos, *engine.vocabulary.encode("x = 1\n" * 40)])
        (tmp_path / "states").write_text("a file where the folder should be")
        notice = ServedStates().save(engine, PrefixStates(tmp_path / "states"), "name")
        assert notice
        assert "not kept" in notice
