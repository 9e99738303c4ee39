"""How many files this process may have open, which bounds its connections: 256 by default on macOS."""

import sys
from contextlib import suppress

WANTED = 4096
OWN_FILES = 100
"""Left for the model, its states and what the program itself opens."""
FEWEST = 16


def connections_here(most: int) -> int:
    """How many connections may be open at a time: `most`, or fewer where this process may not open so many files.

    Raises the process's own limit first, as far as it may.
    """
    if sys.platform == "win32":  # sockets are no files there
        return most
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = WANTED if hard == resource.RLIM_INFINITY else min(WANTED, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
            soft = wanted
    return most if soft == resource.RLIM_INFINITY else max(min(most, soft - OWN_FILES), FEWEST)
