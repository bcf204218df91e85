"""Everything that attackers send to a webhook edge, over and over, from a process of its own.

`python -m tests.chaos.attackers PORT SECONDS` tells, as JSON on its last line, how often each
status was answered, and which attacks were told something that they must not be.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
import time
from collections import Counter
from dataclasses import dataclass, field

from tests.attacks import BODY, QUICK, attack, request, statuses

# At a time: those that go through the list, that are slow, that flood, that come and go.
WALKERS = 6
SLOW = 200
FLOODERS = 4
FLICKERS = 2
# A list that is gone through without a pause is a test of the machine, not of the server.
PAUSE = 0.01

_HEAD = b"POST /webhooks/payment HTTP/1.1\r\nHost: localhost\r\n"
_DRIPS = (
    (b"", b""),
    (_HEAD, b"X: y\r\n"),
    (_HEAD + b"Content-Length: 100000\r\n\r\n", b"x"),
    (_HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n"),
    (_HEAD + b"Content-Length: 1000000\r\n\r\n" + b"x" * 100_000, b"x"),
)


@dataclass
class Attackers:
    """What they have sent, and what they were told."""

    port: int
    until: float
    told: Counter[str] = field(default_factory=Counter[str])
    wrong: set[str] = field(default_factory=set[str])

    async def run(self) -> None:
        walkers = (self._walk(number) for number in range(WALKERS))
        slow = (self._drip(number) for number in range(SLOW))
        flooders = (self._flood() for _ in range(FLOODERS))
        flickers = (self._flicker() for _ in range(FLICKERS))
        await asyncio.gather(*walkers, *slow, *flooders, *flickers)

    @property
    def _goes_on(self) -> bool:
        return time.monotonic() < self.until

    async def _walk(self, number: int) -> None:
        """Go through the list, each from another place."""
        place = number * len(QUICK) // WALKERS
        while self._goes_on:
            one = QUICK[place % len(QUICK)]
            place += 1
            try:
                told = await attack(self.port, one)
            except OSError as error:  # a TimeoutError is one too
                self.told[type(error).__name__] += 1
                continue
            self.told.update(map(str, told))
            if told not in one.told:
                self.wrong.add(f"{one.name}: {told}")
            await asyncio.sleep(PAUSE)

    async def _drip(self, number: int) -> None:
        """Send hardly anything, and come back when it was ended."""
        first, then = _DRIPS[number % len(_DRIPS)]
        while self._goes_on:
            with contextlib.suppress(OSError):
                reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
                writer.write(first)
                reading = asyncio.create_task(statuses(reader))
                while not reading.done() and self._goes_on:
                    writer.write(then)
                    await asyncio.sleep(0.5)
                writer.close()
                with contextlib.suppress(OSError, asyncio.CancelledError):
                    reading.cancel() if not reading.done() else self.told.update(
                        map(str, await reading)
                    )
            await asyncio.sleep(0.5)

    async def _flood(self) -> None:
        """Send what is signed wrongly, small and large, on a connection that is kept."""
        large = b'{"a":"' + b"x" * 1_000_000 + b'"}'
        bodies = (BODY, BODY, BODY, BODY, BODY, BODY, BODY, large)
        while self._goes_on:
            with contextlib.suppress(OSError, EOFError):
                reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
                for body in bodies:
                    writer.write(request(body, sign=b"other", close=False))
                    await writer.drain()
                    head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 20)
                    length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
                    await reader.readexactly(length)
                    self.told[head[9:12].decode()] += 1
                    await asyncio.sleep(PAUSE)
                writer.close()

    async def _flicker(self) -> None:
        """Come and go, with nothing said, half a head, half a body, or no wish for the answer."""
        halves = (b"", _HEAD, _HEAD + b"Content-Length: 50\r\n\r\n{", request(close=False))
        while self._goes_on:
            for half in halves:
                with contextlib.suppress(OSError):
                    _reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
                    writer.write(half)
                    writer.transport.abort() if half else writer.close()
                await asyncio.sleep(PAUSE)


def main(port: int, seconds: float) -> None:
    """Attack for so long."""
    os.nice(10)  # they are on other machines, really
    attackers = Attackers(port, time.monotonic() + seconds)
    asyncio.run(attackers.run())
    print(json.dumps({"told": attackers.told, "wrong": sorted(attackers.wrong)}))


if __name__ == "__main__":
    main(int(sys.argv[1]), float(sys.argv[2]))
