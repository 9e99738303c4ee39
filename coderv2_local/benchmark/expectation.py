"""What `coder plan` says of the same file with the same settings, to hold the measurement against."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from coderv2_local.placement.disk_speed import read_speed
from coderv2_local.placement.memory_classes import memory_of_file
from coderv2_local.placement.place import Placement
from coderv2_local.placement.speed import bytes_a_token, expected_speed, measure_rates, types_of
from converters.gguf_header import GgufHeader
from quant.ggml import GgmlError


@dataclass(frozen=True)
class Expectation:
    """Predictions, made on this machine just before the measurement.

    Attributes:
        prompt: tokens a second of a prompt; None where it was not predicted.
        decode: tokens a second of an answer; likewise.
        anonymous: bytes of private memory: KV cache, compute buffer, the program.
        weights_a_token: bytes of weights that a decoded token passes.
        reasons: what the time of a token goes into, in words.
    """

    prompt: float | None
    decode: float | None
    anonymous: int
    weights_a_token: float
    reasons: Sequence[str] = ()


def expectation(path: Path, header: GgufHeader, placement: Placement) -> Expectation:
    """Predict; measuring how fast ggml multiplies here takes about a second.

    Raises:
        InputError: the header cannot be.
    """
    model = memory_of_file(header)
    weights = sum(bytes_a_token(model, w) for w in model.weights)
    private = placement.layout.private
    try:
        disk = read_speed(path) if placement.layout.uncached else None
        threads = placement.options.n_threads
        assert threads is not None
        speed = expected_speed(model, placement, measure_rates(types_of(model), threads, disk))
    except GgmlError as error:
        return Expectation(None, None, private, weights, (error.message,))
    return Expectation(speed.prompt, speed.decode, private, weights, speed.reasons)
