"""`python -m benchmarks.sendfile_server FILE`: serves one file by sendfile(2), ranges too; prints its port.

The kernel copies: the server's share of the machine is about that of nginx.
"""

import os
import re
import socket
import sys
import threading
from pathlib import Path

_RANGE = re.compile(rb"\r\nRange: *bytes=(\d+)-(\d*)\r\n", re.IGNORECASE)
_HEAD = 1 << 16


def main() -> None:
    file = os.open(Path(sys.argv[1]), os.O_RDONLY)
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listening:
        print(listening.getsockname()[1], flush=True)
        while True:
            connection, _ = listening.accept()
            threading.Thread(target=_serve, args=(connection, file), daemon=True).start()


def _serve(connection: socket.socket, file: int) -> None:
    """Answer the requests of one connection until the client leaves."""
    size = os.fstat(file).st_size
    with connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            while request := connection.recv(_HEAD):
                asked = _RANGE.search(request)
                start = int(asked[1]) if asked else 0
                end = int(asked[2]) + 1 if asked and asked[2] else size
                lines = [
                    "HTTP/1.1 206 Partial Content" if asked else "HTTP/1.1 200 OK",
                    f"Content-Length: {end - start}",
                    f'ETag: "{size}"',
                    *([f"Content-Range: bytes {start}-{end - 1}/{size}"] if asked else []),
                ]
                connection.sendall("\r\n".join([*lines, "", ""]).encode())
                while start < end:
                    start += os.sendfile(connection.fileno(), file, start, end - start)
        except ConnectionError:
            return  # the client has what it wanted


if __name__ == "__main__":
    main()
