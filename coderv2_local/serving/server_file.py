"""Which server runs where: a file for each, under the program's folder, readable by its owner alone.

The file names a process; it is believed only while that process is alive and was started at the time that the file
says, since process ids are given out again.
"""

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from coderv2_local.atomic_file import write_atomically
from coderv2_local.home import home, home_folder
from quant.errors import CoderError

FOLDER = "servers"
MAX_BYTES = 16_384


@dataclass(frozen=True)
class ServerFile:
    """One running server.

    Attributes:
        started: when its process began, in seconds since 1970.
        fingerprint: of its model (:mod:`coderv2_local.states.fingerprint`).
        version: of this program.
        exact_routing: does it choose experts as the model was trained to?
        needs_key: does it want its key?
        notices: what the user should know about how the model was loaded, a line each.
    """

    pid: int
    started: float
    host: str
    port: int
    model: str
    path: str
    fingerprint: str
    n_ctx: int
    version: str
    exact_routing: bool = True
    needs_key: bool = False
    notices: str = ""

    @property
    def address(self) -> str:
        """Where to reach it from this machine."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(self.host, self.host)
        return f"http://[{host}]:{self.port}" if ":" in host else f"http://{host}:{self.port}"

    def write(self) -> None:
        """Let others find this server.

        Raises:
            CoderError: the file cannot be written.
        """
        path = home_folder(FOLDER) / f"{self.port}.json"
        try:
            write_atomically(path, json.dumps(asdict(self)).encode())
        except OSError as error:
            raise CoderError(f"{path}: {(error.strerror or str(error)).lower()}") from None

    def remove(self) -> None:
        """This server ends. Leaves the file of another server alone."""
        path = home() / FOLDER / f"{self.port}.json"
        if read(path) == self:
            with suppress(OSError):
                path.unlink()

    def is_alive(self) -> bool:
        """Does the process that the file names still run?"""
        try:
            process = psutil.Process(self.pid)
            is_it = abs(process.create_time() - self.started) < 1
            return bool(is_it and process.status() != psutil.STATUS_ZOMBIE)
        except psutil.Error:
            return False


def own_start() -> float:
    """When this process began."""
    return float(psutil.Process(os.getpid()).create_time())


def read(path: Path) -> ServerFile | None:
    """What a file says; None where it is missing or says nothing that can be understood."""
    try:
        with open(path, "rb") as file:
            values = json.loads(file.read(MAX_BYTES))
        kinds: Mapping[str, type] = ServerFile.__annotations__
        if not isinstance(values, dict) or values.keys() - kinds.keys():
            return None
        found = ServerFile(**values)
    except (OSError, ValueError, TypeError, RecursionError):
        return None
    is_sound = all(
        isinstance(getattr(found, name), (int, float) if kind is float else kind) for name, kind in kinds.items()
    )
    return found if is_sound and found.pid > 0 else None


def running_servers() -> list[ServerFile]:
    """The servers that run now, by port. Files that dead ones left are removed."""
    folder = home() / FOLDER
    found = []
    with suppress(OSError):
        for path in sorted(folder.glob("*.json")):
            server = read(path)
            if server and server.is_alive():
                found.append(server)
            elif server:
                with suppress(OSError):
                    path.unlink()
    return sorted(found, key=lambda server: server.port)
