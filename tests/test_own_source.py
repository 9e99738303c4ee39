"""A conversion that would write over its own source."""

import os

import pytest
from checkpoints import LITE, convert, write_checkpoint

from converters.job import Options, plan_source
from quant.errors import InputError


@pytest.fixture
def source(tmp_path):
    return write_checkpoint(tmp_path / "in", LITE)


def assert_refused(source, destination):
    with pytest.raises(InputError, match="belongs to the source"):
        plan_source(source, destination, Options("q8_0"))


def test_a_file_of_the_checkpoint_is_not_replaced(source, tmp_path):
    shard = next(source.glob("*.safetensors"))
    assert_refused(source, shard)
    assert_refused(source, source / "config.json")
    (tmp_path / "link").symlink_to(shard)
    assert_refused(source, tmp_path / "link")
    os.link(shard, tmp_path / "other name")
    assert_refused(source, tmp_path / "other name")
    (source / "earlier.gguf").write_bytes(b"GGUF")
    plan_source(source, source / "earlier.gguf", Options("q8_0"))


def test_a_part_of_the_gguf_file_is_not_replaced(source, tmp_path):
    whole = convert(source, tmp_path / "whole.gguf", "f16")
    job = plan_source(source, tmp_path / "split.gguf", Options("f16", split_bytes=whole.stat().st_size // 3))
    first, second, *_ = [file.path for file in job.plan.files]
    convert(source, tmp_path / "split.gguf", "f16", split_bytes=whole.stat().st_size // 3)
    assert_refused(first, second)
