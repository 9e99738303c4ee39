"""Carrying a plan out: pieces made by threads, written at their offsets, journalled, and renamed when complete."""

import contextlib
import errno
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from converters.journal import Busy, Journal
from converters.output_files import OutputFiles, bytes_allocated, partial_path
from converters.plan import OutputFile, Plan
from converters.produce import NonFiniteError, Producer
from converters.store import Store
from converters.workers import Report, Workers
from quant.errors import CoderError, InputError


def existing_output(plan: Plan) -> bool:
    """Is the output there already, complete, and of this very plan?

    Raises:
        InputError: a file is there, but it is another one.
    """
    states = [_state(f.path, f) for f in plan.files]
    if all(s == "same" for s in states):
        _clear_up(plan)
        return True
    for f, state in zip(plan.files, states, strict=True):
        if state == "other" or (state == "same" and not journal_path(plan).exists()):
            raise InputError(
                f"{f.path} exists and is not what this conversion would write",
                hint="choose another name, or --force to replace it",
            )
    return False


def journal_path(plan: Plan) -> Path:
    """Where the journal of the plan's output lies."""
    first = plan.files[0].path
    return first.with_name(first.name + ".journal")


def check_room(plan: Plan, store: Store | None = None) -> None:
    """Is there room for what is still to be written, and for the temporary files of a `store` meanwhile?

    Raises:
        InputError: no such folder, or too little free space in it.
    """
    folder = plan.files[0].path.parent
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder", hint="make it first")
    shards, free = store.room() if store else 0, shutil.disk_usage(folder).free
    need = plan.total_bytes - bytes_on_disk(plan) + shards
    if need > free:
        what = "the output and two shards need" if shards else "the output needs"
        raise InputError(
            f"{folder} has {free / 1e9:.1f} GB free, {what} {need / 1e9:.1f} GB more",
            hint="free some space or choose another folder",
        )


def bytes_on_disk(plan: Plan) -> int:
    """What an interrupted run has left of the output, in bytes that need no more room."""
    begun = journal_path(plan).exists()
    total = 0
    for f in plan.files:
        renamed = begun and not partial_path(f).exists() and _state(f.path, f) == "same"
        total += f.size if renamed else bytes_allocated(partial_path(f))
    return total


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
        InputError: the source or the place cannot be used. Where a weight is NaN or infinite, what was noted stays,
            so that the run can be continued; all else leaves things as they were.
        CoderError: the output cannot be written, for example on a full disk; the run can be continued.
    """
    for f in plan.files:
        if f.path.is_dir():
            raise InputError(f"{f.path} is a folder", hint="choose another name")
    check_room(plan, store)
    try:
        journal = Journal(journal_path(plan), plan.digest, len(plan.pieces))
    except OSError as e:
        raise InputError(f"cannot write into {plan.files[0].path.parent}: {e.strerror or e}") from None
    discard = False
    outputs = OutputFiles(plan.files)
    try:
        if not fresh:
            _check_same_run(plan, journal, allow_nonfinite)
        resumed = not fresh and journal.resumed and _can_go_on(plan, journal)
        if resumed:
            journal.go_on(unchecked=allow_nonfinite)
            report(_done_bytes(plan, journal.done))
        else:
            discard = True  # until there is something to go on from
            journal.start(unchecked=allow_nonfinite)  # first: of new files old notes would be believed
            outputs.create()
            discard = False
        unpublished = [f for f in plan.files if partial_path(f).exists()]
        try:
            run = Workers(plan, Producer(plan, store, allow_nonfinite=allow_nonfinite), outputs, journal, report)
            store.prepare(run.stored_in_order())
            run.work(threads)
        except NonFiniteError:
            discard = not journal.done
            raise
        finally:
            outputs.close()
        _publish(unpublished)
        discard = True
        store.discard()
    except OSError as e:
        full = e.errno in (errno.ENOSPC, errno.EDQUOT)
        what = "the disk is full" if full else f"cannot write {plan.files[0].path}: {e.strerror or e}"
        then = "" if discard else ": it goes on from here"
        raise CoderError(what, hint=f"run the same command again once it can be written{then}") from e
    finally:
        if discard:
            _remove_partials(plan)
        journal.close(remove=discard)
    return resumed


def _check_same_run(plan: Plan, journal: Journal, allow_nonfinite: bool) -> None:
    where = f"beside {plan.files[0].path}"
    if journal.foreign:
        raise InputError(
            f"an interrupted conversion with other settings or another source is {where}",
            hint="finish it with its own settings, or --fresh to start over",
        )
    if journal.unchecked and not allow_nonfinite:
        raise InputError(
            f"an interrupted conversion with --allow-nonfinite is {where}: it has not looked for such weights",
            hint="finish it with --allow-nonfinite, or --fresh to start over",
        )


def _can_go_on(plan: Plan, journal: Journal) -> bool:
    """Are the files there that the journal tells of? It may have outlived them, or they have been changed."""
    complete = len(journal.done) == len(plan.pieces)  # only then has any file been given its name
    for f in plan.files:
        state = _state(partial_path(f), f)
        if state == "none" and complete:
            state = _state(f.path, f)
        if state != "same":
            return False
    return True


def _publish(files: Sequence[OutputFile]) -> None:
    """Give the files their names; the first one, which is what loaders open, last."""
    for f in reversed(files):
        os.replace(partial_path(f), f.path)
    if files and hasattr(os, "O_DIRECTORY"):
        folder = os.open(files[0].path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _clear_up(plan: Plan) -> None:
    """Remove what a run of this very plan has left, killed after its last step or stopped while it made all again."""
    if not journal_path(plan).exists():
        return
    with contextlib.suppress(OSError, Busy):  # what is in use, or cannot be removed, may stay
        journal = Journal(journal_path(plan), plan.digest, len(plan.pieces))
        try:
            if not journal.foreign:
                _remove_partials(plan)
        finally:
            journal.close(remove=not journal.foreign)


def _remove_partials(plan: Plan) -> None:
    for f in plan.files:
        partial_path(f).unlink(missing_ok=True)


def _done_bytes(plan: Plan, done: set[int]) -> int:
    total = 0
    for number in done:
        p = plan.pieces[number]
        t = plan.tensors[p.tensor]
        part = t.wanted.parts[p.part]
        rows, columns = (part.stored_shape[-1], p.rows) if part.transposed else (p.rows, part.stored_shape[-1])
        total += rows * t.info.type.row_bytes(columns)
    return total


def _state(path: Path, file: OutputFile) -> str:
    """What lies at `path`: "none", "same" (of the file's size, with its header) or "other"."""
    try:
        with open(path, "rb") as f:
            same = os.fstat(f.fileno()).st_size == file.size and f.read(len(file.header)) == file.header
    except FileNotFoundError:
        return "none"
    except OSError as e:
        raise InputError(f"cannot read {path}: {e.strerror or e}") from None
    return "same" if same else "other"
