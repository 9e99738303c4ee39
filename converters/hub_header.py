"""The header of a shard on the Hub, read over the network without the shard."""

import functools
import importlib
import re
import struct
from typing import Any

from converters.hub_errors import HubError, ask
from converters.safetensors_shards import HEADER_LIMIT, CheckpointError

_FIRST_READ = 1 << 18


def remote_header(repo: str, shard: str, commit: str) -> tuple[bytes, int]:
    """The first bytes of a shard up to the end of its header, and the size of the whole file."""
    start, size = ask(f"the header of {shard} of {repo}", lambda: _get(repo, shard, commit, 0, _FIRST_READ))
    if len(start) < 8:
        raise CheckpointError(f"shard {shard} has only {len(start)} bytes")
    end = 8 + struct.unpack("<Q", start[:8])[0]
    if end > min(size, HEADER_LIMIT):
        raise CheckpointError(
            f"shard {shard}: the header's {end - 8} bytes run past the end of the file ({size} bytes)"
        )
    while len(start) < end:
        more, _ = ask(f"the header of {shard}", functools.partial(_get, repo, shard, commit, len(start), end))
        if not more:
            raise HubError(f"the header of {shard} breaks off")
        start += more
    return start[:end], size


def _get(repo: str, name: str, commit: str, start: int, end: int) -> tuple[bytes, int]:
    """Bytes `start`…`end` of a remote file, and the file's size."""
    from huggingface_hub import hf_hub_url

    utils: Any = importlib.import_module("huggingface_hub.utils")
    session = utils.get_session()
    headers = {**utils.build_hf_headers(), "Range": f"bytes={start}-{end - 1}", "Accept-Encoding": "identity"}
    url = hf_hub_url(repo, name, revision=commit)
    redirects = "follow_redirects" if "httpx" in type(session).__module__ else "allow_redirects"
    response = session.get(url, headers=headers, timeout=30, **{redirects: True})
    utils.hf_raise_for_status(response)
    found = re.fullmatch(r"bytes \d+-\d+/(\d+)", response.headers.get("content-range", ""))
    if found is None:
        raise HubError(f"the server sends {name} only as a whole")
    return bytes(response.content)[: end - start], int(found.group(1))
