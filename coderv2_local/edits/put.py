"""Give one file new bytes in one step, if it still has the old ones."""

import contextlib

from coderv2_local.edits.refusal import EditRefused, FileChanged
from coderv2_local.edits.text_files import digest_of
from coderv2_local.edits.workspace import Workspace


def put(
    workspace: Workspace, path: str, data: bytes | None, expected: str | None, temporary: str, mode: int | None = None
) -> None:
    """Write, create or delete (`data` None) a file, provided that its digest is `expected` (None: it is missing).

    The bytes are written beside it as `temporary`, synced, and take its name: a reader sees the old or the new file. A
    file that is there keeps its mode and owner; its other hard links keep the old bytes.

    Args:
        path: a resolved path of the workspace.
        mode: permission bits for a file that is not there now; by default what the system gives.

    Raises:
        EditRefused: it has other bytes, or cannot be written.
    """
    try:
        with workspace.folder_of(path, make=data is not None) as (folder, name):
            if folder is None:
                if expected is not None:
                    raise changed_meanwhile(path)
                return
            try:
                if data is not None:
                    now = folder.read(name, path)
                    folder.remove(temporary)
                    folder.write(temporary, data, like=now[1] if now else None, mode=mode)
                now = folder.read(name, path)  # as late as can be
                if (digest_of(now[0]) if now else None) != expected:
                    raise changed_meanwhile(path)
                if data is None:
                    folder.remove(name)
                elif now is None:
                    folder.create(temporary, name)
                else:
                    folder.replace(temporary, name)
            finally:
                with contextlib.suppress(OSError):
                    folder.remove(temporary)
    except FileExistsError:
        raise changed_meanwhile(path) from None
    except OSError as error:
        raise EditRefused(
            f"{path} cannot be written: {(error.strerror or str(error)).lower()}",
            path=path,
            hint="free space or fix the permissions, then try again",
        ) from None


def current_digest(workspace: Workspace, path: str) -> str | None:
    """SHA-256 of a file now, in hex; None where it is missing."""
    now = workspace.read(path)
    return None if now is None else digest_of(now[0])


def changed_meanwhile(path: str) -> FileChanged:
    return FileChanged(
        f"{path} changed after it was read: nothing was written", path=path, hint="ask again with the file as it is now"
    )
