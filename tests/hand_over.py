"""Started by a test in place of `coder`: hands its arguments, folder, environment and files to `forked_coder.py`.

It ends as the process ends that was forked for it. It imports little, since it has to start fast.
"""

import json
import os
import socket
import sys

FILES = (0, 1, 2)  # input, output, errors


def exactly(connection: socket.socket, size: int) -> bytes:
    """The next `size` bytes."""
    data = b""
    while len(data) < size:
        piece = connection.recv(size - len(data))
        if not piece:
            raise ConnectionError("the other end is gone")
        data += piece
    return data


def main(path: str, arguments: list[str]) -> int:
    """Hand over to the program that listens at `path`; the exit status."""
    request = json.dumps([arguments, os.getcwd(), dict(os.environ)]).encode()
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(path)
        socket.send_fds(connection, [len(request).to_bytes(4, "little")], FILES)
        connection.sendall(request)
        return int.from_bytes(exactly(connection, 4), "little")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
