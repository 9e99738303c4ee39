"""llama.cpp with nothing around it: the loop that the engine is measured against.

It runs in a process of its own, which never imports the engine. So nothing is shared but the page cache, and Ctrl-C
ends it at once. The clock is read there.
"""

import ctypes
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from coderv2_local import llama_library
from coderv2_local.benchmark.process_counters import bytes_read, since
from coderv2_local.benchmark.runs import Run
from coderv2_local.llama_library import llama
from coderv2_local.load_options import KV_TYPES, LoadOptions
from coderv2_local.tensor_overrides import experts_on_cpu
from quant.errors import CoderError


class BareLoopError(CoderError):
    """The process with the bare loop ended, or could not load the model."""


class BareLoop:
    """llama.cpp's low-level functions, called one after the other.

    Args:
        path: a GGUF file that the engine takes.
        options: all of them decided: those of an engine, context and threads included.
        banned: ids that are never chosen.
    """

    def __init__(self, path: Path, options: LoadOptions, banned: Sequence[int]) -> None:
        llama_library.start()
        params = llama.llama_model_default_params()
        params.load_mode = llama.LLAMA_LOAD_MODE_MMAP
        params.n_gpu_layers = options.n_gpu_layers
        params.use_extra_bufts = options.repack
        if options.cpu_expert_layers:
            overrides = experts_on_cpu(options.cpu_expert_layers)
            params.tensor_buft_overrides = ctypes.addressof(overrides)
        self._model = llama.llama_model_load_from_file(os.fsencode(path), params)
        params = llama.llama_context_default_params()
        params.n_ctx, params.n_seq_max = options.n_ctx, 1
        params.n_batch, params.n_ubatch = options.n_batch, min(options.n_ubatch or options.n_batch, options.n_batch)
        params.n_threads = params.n_threads_batch = options.n_threads
        params.flash_attn_type = int(options.flash_attention)
        params.type_k = params.type_v = KV_TYPES[options.kv_type]
        params.no_perf = True
        self._context = llama.llama_init_from_model(self._model, params) if self._model else None
        if not self._context:
            raise BareLoopError(f"{path}: llama.cpp could not load it a second time: {llama_library.complaints()}")
        self._n_batch = options.n_batch
        self._chain = llama.llama_sampler_chain_init(llama.llama_sampler_chain_default_params())
        if banned:
            size = llama.llama_vocab_n_tokens(llama.llama_model_get_vocab(self._model))
            biases = (llama.llama_logit_bias * len(banned))(*((i, -float("inf")) for i in banned))
            llama.llama_sampler_chain_add(self._chain, llama.llama_sampler_init_logit_bias(size, len(banned), biases))
        llama.llama_sampler_chain_add(self._chain, llama.llama_sampler_init_greedy())

    def run(self, ids: Sequence[int], n_tokens: int) -> Run:
        """Evaluate a prompt from nothing, and decode."""
        llama.llama_memory_clear(llama.llama_get_memory(self._context), False)
        began = time.perf_counter()
        for start in range(0, len(ids), self._n_batch):
            self._decode(ids[start : start + self._n_batch])
        found = [self._sample()]
        first, read = time.perf_counter(), bytes_read()
        for _ in range(n_tokens):
            self._decode(found[-1:])
            found.append(self._sample())
        return Run(first - began, time.perf_counter() - first, tuple(found), since(read))

    def _decode(self, ids: Sequence[int]) -> None:
        tokens = (llama.llama_token * len(ids))(*ids)
        if status := llama.llama_decode(self._context, llama.llama_batch_get_one(tokens, len(ids))):
            raise BareLoopError(f"llama.cpp could not evaluate a batch (status {status})")

    def _sample(self) -> int:
        return int(llama.llama_sampler_sample(self._chain, self._context, -1))


class BareLoopProcess:
    """A :class:`BareLoop` in a process of its own. Use it as a context manager, or call :meth:`close`.

    Args:
        path, options, banned: as of the loop.

    Raises:
        BareLoopError: the model could not be loaded there.
    """

    def __init__(self, path: Path, options: LoadOptions, banned: Sequence[int]) -> None:
        spawn = multiprocessing.get_context("spawn")
        self._connection, theirs = spawn.Pipe()
        self._process = spawn.Process(target=_serve, args=(theirs, path, options, banned), daemon=True)
        with _ctrl_c_ignored():  # the process inherits that: it is this one that ends it
            self._process.start()
        theirs.close()
        try:
            self._receive()
        except BaseException:
            self.close()
            raise

    def run(self, ids: Sequence[int], n_tokens: int) -> Run:
        """As :meth:`BareLoop.run`.

        Raises:
            BareLoopError: llama.cpp failed, or the process is gone.
        """
        self._connection.send((list(ids), n_tokens))
        found = self._receive()
        assert isinstance(found, Run)
        return found

    def _receive(self) -> Any:
        try:
            found = self._connection.recv()
        except (EOFError, OSError):
            self._process.join(5)
            raise BareLoopError(
                f"the process with llama.cpp alone ended (code {self._process.exitcode})",
                hint="it needs as much memory again as the model does here, its file not counted",
            ) from None
        if isinstance(found, str):
            raise BareLoopError(found)
        return found

    def close(self) -> None:
        """End the process. Safe to call twice."""
        if self._process.is_alive():
            self._process.terminate()
        self._process.join()
        self._connection.close()

    def __enter__(self) -> "BareLoopProcess":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _serve(connection: Connection, path: Path, options: LoadOptions, banned: Sequence[int]) -> None:
    """What the process does: answer to (ids, number of tokens) with a run, to a failure with its message."""
    try:
        loop = BareLoop(path, options, banned)
        connection.send(None)
        while True:
            connection.send(loop.run(*connection.recv()))
    except CoderError as error:
        connection.send(error.message)
    except (EOFError, BrokenPipeError):
        return  # the other side is gone


@contextmanager
def _ctrl_c_ignored() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
