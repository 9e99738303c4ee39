"""The eval-callback dispatcher, driven by hand: no engine needed."""

import ctypes

import pytest

from coderv2_local.hooks import Dispatcher, HookError, TensorHead
from quant.errors import InputError


def node(name: str) -> TensorHead:
    return TensorHead(name=name.encode())


def ask(d: Dispatcher, t: TensorHead) -> bool:
    return bool(d.callback(ctypes.addressof(t), True, None))


def hand_over(d: Dispatcher, t: TensorHead) -> bool:
    return bool(d.callback(ctypes.addressof(t), False, None))


class Recorder:
    name = "recorder"

    def __init__(self, wanted: str, fail: BaseException | None = None) -> None:
        self.wanted, self.fail = wanted, fail
        self.questions: list[str] = []
        self.taken: list[tuple[str, int]] = []

    def wants(self, node_name: str) -> bool:
        self.questions.append(node_name)
        return node_name == self.wanted

    def __call__(self, node_name: str, tensor: int) -> None:
        self.taken.append((node_name, tensor))
        if self.fail:
            raise self.fail


def test_only_wanted_nodes_stop_the_graph_and_arrive_at_their_tap():
    a, b = Recorder("x-1"), Recorder("y-1")
    d = Dispatcher([a, b])
    x, y, z = node("x-1"), node("y-1"), node("z-1")
    assert [ask(d, t) for t in (x, y, z)] == [True, True, False]
    assert hand_over(d, x)
    assert hand_over(d, y)
    d.raise_pending()
    assert a.taken == [("x-1", ctypes.addressof(x))]
    assert b.taken == [("y-1", ctypes.addressof(y))]


def test_a_tap_is_asked_once_for_each_name():
    a = Recorder("x")
    d = Dispatcher([a])
    for _ in range(3):
        ask(d, node("x"))
        hand_over(d, node("x"))
        ask(d, node("other"))
    assert a.questions == ["x", "other"]


def test_two_taps_may_want_the_same_node():
    a, b = Recorder("x"), Recorder("x")
    d = Dispatcher([a, b])
    ask(d, node("x"))
    hand_over(d, node("x"))
    assert len(a.taken) == len(b.taken) == 1


def test_an_exception_is_stored_and_the_graph_goes_on():
    failing = Recorder("x", ValueError("bad shape"))
    d = Dispatcher([failing])
    ask(d, node("x"))
    assert hand_over(d, node("x")) is True  # false would stop ggml half-way, and it would report success
    assert hand_over(d, node("x")) is True
    assert len(failing.taken) == 1  # and the tap is not called again
    assert ask(d, node("x")) is False  # nothing more is wanted of a decode that is lost
    with pytest.raises(HookError, match="recorder at x failed: bad shape") as caught:
        d.raise_pending()
    assert isinstance(caught.value.__cause__, ValueError)
    d.raise_pending()  # told once


def test_the_first_exception_is_the_one_told():
    d = Dispatcher([Recorder("x", ValueError("first")), Recorder("x", ValueError("second"))])
    ask(d, node("x"))
    hand_over(d, node("x"))
    with pytest.raises(HookError, match="first"):
        d.raise_pending()


@pytest.mark.parametrize("error", [KeyboardInterrupt(), InputError("no such layer")])
def test_an_interrupt_and_our_own_errors_come_out_as_they_are(error):
    d = Dispatcher([Recorder("x", error)])
    ask(d, node("x"))
    hand_over(d, node("x"))
    with pytest.raises(type(error)):
        d.raise_pending()


def test_an_exception_in_wants_is_stored_too():
    class Broken(Recorder):
        def wants(self, node_name: str) -> bool:
            raise RuntimeError("cannot say")

    d = Dispatcher([Broken("x")])
    assert ask(d, node("x")) is False
    with pytest.raises(HookError, match="cannot say"):
        d.raise_pending()


def test_a_graph_that_stops_before_the_hand_over_is_no_good_decode():
    d = Dispatcher([Recorder("x")])
    assert ask(d, node("x"))
    with pytest.raises(HookError, match="half-way"):
        d.raise_pending()


def test_noted_addresses_come_without_a_stop():
    class Noter(Recorder):
        noted: tuple[str, int] | None = None

        def notes(self, node_name: str) -> bool:
            return node_name == "probs"

        def note(self, node_name: str, tensor: int) -> None:
            self.noted = (node_name, tensor)

    tap = Noter("groups")
    d = Dispatcher([tap])
    probs = node("probs")
    assert ask(d, probs) is False
    assert tap.noted == ("probs", ctypes.addressof(probs))


def test_a_tap_may_refuse_the_decode_at_its_end():
    class Strict(Recorder):
        def finish(self) -> None:
            raise HookError("the node never came")

    with pytest.raises(HookError, match="never came"):
        Dispatcher([Strict("x")]).raise_pending()


def test_what_an_abandoned_decode_owes_is_not_the_next_one_s_debt():
    class Remembering(Recorder):
        abandoned = 0

        def abandon(self) -> None:
            self.abandoned += 1

    tap = Remembering("x", ValueError("bad shape"))
    d = Dispatcher([Recorder("y"), tap])
    for stopped_after in (ask, hand_over):  # before the tensor came, and with an error stored
        stopped_after(d, node("x"))
        d.abandon()
        d.raise_pending()
    assert tap.abandoned == 2


def test_the_name_is_where_ggml_puts_it():
    llama_cpp = pytest.importorskip("llama_cpp")
    from pathlib import Path

    libs = sorted((Path(llama_cpp.__file__).parent / "lib").glob("libggml-base.*"))
    if not libs:
        pytest.skip("libggml-base is not beside llama_cpp on this platform")
    base = ctypes.CDLL(str(libs[0]))
    base.ggml_get_name.restype = ctypes.c_char_p
    base.ggml_get_name.argtypes = [ctypes.c_void_p]
    assert base.ggml_get_name(ctypes.addressof(node("ffn_moe_probs-3"))) == b"ffn_moe_probs-3"
