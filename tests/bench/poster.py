"""A light client: posts ready requests from files, a connection for each, and prints how long the answers took.

``python -m tests.bench.poster PORT FILE…``. Nothing but sockets, so that it is the receiver that is measured.
"""

from __future__ import annotations

import json
import socket
import struct
import sys
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

_LENGTH = struct.Struct("!Q")


def write(files: Sequence[Path], posts: Iterable[tuple[str, bytes, dict[str, str]]]) -> int:
    """Write posts (path, body, headers) as ready requests to the files in turn; return how many."""
    opened = [file.open("wb") for file in files]
    number = 0
    for path, body, headers in posts:
        head = "".join(f"{name}: {value}\r\n" for name, value in {**headers, "Content-Length": len(body)}.items())
        request = f"POST {path} HTTP/1.1\r\nHost: localhost\r\n{head}\r\n".encode() + body
        opened[number % len(files)].write(_LENGTH.pack(len(request)) + request)
        number += 1
    for file in opened:
        file.close()
    return number


def _post(port: int, file: Path) -> list[float]:
    """Post what is in a file, one after the other; return the seconds until each answer."""
    took: list[float] = []
    with socket.create_connection(("127.0.0.1", port), timeout=120) as connection, file.open("rb") as requests:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while head := requests.read(_LENGTH.size):
            request = requests.read(_LENGTH.unpack(head)[0])
            began = time.perf_counter()
            connection.sendall(request)
            answer = b""
            while not answer.endswith(b"\r\n\r\n"):
                answer += connection.recv(4096) or b"HTTP/1.1 000 closed\r\n\r\n"
            took.append(time.perf_counter() - began)
            if not answer.startswith(b"HTTP/1.1 204 "):
                raise SystemExit(f"the receiver answered {answer[:40]!r}")
    return took


def main(port: int, files: Sequence[Path]) -> None:
    """Post what is in all files at once."""
    began = time.perf_counter()
    with ThreadPoolExecutor(len(files)) as pool:
        took = [each for share in pool.map(partial(_post, port), files) for each in share]
    json.dump({"seconds": time.perf_counter() - began, "took": took}, sys.stdout)


if __name__ == "__main__":
    main(int(sys.argv[1]), [Path(name) for name in sys.argv[2:]])
