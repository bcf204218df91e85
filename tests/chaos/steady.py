"""Good deliveries at a fixed pace until told to end: `python -m tests.chaos.steady PORT RATE`.

Each is due at an instant of its own, whatever became of those before it, and its latency counts
from there: a server that stalls is late for all that were due meanwhile. It prints a line for each:
when it was due, how many seconds it took, and the status.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import sys
import time
from dataclasses import dataclass, field

from tests.attacks import request

SENDERS = 32
_FIRST_AFTER = 0.2


@dataclass(frozen=True)
class Sample:
    """One delivery; status 0 where the connection broke."""

    due: float
    seconds: float
    status: int


@dataclass
class Steady:
    """Sends over kept connections, each delivery with an id of its own."""

    port: int
    rate: float
    stopping: bool = False
    samples: list[Sample] = field(default_factory=list[Sample])
    _number: int = 0

    async def run(self) -> None:
        began = time.monotonic() + _FIRST_AFTER
        await asyncio.gather(*(self._send(began) for _ in range(SENDERS)))

    async def _send(self, began: float) -> None:
        streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        while not self.stopping:
            number, self._number = self._number, self._number + 1
            due = began + number / self.rate
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            status = 0
            try:
                streams = streams or await asyncio.open_connection("127.0.0.1", self.port)
                status = await _deliver(number, *streams)
            except (OSError, EOFError):
                streams = None
            self.samples.append(Sample(due, time.monotonic() - due, status))
        if streams is not None:
            streams[1].close()


async def _deliver(number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> int:
    body = json.dumps({"cents": 5, "order": f"order-{number}"}).encode()
    writer.write(request(body, path="/webhooks/orders", close=False))
    head = await reader.readuntil(b"\r\n\r\n")
    length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
    await reader.readexactly(length)
    return int(head[9:12])


async def _main(port: int, rate: float) -> None:
    steady = Steady(port, rate)
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, setattr, steady, "stopping", True)
    await steady.run()
    for one in steady.samples:
        with contextlib.suppress(BrokenPipeError):
            print(one.due, one.seconds, one.status)


def read(told: str) -> list[Sample]:
    """Return what a process of these has printed."""
    lines = [line.split() for line in told.splitlines()]
    return [Sample(float(due), float(took), int(status)) for due, took, status in lines]


if __name__ == "__main__":
    asyncio.run(_main(int(sys.argv[1]), float(sys.argv[2])))
