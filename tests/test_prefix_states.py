"""Evaluated states kept on disk and in memory: they save work, and a wrong one never reaches llama.cpp."""

import json
import os
import shutil
import stat
import struct
import subprocess
import sys
import time

import numpy as np
import pytest
from named_models import named
from tiny_engine import TINY, engine, evaluated, ids, make_engine

from coderv2_local.local_backend import LocalBackend
from coderv2_local.placement.load_options import LoadOptions
from coderv2_local.prompt.layout import Message
from coderv2_local.sampling.sampler import SamplingOptions
from coderv2_local.states.fingerprint import model_fingerprint
from coderv2_local.states.prefix_states import PrefixStates, StateError, state_owner
from converters.gguf_header import read_header
from tests.conftest import ROOT

__all__ = ["engine", "ids"]


@pytest.fixture
def states(tmp_path):
    return PrefixStates(tmp_path / "states")


def only_file(states):
    (path,) = states.folder.glob("*.state")
    return path


def assert_ignored(states, engine, *words):
    """The state is not loaded, a notice says why, and the engine works on."""
    notice = states.restore(engine, "a")
    assert notice
    for word in words:
        assert word in notice
    assert "\n" not in notice
    assert evaluated(engine, [engine.vocabulary.bos, 5, 6])[1].shape == (engine.vocabulary.size,)


def test_a_restored_state_is_not_evaluated_again_and_gives_the_same_logits(engine, states, ids):
    engine.evaluate(ids)
    states.save(engine, "a")
    expected = evaluated(engine, [*ids, 7, 8])[1]
    with make_engine() as other:
        assert states.restore(other, "a") is None
        assert other.tokens == ids
        count, logits = evaluated(other, [*ids, 7, 8])
        assert count == 2
        np.testing.assert_array_equal(logits, expected)
        assert evaluated(other, ids[:30])[0] == 1  # a beginning of it serves as well


def test_nothing_there_is_no_notice_and_nothing_evaluated_is_not_kept(engine, states, ids):
    engine.evaluate(ids)
    assert states.restore(engine, "never saved") is None
    assert engine.tokens == ids
    engine.truncate(0)
    states.save(engine, "a")
    assert not states.folder.exists()


def test_only_the_owner_can_read_what_was_typed(engine, states, ids):
    engine.evaluate(ids)
    states.save(engine, "a")
    assert stat.S_IMODE(only_file(states).stat().st_mode) == 0o600
    assert stat.S_IMODE(states.folder.stat().st_mode) == 0o700


@pytest.mark.parametrize("name", ["../../etc/x", "a/b", "", "ü" * 500, "\ud800", "con", "a\0b"])
def test_any_name_is_a_file_in_the_folder(engine, states, ids, name):
    engine.evaluate(ids[:9])
    states.save(engine, name)
    assert only_file(states).parent == states.folder
    engine.truncate(0)
    assert states.restore(engine, name) is None
    assert engine.tokens == ids[:9]
    states.remove(name)
    assert list(states.folder.iterdir()) == []


def flip(data, at):
    data[at] ^= 1


DAMAGE = {
    "empty": lambda data: data.clear(),
    "cut": lambda data: data.__delitem__(slice(-1000, None)),
    "cut in the description": lambda data: data.__delitem__(slice(20, None)),
    "longer": lambda data: data.extend(b"x"),
    "magic": lambda data: flip(data, 0),
    "ids": lambda data: flip(data, data.index(b"}}") + 5),
    "cache": lambda data: flip(data, len(data) // 2),
    "hash": lambda data: flip(data, len(data) - 1),
    "length of the description": lambda data: data.__setitem__(slice(8, 12), b"\xff\xff\xff\xff"),
    "random": lambda data: data.__setitem__(slice(None), os.urandom(5000)),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
def test_a_damaged_state_never_reaches_llama_cpp(engine, states, ids, damage, monkeypatch):
    engine.evaluate(ids)
    states.save(engine, "a")
    data = bytearray(only_file(states).read_bytes())
    damage(data)
    only_file(states).write_bytes(data)
    monkeypatch.setattr(engine, "set_state", lambda *_: pytest.fail("it was loaded"))
    assert_ignored(states, engine, "damaged")


@pytest.mark.parametrize(
    "change",
    [{"tokens": -1}, {"tokens": 1 << 60}, {"bytes": "x"}, {"bytes": 0}, {"tokens": True}, {"belongs_to": []}],
    ids=str,
)
def test_a_description_that_lies_is_not_believed(engine, states, ids, change):
    engine.evaluate(ids)
    states.save(engine, "a")
    data = only_file(states).read_bytes()
    length = struct.unpack_from("<I", data, 8)[0]
    text = json.dumps({**json.loads(data[12 : 12 + length]), **change}).encode()
    only_file(states).write_bytes(data[:8] + struct.pack("<I", len(text)) + text + data[12 + length :])
    assert_ignored(states, engine, "the saved state is")


def test_every_bit_is_covered(engine, states, ids):
    engine.evaluate(ids[:5])
    states.save(engine, "a")
    path, rng = only_file(states), np.random.default_rng(1)
    good = path.read_bytes()
    for at in [*range(60), *rng.integers(0, len(good), 100).tolist()]:
        bad = bytearray(good)
        bad[at] ^= 1 << (at % 8)
        path.write_bytes(bad)
        assert states.restore(engine, "a"), at
    path.write_bytes(good)
    assert states.restore(engine, "a") is None


def test_a_state_of_another_model_is_ignored(engine, states, ids, tmp_path):
    """The other model has other weights under the same name, size and header."""
    path = tmp_path / TINY.name
    shutil.copy(TINY, path)
    with make_engine(path) as same:
        same.evaluate(ids)
        states.save(same, "a")
    assert states.restore(engine, "a") is None  # the same contents elsewhere are the same model
    data = bytearray(path.read_bytes())
    info = read_header(path).tensors["blk.1.attn_kv_a_mqa.weight"]
    data[info.offset : info.offset + info.nbytes] = bytes(info.nbytes)
    path.write_bytes(data)
    with make_engine(path) as other:
        assert_ignored(states, other, "another model")


@pytest.mark.parametrize("options", [{"kv_type": "f32", "flash_attention": False}, {"flash_attention": False}], ids=str)
def test_a_state_of_other_settings_is_ignored(engine, states, ids, options):
    engine.evaluate(ids)
    states.save(engine, "a")
    with make_engine(**options) as other:
        assert_ignored(states, other, "another")


def test_a_state_of_another_llama_cpp_or_layout_is_ignored(engine, states, ids, monkeypatch):
    engine.evaluate(ids)
    states.save(engine, "a")
    with monkeypatch.context() as patch:
        patch.setattr("llama_cpp.__version__", "9.9.9")
        assert_ignored(states, engine, "another llama.cpp")
    data = bytearray(only_file(states).read_bytes())
    data[7:8] = b"2"
    only_file(states).write_bytes(data)
    assert_ignored(states, engine, "another version")


def test_a_state_longer_than_the_context_is_ignored(engine, states, ids):
    assert len(ids) > 128
    engine.evaluate(ids)
    states.save(engine, "a")
    with make_engine(n_ctx=128) as small:
        assert_ignored(states, small, "longer")


def test_what_is_no_file_is_ignored(engine, states, ids):
    engine.evaluate(ids)
    states.save(engine, "a")
    path = only_file(states)
    path.unlink()
    path.mkdir()
    assert_ignored(states, engine, "the saved state is")
    if hasattr(os, "mkfifo"):
        path.rmdir()
        os.mkfifo(path)
        assert_ignored(states, engine, "the saved state is not a file")


def test_the_least_recently_used_gives_way(engine, states, ids):
    engine.evaluate(ids)
    for i, name in enumerate("abc"):
        states.save(engine, name)
        os.utime(states._path(name), (1000 + i, 1000 + i))
    states.max_bytes = int(3.5 * states._path("a").stat().st_size)
    assert states.restore(engine, "a") is None  # used just now: b is the oldest
    states.save(engine, "d")
    assert [states._path(name).exists() for name in "abcd"] == [True, False, True, True]
    states.max_bytes = 1000
    with pytest.raises(StateError, match="was not kept"):
        states.save(engine, "e")
    assert [states._path(name).exists() for name in "acd"] == [True, True, True]


def test_a_process_that_died_while_writing_leaves_nothing_for_ever(engine, states, ids):
    engine.evaluate(ids)
    states.save(engine, "a")
    young, old = states.folder / ".x.state.1.tmp", states.folder / ".x.state.2.tmp"
    for path in (young, old):
        path.write_bytes(b"half")
    os.utime(old, (time.time() - 90_000,) * 2)
    states.save(engine, "a")
    assert young.exists()
    assert not old.exists()


def test_a_disk_that_refuses_is_an_error_in_words(engine, tmp_path, ids):
    (tmp_path / "file").write_text("")
    engine.evaluate(ids)
    with pytest.raises(StateError, match="was not kept"):
        PrefixStates(tmp_path / "file" / "states").save(engine, "a")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_disk_leaves_the_old_state_and_no_rest(engine, states, ids, monkeypatch):
    engine.evaluate(ids)
    states.save(engine, "a")
    before = only_file(states).read_bytes()

    def full(dir, prefix, suffix):
        path = os.path.join(dir, prefix + suffix)
        open(path, "wb").close()
        return os.open("/dev/full", os.O_WRONLY), path

    monkeypatch.setattr("tempfile.mkstemp", full)
    with pytest.raises(StateError, match=r"(?i)no space"):
        states.save(engine, "a")
    assert [path.read_bytes() for path in states.folder.iterdir()] == [before]


WRITER = """
import sys
from pathlib import Path
from coderv2_local.engine import Engine
from coderv2_local.placement.load_options import LoadOptions
from coderv2_local.models import find_model
from coderv2_local.states.prefix_states import PrefixStates
states = PrefixStates(Path(sys.argv[1]), int(sys.argv[2]))
with Engine(find_model("tiny").path, LoadOptions(n_ctx=512, n_threads=1)) as engine:
    bos = engine.vocabulary.bos
    notices = []
    for i in range(60):
        ids = [bos] + [100 + int(sys.argv[3])] * (5 + i % 7)
        engine.evaluate(ids)
        states.save(engine, f"name {i % 4}")
        notices.append(states.restore(engine, f"name {(i + 1) % 4}"))
        assert set(engine.tokens[1:]) in ({100}, {101}), engine.tokens
    assert set(notices) == {None}, set(notices)
"""


def test_two_processes_do_not_damage_each_other(engine, states, ids):
    engine.evaluate(ids[:12])
    states.save(engine, "size")
    room = 3 * only_file(states).stat().st_size  # so they also evict each other's
    environment = dict(os.environ, PYTHONPATH=str(ROOT))
    command = [sys.executable, "-c", WRITER, str(states.folder), str(room)]
    running = [
        subprocess.Popen([*command, str(i)], env=environment, stderr=subprocess.PIPE, text=True) for i in range(2)
    ]
    errors = [process.communicate(timeout=120)[1] for process in running]
    assert [process.returncode for process in running] == [0, 0], errors
    assert not list(states.folder.glob(".*"))


def test_the_fingerprint_does_not_depend_on_the_path(tmp_path):
    shutil.copy(TINY, tmp_path / "other name.gguf")
    assert model_fingerprint(read_header(tmp_path / "other name.gguf")) == model_fingerprint(read_header(TINY))


def test_the_owner_is_plain_json_and_says_how_experts_were_chosen(engine):
    owner = state_owner(engine)
    assert json.loads(json.dumps(owner)) == owner
    assert owner["routing"] is False


def test_a_model_file_is_looked_at_once(tmp_path, states, ids):
    """States belong to the file that was loaded, not to what lies in its place later."""
    path = tmp_path / "model.gguf"
    shutil.copy(TINY, path)
    with make_engine(path) as engine:
        assert states.restore(engine, "a") is None
        owner = state_owner(engine)
        path.unlink()
        engine.evaluate(ids[:80])
        states.save(engine, "a")
        engine.truncate(0)
        assert states.restore(engine, "a") is None
        assert engine.tokens == ids[:80]
        assert state_owner(engine) == owner
    with make_engine(named("another", path)) as engine:
        assert state_owner(engine)["model"] != owner["model"]


def test_a_backend_saves_and_restores_a_conversation(states):
    messages = [Message("user", "Write a Python function `add`")]
    with LocalBackend(TINY, LoadOptions(n_threads=1), states=states) as backend:
        assert backend.capabilities.saved_state
        first = backend.chat(messages, SamplingOptions(), 20)
        answer = "".join(first)
        backend.save_state("talk")
    messages += [Message("assistant", answer, tuple(first.ids)), Message("user", "Thanks")]
    with LocalBackend(TINY, LoadOptions(n_threads=1), states=states) as backend:
        assert backend.restore_state("talk") is None
        second = backend.chat(messages, SamplingOptions(), 5)
        "".join(second)
        assert second.reused_tokens >= first.prompt_tokens + len(first.ids) - 1
    with LocalBackend(TINY, LoadOptions(n_threads=1)) as backend:
        assert not backend.capabilities.saved_state
        backend.save_state("talk")
        assert backend.restore_state("talk") is None
        assert backend.engine.tokens == []
