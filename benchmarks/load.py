"""Load where wrk is not installed: `benchmarks.load PORT FILE LENGTH CONNECTIONS SECONDS`.

It sends requests that were signed beforehand over kept connections, each once, and prints what
wrk's script would.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import quantiles
from typing import cast

_END_OF_HEAD = b"\r\n\r\n"


class _Connection(asyncio.Protocol):
    """One kept connection: the next request goes out when the last one is answered."""

    def __init__(self, load: _Load) -> None:
        self._load = load
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are no instances of it.
        self._transport = cast("asyncio.Transport", transport)
        self._next()

    def _next(self) -> None:
        request = self._load.take()
        if request is None:
            self._transport.close()
            return
        self._sent = time.monotonic()
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, found, rest = self._received.partition(_END_OF_HEAD)
        if not found or len(rest) < _length(head):
            return
        self._received = b""
        self._load.answered(head, time.monotonic() - self._sent)
        self._next()

    def connection_lost(self, exc: Exception | None) -> None:
        self._load.broken += exc is not None
        self._load.left()


class _Load:
    def __init__(self, requests: Iterator[bytes], connections: int, seconds: float) -> None:
        self.late: list[float] = []
        self.refused = self.broken = 0
        self._requests, self._open = requests, connections
        self._until = time.monotonic() + seconds
        self.done = asyncio.Event()

    def take(self) -> bytes | None:
        return next(self._requests, None) if time.monotonic() < self._until else None

    def answered(self, head: bytes, seconds: float) -> None:
        self.late.append(seconds)
        self.refused += head[9:10] != b"2"

    def left(self) -> None:
        self._open -= 1
        if not self._open:
            self.done.set()


def _length(head: bytes) -> int:
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return int(line.partition(b":")[2])
    return 0


async def _run(
    port: int, requests: Iterator[bytes], connections: int, seconds: float
) -> dict[str, float]:
    loop = asyncio.get_running_loop()
    began = time.monotonic()
    load = _Load(requests, connections, seconds)
    for _ in range(connections):
        await loop.create_connection(lambda: _Connection(load), "127.0.0.1", port)
    await load.done.wait()
    spent = time.monotonic() - began
    late = quantiles(load.late, n=100, method="inclusive")
    return {
        "requests": len(load.late),
        "microseconds": spent * 1e6,
        "refused": load.refused,
        "broken": load.broken,
        "p50": late[49] * 1e3,
        "p99": late[98] * 1e3,
    }


def main() -> None:
    """Send, and print one line of JSON."""
    port, path, length, connections, seconds = sys.argv[1:]
    size, content = int(length), Path(path).read_bytes()
    requests = (content[at : at + size] for at in range(0, len(content), size))
    factory: Callable[[], asyncio.AbstractEventLoop] | None = None
    with contextlib.suppress(ImportError):
        from uvloop import new_event_loop  # noqa: PLC0415 - not on every platform

        factory = new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        told = runner.run(_run(int(port), requests, int(connections), float(seconds)))
    print(json.dumps(told))


if __name__ == "__main__":
    main()
