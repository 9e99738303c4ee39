"""Carrying a plan out: pieces made by threads, written at their offsets, journalled, and renamed when complete."""

import errno
import os
import shutil
from pathlib import Path

from converters.journal import Journal
from converters.plan import OutputFile, Plan
from converters.produce import NonFiniteError, Producer
from converters.store import Store
from converters.workers import Report, Workers, write_at
from quant.errors import CoderError, InputError


def existing_output(plan: Plan) -> bool:
    """Is the output there already, complete, and of this very plan?

    Raises:
        InputError: a file is there, but it is another one.
    """
    states = [_state(f) for f in plan.files]
    journal = journal_path(plan)
    if all(s == "same" for s in states):
        journal.unlink(missing_ok=True)  # of a run that was killed after its last step
        return True
    for f, state in zip(plan.files, states, strict=True):
        if state == "other" or (state == "same" and not journal.exists()):
            raise InputError(
                f"{f.path} exists and is not what this conversion would write",
                hint="choose another name, or --force to replace it",
            )
    return False


def journal_path(plan: Plan) -> Path:
    """Where the journal of the plan's output lies."""
    first = plan.files[0].path
    return first.with_name(first.name + ".journal")


def partial_path(file: OutputFile) -> Path:
    """The name that an output file has until it is complete."""
    return file.path.with_name(file.path.name + ".partial")


def check_room(plan: Plan) -> None:
    """Is there room for what is still to be written?

    Raises:
        InputError: no such folder, or too little free space in it.
    """
    folder = plan.files[0].path.parent
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder", hint="make it first")
    need, free = plan.total_bytes - bytes_on_disk(plan), shutil.disk_usage(folder).free
    if need > free:
        raise InputError(
            f"{folder} has {free / 1e9:.1f} GB free, the output needs {need / 1e9:.1f} GB more",
            hint="free some space or choose another folder",
        )


def bytes_on_disk(plan: Plan) -> int:
    """What an interrupted run has left of the output, in bytes that need no more room."""
    return sum(_allocated(partial_path(f)) for f in plan.files)


def carry_out(
    plan: Plan, store: Store, *, threads: int, fresh: bool = False, allow_nonfinite: bool = False, report: Report
) -> bool:
    """Write the output of `plan`.

    Args:
        plan: what to write.
        store: where the tensors come from.
        threads: how many pieces are made at once.
        fresh: start over, even if an earlier run could be continued.
        allow_nonfinite: convert NaN and infinite weights too.
        report: told about progress, from this thread.

    Returns:
        Whether an earlier run was continued.

    Raises:
        InputError: the weights cannot be used; nothing is left behind.
        CoderError: the output cannot be written, for example on a full disk; the run can be continued.
    """
    try:
        journal = Journal(journal_path(plan), plan.digest, len(plan.pieces))
    except OSError as e:
        raise InputError(f"cannot write into {plan.files[0].path.parent}: {e.strerror or e}") from None
    if journal.foreign and not fresh:
        journal.close(remove=False)
        raise InputError(
            f"an interrupted conversion with other settings or another source is beside {plan.files[0].path}",
            hint="finish it with its own settings, or --fresh to start over",
        )
    discard = True
    try:
        resumed = journal.resumed and not fresh
        files = _open_outputs(plan, journal, resumed)
        discard = False
        if resumed:
            report(_done_bytes(plan, journal.done))
        try:
            run = Workers(plan, Producer(plan, store, allow_nonfinite=allow_nonfinite), files, journal, report)
            store.prepare(run.stored_in_order())
            run.work(threads)
            for f in files.values():
                os.fsync(f)
        except NonFiniteError:
            discard = True
            raise
        finally:
            for f in files.values():
                os.close(f)
        _publish(plan)
        discard = True
        store.discard()
    except OSError as e:
        full = e.errno in (errno.ENOSPC, errno.EDQUOT)
        what = "the disk is full" if full else f"cannot write {plan.files[0].path}: {e.strerror or e}"
        raise CoderError(what, hint="run the same command again once it can be written: it goes on from here") from e
    finally:
        if discard:
            for file in plan.files:
                partial_path(file).unlink(missing_ok=True)
        journal.close(remove=discard)
    return resumed


def _open_outputs(plan: Plan, journal: Journal, resumed: bool) -> dict[int, int]:
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0)
    if resumed and len(journal.done) < len(plan.pieces) and not all(partial_path(f).exists() for f in plan.files):
        resumed = False  # the journal outlived the data
    opened: dict[int, int] = {}
    for number, f in enumerate(plan.files):
        if resumed and not partial_path(f).exists():
            continue  # complete and renamed by the run that was interrupted
        fd = opened[number] = os.open(partial_path(f), flags, 0o666)
        if not resumed:
            os.ftruncate(fd, 0)
        os.ftruncate(fd, f.size)
        write_at(fd, 0, memoryview(f.header))
    if resumed:
        journal.go_on()
    else:
        journal.start()
    return opened


def _publish(plan: Plan) -> None:
    """Give the files their names; the first one, which is what loaders open, last."""
    for f in reversed(plan.files):
        if partial_path(f).exists():
            os.replace(partial_path(f), f.path)
    if hasattr(os, "O_DIRECTORY"):
        folder = os.open(plan.files[0].path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _done_bytes(plan: Plan, done: set[int]) -> int:
    total = 0
    for number in done:
        p = plan.pieces[number]
        t = plan.tensors[p.tensor]
        part = t.wanted.parts[p.part]
        rows, columns = (part.stored_shape[-1], p.rows) if part.transposed else (p.rows, part.stored_shape[-1])
        total += rows * t.info.type.row_bytes(columns)
    return total


def _state(file: OutputFile) -> str:
    """ "none", "same" (complete, with this header) or "other"."""
    try:
        with open(file.path, "rb") as f:
            same = os.fstat(f.fileno()).st_size == file.size and f.read(len(file.header)) == file.header
    except FileNotFoundError:
        return "none"
    except OSError as e:
        raise InputError(f"cannot read {file.path}: {e.strerror or e}") from None
    return "same" if same else "other"


def _allocated(path: Path) -> int:
    try:
        status = path.stat()
    except OSError:
        return 0
    return min(status.st_size, getattr(status, "st_blocks", 0) * 512)
