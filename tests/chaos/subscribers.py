"""Subscribers that come back whenever their server dies.

`python -m tests.chaos.subscribers PORT SEQ`: each begins after the commit SEQ. What each wants is
read from standard input, a query a line, up to an empty line; the next line is the number of the
commit up to which they listen. A line of JSON is printed for each: how many events it has heard, a
digest of their ids in order, whether any came out of order or twice, how often it has come back
and how often it was told `reset`.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
import sys
from dataclasses import dataclass, field
from typing import Any

PAUSE = 0.5


def place_of(id_: str) -> tuple[int, int]:
    """Return an event's place in the order of commits."""
    seq, _, item = id_.partition(":")
    return int(seq), int(item) if item else 1 << 40


@dataclass
class Subscriber:
    """One of them."""

    port: int
    query: str
    at: str
    is_connected: bool = False
    count: int = 0
    resumed: int = 0
    resets: int = 0
    wrong: list[str] = field(default_factory=list[str])
    until: int | None = None
    _digest: Any = field(default_factory=hashlib.sha256)

    @property
    def is_done(self) -> bool:
        # A heartbeat says that all of a commit was told.
        return self.until is not None and place_of(self.at) >= place_of(str(self.until))

    async def run(self) -> dict[str, Any]:
        while not self.is_done:
            try:
                await self._listen()
            except (OSError, EOFError):
                self.resumed += 1
            await asyncio.sleep(random.random() * PAUSE)
        told = (self.count, self._digest.hexdigest(), self.wrong[:3], self.resumed, self.resets)
        return dict(zip(("count", "digest", "wrong", "resumed", "resets"), told, strict=True))

    async def _listen(self) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port, limit=1 << 22)
        try:
            writer.write(
                f"GET /api/v1/workers/subscribe{self.query} HTTP/1.0\r\n"
                f"Host: localhost\r\nLast-Event-ID: {self.at}\r\n\r\n".encode()
            )
            head = await reader.readuntil(b"\r\n\r\n")
            if b" 200 " not in head[:15]:
                self.wrong.append(head[:80].decode("latin-1"))
                return
            self.is_connected = True
            while not self.is_done:
                self._hear((await reader.readuntil(b"\n\n")).decode())
        finally:
            writer.close()

    def _hear(self, block: str) -> None:
        id_ = event = ""
        for line in block.splitlines():
            name, _, value = line.partition(": ")
            if name == "id":
                id_ = value
            elif name == "event":
                event = value
        if event == "reset":
            self.resets += 1
        elif event == "execution.updated":
            if place_of(id_) <= place_of(self.at):
                self.wrong.append(f"{id_} after {self.at}")
            self.count += 1
            self._digest.update(f"{id_} ".encode())
        if id_:
            self.at = id_


async def main(port: int, start: str) -> None:
    read = asyncio.to_thread
    queries: list[str] = []
    while line := (await read(sys.stdin.readline)).strip():
        queries.append("" if line == "*" else f"?{line}")
    everyone = [Subscriber(port, query, start) for query in queries]
    listening = [asyncio.create_task(one.run()) for one in everyone]
    while not all(one.is_connected for one in everyone):
        await asyncio.sleep(0.1)
    print("listening", flush=True)
    until = int(await read(sys.stdin.readline))
    for one in everyone:
        one.until = until
    for told in await asyncio.gather(*listening):
        print(json.dumps(told))


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), sys.argv[2]))
